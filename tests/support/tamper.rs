//! A server that does to a response what the request asks for, which no handler can.

use std::task::{Context, Poll};

use futures_util::{TryFutureExt as _, TryStreamExt as _, future::MapOk};
use http::{HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use tonic::{
    body::Body,
    metadata::{Ascii, MetadataValue},
};
use tower::{Layer, Service};

/// Says what is done to the response: [`UNKNOWN_ENCODING`] or [`NO_STATUS`].
pub const TAMPER: &str = "x-test-tamper";
/// The response names an encoding that nobody has.
pub const UNKNOWN_ENCODING: &str = "unknown-encoding";
/// The response ends without trailers.
pub const NO_STATUS: &str = "no-status";

/// What a handler left in its response's extensions comes back in the header [`LEFT`].
#[derive(Clone, Debug)]
pub struct Left(pub MetadataValue<Ascii>);
pub const LEFT: &str = "x-test-left";

#[derive(Clone, Copy, Debug)]
pub struct TamperLayer;

impl<S> Layer<S> for TamperLayer {
    type Service = Tamper<S>;

    fn layer(&self, inner: S) -> Tamper<S> {
        Tamper(inner)
    }
}

#[derive(Clone, Debug)]
pub struct Tamper<S>(S);

type Finish = Box<dyn FnOnce(Response<Body>) -> Response<Body> + Send>;

impl<S> Service<Request<Body>> for Tamper<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = MapOk<S::Future, Finish>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let wanted = request.headers().get(TAMPER).cloned();
        let finish: Finish = Box::new(move |mut response| {
            if let Some(Left(left)) = response.extensions_mut().remove() {
                let left = HeaderValue::from_bytes(left.as_bytes()).expect("ASCII");
                response.headers_mut().insert(LEFT, left);
            }
            match wanted.as_ref().map(HeaderValue::as_bytes) {
                Some(wanted) if wanted == UNKNOWN_ENCODING.as_bytes() => {
                    let encoding = HeaderValue::from_static("br");
                    response.headers_mut().insert("grpc-encoding", encoding);
                    response
                }
                Some(wanted) if wanted == NO_STATUS.as_bytes() => response.map(|body| {
                    let data = body.into_data_stream().map_ok(Frame::data);
                    Body::new(StreamBody::new(data))
                }),
                _ => response,
            }
        });
        self.0.call(request).map_ok(finish)
    }
}

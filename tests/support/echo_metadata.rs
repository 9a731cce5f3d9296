//! The interop server's habit with metadata: one header comes back in the head, one in the trailers.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures_util::{TryFutureExt, future::MapOk};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use http_body::Frame;
use tonic::{Status, body::Body};
use tower::{Layer, Service};

/// Comes back in the response's head.
pub const INITIAL: &str = "x-grpc-test-echo-initial";
/// Comes back in the trailers.
pub const TRAILING: &str = "x-grpc-test-echo-trailing-bin";

/// Server layer that echoes [`INITIAL`] and [`TRAILING`], every value of them, in order.
#[derive(Clone, Copy, Debug)]
pub struct EchoMetadataLayer;

impl<S> Layer<S> for EchoMetadataLayer {
    type Service = EchoMetadata<S>;

    fn layer(&self, inner: S) -> EchoMetadata<S> {
        EchoMetadata(inner)
    }
}

#[derive(Clone, Debug)]
pub struct EchoMetadata<S>(S);

type Finish = Box<dyn FnOnce(Response<Body>) -> Response<Body> + Send>;

impl<S> Service<Request<Body>> for EchoMetadata<S>
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
        let initial = copy(request.headers(), HeaderName::from_static(INITIAL));
        let trailing = copy(request.headers(), HeaderName::from_static(TRAILING));
        let finish: Finish = Box::new(move |mut response| {
            response.headers_mut().extend(initial);
            if trailing.is_empty() {
                return response;
            }
            response.map(|inner| Body::new(WithTrailers { inner, trailing }))
        });
        self.0.call(request).map_ok(finish)
    }
}

fn copy(from: &HeaderMap, name: HeaderName) -> HeaderMap<HeaderValue> {
    from.get_all(&name)
        .iter()
        .map(|value| (name.clone(), value.clone()))
        .collect()
}

/// Adds to the trailers that the handler ends with.
struct WithTrailers {
    inner: Body,
    trailing: HeaderMap,
}

impl http_body::Body for WithTrailers {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let mut frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        if let Some(Ok(frame)) = &mut frame
            && let Some(trailers) = frame.trailers_mut()
        {
            trailers.extend(std::mem::take(&mut self.trailing));
        }
        Poll::Ready(frame)
    }
}

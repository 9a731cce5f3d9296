//! What really arrived: encoding header, and the compressed flag in front of every gRPC message.

use std::{
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, Uri};
use http_body::{Frame, SizeHint};
use tonic::{Status, body::Body};
use tower::{Layer, Service};

/// What one side received of one call.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// The `grpc-encoding` header.
    pub encoding: Option<String>,
    /// Messages whose prefix arrived.
    pub messages: u64,
    /// Those of them whose flag says compressed.
    pub compressed: u64,
    /// Bytes of body, prefixes and all.
    pub bytes: u64,
    /// Bytes in the largest DATA frame.
    pub largest_frame: u64,
}

/// A [`Tally`] that grows while the body passes. The server finds it in the request's extensions.
#[derive(Clone, Debug, Default)]
pub struct Arrived(Arc<Mutex<Tally>>);

impl Arrived {
    pub fn tally(&self) -> Tally {
        self.0.lock().expect("no test panics in here").clone()
    }

    pub(super) fn begin(&self, headers: &HeaderMap) {
        let encoding = headers
            .get("grpc-encoding")
            .map(|value| String::from_utf8_lossy(value.as_bytes()).into_owned());
        *self.0.lock().expect("no test panics in here") = Tally {
            encoding,
            ..Tally::default()
        };
    }

    pub(super) fn watch(&self, body: Body) -> Body {
        Body::new(Watched {
            inner: body,
            prefix: Vec::with_capacity(5),
            left: 0,
            arrived: self.clone(),
        })
    }
}

/// A body that counts the messages in it.
struct Watched {
    inner: Body,
    /// The part of a message's five-byte prefix that has come.
    prefix: Vec<u8>,
    /// What is still to come of the message.
    left: usize,
    arrived: Arrived,
}

impl Watched {
    fn read(&mut self, mut data: &[u8]) {
        let mut tally = self.arrived.0.lock().expect("no test panics in here");
        tally.bytes += data.len() as u64;
        tally.largest_frame = tally.largest_frame.max(data.len() as u64);
        while !data.is_empty() {
            let skipped = self.left.min(data.len());
            self.left -= skipped;
            data = &data[skipped..];
            if self.left > 0 || data.is_empty() {
                continue;
            }
            let taken = (5 - self.prefix.len()).min(data.len());
            self.prefix.extend_from_slice(&data[..taken]);
            data = &data[taken..];
            if let [flag, length @ ..] = self.prefix.as_slice()
                && let Ok(length) = <[u8; 4]>::try_from(length)
            {
                self.left = u32::from_be_bytes(length) as usize;
                tally.messages += 1;
                tally.compressed += u64::from(*flag == 1);
                self.prefix.clear();
            }
        }
    }
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.inner).poll_frame(cx));
        if let Some(Ok(frame)) = &frame
            && let Some(data) = frame.data_ref()
        {
            self.read(data);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

/// Where a request went, scheme and authority and all. The server finds it in the request's extensions.
#[derive(Clone, Debug)]
pub struct Target(pub Uri);

/// Server layer: puts [`Arrived`] and [`Target`] into the extensions of every request.
#[derive(Clone, Copy, Debug)]
pub struct ArrivedLayer;

impl<S> Layer<S> for ArrivedLayer {
    type Service = ArrivedService<S>;

    fn layer(&self, inner: S) -> ArrivedService<S> {
        ArrivedService(inner)
    }
}

#[derive(Clone, Debug)]
pub struct ArrivedService<S>(S);

impl<S> Service<Request<Body>> for ArrivedService<S>
where
    S: Service<Request<Body>, Response = Response<Body>>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> S::Future {
        let arrived = Arrived::default();
        arrived.begin(request.headers());
        let mut request = request.map(|body| arrived.watch(body));
        let target = Target(request.uri().clone());
        request.extensions_mut().insert(arrived);
        request.extensions_mut().insert(target);
        self.0.call(request)
    }
}

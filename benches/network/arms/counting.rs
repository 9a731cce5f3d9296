//! Counts the bytes of bodies as they arrive: a rate of whole messages of a mebibyte would be too coarse for a slow link.

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use bytes::Bytes;
use futures_util::{FutureExt, TryFutureExt, future::BoxFuture};
use http::{Request, Response};
use http_body::{Body as HttpBody, Frame, SizeHint};
use tonic::{Status, body::Body, server::NamedService};
use tower::Service;

/// Counts what comes in: a server's requests or a client's responses.
#[derive(Clone)]
pub struct Counting<S> {
    inner: S,
    bytes: Arc<AtomicU64>,
    requests: bool,
}

impl<S> Counting<S> {
    pub fn requests(inner: S, bytes: Arc<AtomicU64>) -> Self {
        Self {
            inner,
            bytes,
            requests: true,
        }
    }

    pub fn responses(inner: S, bytes: Arc<AtomicU64>) -> Self {
        Self {
            inner,
            bytes,
            requests: false,
        }
    }
}

impl<S: NamedService> NamedService for Counting<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<Request<Body>> for Counting<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Future: Send + 'static>,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Response<Body>, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let bytes = self.bytes.clone();
        if self.requests {
            let request = request.map(|inner| Body::new(Counted { inner, bytes }));
            return self.inner.call(request).boxed();
        }
        let counted = move |response: Response<Body>| {
            response.map(|inner| Body::new(Counted { inner, bytes }))
        };
        self.inner.call(request).map_ok(counted).boxed()
    }
}

struct Counted {
    inner: Body,
    bytes: Arc<AtomicU64>,
}

impl HttpBody for Counted {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = Pin::new(&mut self.inner).poll_frame(cx);
        if let Poll::Ready(Some(Ok(frame))) = &frame
            && let Some(data) = frame.data_ref()
        {
            self.bytes.fetch_add(data.len() as u64, Ordering::Relaxed);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

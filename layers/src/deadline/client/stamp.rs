use std::task::{Context, Poll};

use http::Request;
use tower::{Layer, Service};

use crate::{Deadline, clock, deadline::header};

/// Writes the time left of a call's [`Deadline`] into `grpc-timeout` when the call leaves.
///
/// Put it innermost, below all layers that hold a call back in its future: a breaker, a selection, a retry, a buffer. The header then excludes
/// all time that the call waited. A [`DeadlineLayer`](super::DeadlineLayer) by itself has one beneath it already.
///
/// A call without a `Deadline` in its extensions keeps its header. Readiness and cancellation are the inner service's.
#[derive(Clone, Copy, Debug, Default)]
pub struct StampLayer;

impl<S> Layer<S> for StampLayer {
    type Service = Stamp<S>;

    fn layer(&self, inner: S) -> Stamp<S> {
        Stamp { inner, on: true }
    }
}

impl<S> Stamp<S> {
    /// Writes nothing, over a service that stamps calls itself.
    pub fn off(inner: S) -> Self {
        Self { inner, on: false }
    }
}

/// The service that [`StampLayer`] makes.
#[derive(Clone, Copy, Debug)]
pub struct Stamp<S> {
    inner: S,
    on: bool,
}

impl<S, B> Service<Request<B>> for Stamp<S>
where
    S: Service<Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    #[inline]
    fn call(&mut self, mut request: Request<B>) -> S::Future {
        if self.on
            && let Some(deadline) = request.extensions().get::<Deadline>().copied()
        {
            let left = deadline.left_at(clock::now());
            header::write(request.headers_mut(), left);
        }
        self.inner.call(request)
    }
}

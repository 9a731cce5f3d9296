use std::{
    fmt, mem,
    task::{Context, Poll, ready},
    time::Duration,
};

use http::{Request, Response};
use http_body::Body;
use tower::Service;

use super::{Attempt, BreakerBody, BreakerFuture, BreakerLayer, Circuit, waiter::Waiter};
use crate::BoxError;

/// The service that [`BreakerLayer`](super::BreakerLayer) makes.
pub struct Breaker<S> {
    inner: S,
    waiter: Waiter,
    /// The longest that a call waits in its future.
    max_wait: Option<Duration>,
    /// The inner service's readiness failed; the next call says so.
    failed: Option<BoxError>,
}

impl<S> Breaker<S> {
    /// Puts `circuit` before `inner`.
    pub fn new(inner: S, circuit: Circuit) -> Self {
        Self {
            inner,
            waiter: Waiter::new(circuit),
            max_wait: Some(BreakerLayer::MAX_WAIT),
            failed: None,
        }
    }

    /// The longest that a call waits that was let through by `poll_ready` and then lost the probe's permit to another call, or found the circuit
    /// open. Then it fails with UNAVAILABLE and was not sent. 2 s unless set; `None` for as long as its caller waits. Give it the wait of the fail
    /// fast above.
    pub fn max_wait(mut self, wait: impl Into<Option<Duration>>) -> Self {
        self.max_wait = wait.into();
        self
    }

    /// The circuit.
    pub fn circuit(&self) -> &Circuit {
        self.waiter.circuit()
    }
}

impl<S: Clone> Breaker<S> {
    /// The inner service is not called, or not yet.
    #[cold]
    fn not_called<B>(
        &mut self,
        request: Request<B>,
        attempt: Option<Attempt>,
    ) -> BreakerFuture<S, B>
    where
        S: Service<Request<B>>,
    {
        if let Some(error) = self.failed.take() {
            return BreakerFuture::failed(error, attempt);
        }
        // The clone has no readiness; the one that has goes with the call.
        let clone = self.inner.clone();
        let inner = mem::replace(&mut self.inner, clone);
        BreakerFuture::waiting(inner, request, self.circuit().clone(), self.max_wait)
    }
}

impl<S: Clone> Clone for Breaker<S> {
    /// A clone carries no readiness: it has neither waited nor been let through.
    fn clone(&self) -> Self {
        Self::new(self.inner.clone(), self.circuit().clone()).max_wait(self.max_wait)
    }
}

impl<S: fmt::Debug> fmt::Debug for Breaker<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Breaker")
            .field("inner", &self.inner)
            .field("circuit", self.circuit())
            .finish_non_exhaustive()
    }
}

impl<S, B, R> Service<Request<B>> for Breaker<S>
where
    S: Service<Request<B>, Response = Response<R>> + Clone,
    S::Error: Into<BoxError>,
    R: Body,
    R::Error: Into<BoxError>,
{
    type Response = Response<BreakerBody<R>>;
    type Error = BoxError;
    type Future = BreakerFuture<S, B>;

    /// Never an error: one of the inner service's is the next call's, where it counts.
    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        ready!(self.waiter.poll_ready(cx));
        // One from an earlier poll may have healed since.
        self.failed = ready!(self.inner.poll_ready(cx)).err().map(Into::into);
        Poll::Ready(Ok(()))
    }

    #[inline]
    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        match self.circuit().enter() {
            // Made before the call, so that a panic in there gives the permit back.
            Some(mut attempt) if self.failed.is_none() => {
                let deadline = attempt.begin(&mut request);
                BreakerFuture::running(self.inner.call(request), attempt, deadline)
            }
            attempt => self.not_called(request, attempt),
        }
    }
}

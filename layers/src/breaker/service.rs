use std::{
    fmt, mem,
    task::{Context, Poll, ready},
    time::Duration,
};

use http::{Request, Response};
use http_body::Body;
use tower::Service;

use super::{Attempt, BreakerBody, BreakerFuture, BreakerLayer, Circuit, waiter::Waiter};
use crate::{
    BoxError, Deadline,
    classify::{Recorder, Tracking},
    clock,
    setters::setters,
};

/// The service that [`BreakerLayer`](super::BreakerLayer) makes.
pub struct Breaker<S, M = ()> {
    inner: S,
    waiter: Waiter,
    /// Records each attempt beside the circuit.
    recorder: M,
    /// The longest that a call waits in its future.
    max_wait: Option<Duration>,
    /// A readiness error of the inner service, for the next call.
    failed: Option<BoxError>,
}

impl<S> Breaker<S> {
    /// Puts `circuit` before `inner`.
    pub fn new(inner: S, circuit: Circuit) -> Self {
        Self::of(inner, circuit, Some(BreakerLayer::MAX_WAIT), ())
    }
}

impl<S, M> Breaker<S, M> {
    pub(super) fn of(inner: S, circuit: Circuit, max_wait: Option<Duration>, recorder: M) -> Self {
        Self {
            inner,
            waiter: Waiter::new(circuit),
            recorder,
            max_wait,
            failed: None,
        }
    }

    setters! {
        /// The longest wait of a call that `poll_ready` let through and that then lost the probe's permit to another call, or found the circuit open.
        /// After it the call fails with UNAVAILABLE and was not sent. 2 s unless set; `None` waits as long as the caller. Set it to the wait of the
        /// fail fast above.
        pub fn max_wait(wait: impl Into<Option<Duration>>) => max_wait = wait.into();
    }

    /// The circuit.
    pub fn circuit(&self) -> &Circuit {
        self.waiter.circuit()
    }
}

impl<S: Clone, M: Clone> Clone for Breaker<S, M> {
    /// A clone carries no readiness: it has neither waited nor been let through.
    fn clone(&self) -> Self {
        let (inner, circuit) = (self.inner.clone(), self.circuit().clone());
        Self::of(inner, circuit, self.max_wait, self.recorder.clone())
    }
}

impl<S: fmt::Debug, M> fmt::Debug for Breaker<S, M> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Breaker")
            .field("inner", &self.inner)
            .field("circuit", self.circuit())
            .finish_non_exhaustive()
    }
}

impl<S, B, R, M> Service<Request<B>> for Breaker<S, M>
where
    S: Service<Request<B>, Response = Response<R>> + Clone,
    S::Error: Into<BoxError>,
    R: Body,
    R::Error: Into<BoxError>,
    M: Recorder,
{
    type Response = Response<BreakerBody<R, M::Observer>>;
    type Error = BoxError;
    type Future = BreakerFuture<S, B, M::Observer>;

    /// Never an error: a readiness error of the inner service is the next call's error, where it counts.
    #[inline]
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        ready!(self.waiter.poll_ready(cx));
        // An error from an earlier poll may be over.
        self.failed = ready!(self.inner.poll_ready(cx)).err().map(Into::into);
        Poll::Ready(Ok(()))
    }

    #[inline]
    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let attempt = self.circuit().enter();
        let is_let_in = attempt.is_some();
        let failed = self.failed.take();
        let mut tracking = clock::frozen(|| {
            // An attempt that decides nothing needs no clock read, and an error that is there already took no time.
            let decides = attempt.as_ref().is_some_and(Attempt::has_a_say);
            let deadline = match failed.is_none() && (decides || self.recorder.records()) {
                true => Deadline::of(&request),
                false => None,
            };
            Tracking::new((self.recorder.begin(&request), None), deadline)
        });
        if let Some(attempt) = attempt {
            attempt.begin(&mut request, &mut tracking);
        }
        match (failed, is_let_in) {
            // It counts if the call was let in.
            (Some(error), _) => BreakerFuture::failed(error, tracking),
            // Followed before the call, so that a panic in there gives the permit back.
            (None, true) => BreakerFuture::running(self.inner.call(request), tracking),
            (None, false) => {
                // The clone has no readiness; the one that has goes with the call.
                let clone = self.inner.clone();
                let inner = mem::replace(&mut self.inner, clone);
                let circuit = self.circuit().clone();
                BreakerFuture::waiting(inner, request, circuit, self.max_wait, tracking)
            }
        }
    }
}

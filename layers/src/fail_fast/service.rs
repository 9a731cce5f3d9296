use std::{
    fmt,
    future::Future,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::time::{Instant, Sleep, sleep_until};
use tower::Service;

use super::{FailFastConfig, FailFastFuture, shared::Shared};
use crate::BoxError;

/// The service that [`FailFastLayer`](super::FailFastLayer) makes.
pub struct FailFast<S> {
    inner: S,
    shared: Arc<Shared>,
    /// Whether it counts as waiting.
    waits: bool,
    /// While it waits.
    timer: Option<Pin<Box<Sleep>>>,
    /// The error of the next call, if `poll_ready` was ready only to report it.
    failed: Option<Failed>,
}

/// Why the next call fails.
enum Failed {
    /// No service has been ready since then.
    Since(Instant),
    /// The inner service's readiness failed.
    Inner(BoxError),
}

impl<S> FailFast<S> {
    /// Wraps `inner` with a new state, which clones share.
    pub fn new(inner: S, config: FailFastConfig) -> Self {
        Self::with(inner, Arc::new(Shared::new(config)))
    }

    fn with(inner: S, shared: Arc<Shared>) -> Self {
        Self {
            inner,
            shared,
            waits: false,
            timer: None,
            failed: None,
        }
    }

    /// Whether calls fail at once now.
    pub fn is_failing(&self) -> bool {
        self.shared.is_failing()
    }
}

impl<S: Clone> Clone for FailFast<S> {
    /// A clone carries no readiness: it neither waits nor has a result.
    fn clone(&self) -> Self {
        Self::with(self.inner.clone(), self.shared.clone())
    }
}

impl<S> Drop for FailFast<S> {
    fn drop(&mut self) {
        self.shared.leave(&mut self.waits);
    }
}

impl<S: fmt::Debug> fmt::Debug for FailFast<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FailFast")
            .field("inner", &self.inner)
            .field("is_failing", &self.is_failing())
            .finish_non_exhaustive()
    }
}

impl<S, Req> Service<Req> for FailFast<S>
where
    S: Service<Req> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    Req: 'static,
{
    type Response = S::Response;
    type Error = BoxError;
    type Future = FailFastFuture<S::Future>;

    /// Never an error, and never `Pending` for longer than the wait: the next call reports the error. This bounds readiness only. A
    /// call that the inner service takes and then holds waits in its future under its own deadline.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        // An earlier result may be outdated.
        self.failed = None;
        loop {
            if self.shared.is_failing()
                && let Some(since) = self.shared.failing_since()
            {
                if self.waits {
                    // The service that waited may hold a queue position that it would never use.
                    self.inner = self.inner.clone();
                    self.shared.leave(&mut self.waits);
                    self.timer = None;
                }
                self.failed = Some(Failed::Since(since));
                return Poll::Ready(Ok(()));
            }
            if let Poll::Ready(ready) = self.inner.poll_ready(cx) {
                self.shared.ready(Instant::now, &mut self.waits);
                self.timer = None;
                self.failed = ready.err().map(|error| Failed::Inner(error.into()));
                return Poll::Ready(Ok(()));
            }
            if self.shared.is_disabled() {
                return Poll::Pending;
            }
            let until = self.shared.not_ready(Instant::now(), &mut self.waits);
            let timer = self
                .timer
                .get_or_insert_with(|| Box::pin(sleep_until(until)));
            if timer.deadline() != until {
                timer.as_mut().reset(until);
            }
            ready!(timer.as_mut().poll(cx));
            self.shared.fail::<S, Req>(Instant::now(), &self.inner);
        }
    }

    fn call(&mut self, request: Req) -> Self::Future {
        match mem::take(&mut self.failed) {
            Some(Failed::Since(since)) => {
                let refusal = self.shared.refusal(since, Instant::now());
                FailFastFuture::failed(refusal.into())
            }
            Some(Failed::Inner(error)) => FailFastFuture::failed(error),
            None => FailFastFuture::call(self.inner.call(request)),
        }
    }
}

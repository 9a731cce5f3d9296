use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};
use tonic::Status;
use tower::Service;

use super::{AttemptObservers, BreakerBody, Circuit, waiter::Waiter};
use crate::{
    BoxError, Deadline, Fault, Origin,
    classify::{Ending, Observe, Tracking},
};

pin_project! {
    /// The future of a [`Breaker`](super::Breaker)'s call.
    ///
    /// Cancel safe: a dropped one leaves nothing behind, and its permit goes to the next call.
    #[must_use = "futures do nothing unless polled"]
    pub struct BreakerFuture<S, B, O = ()>
    where
        S: Service<Request<B>>,
        O: Observe,
    {
        #[pin]
        state: State<S, B, S::Future>,
        tracking: Tracking<AttemptObservers<O>>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<S, B, F> {
        Running {
            #[pin]
            future: F,
        },
        // `poll_ready` was ready, and then another call took the permit or the circuit opened.
        Waiting {
            waiter: Waiter,
            // In a box, so that the future of all others is no larger for it.
            held: Option<Box<Held<S, B>>>,
        },
        Failed {
            error: Option<BoxError>,
        },
    }
}

/// A call that waits, and how long it may.
struct Held<S, B> {
    inner: S,
    request: Request<B>,
    limit: Option<Limit>,
}

struct Limit {
    wait: Duration,
    until: Instant,
    /// From the first poll on.
    timer: Option<Pin<Box<Sleep>>>,
}

impl Limit {
    /// `None` for a wait that no clock can show.
    fn new(wait: Duration) -> Option<Self> {
        Some(Self {
            wait,
            until: Instant::now().checked_add(wait)?,
            timer: None,
        })
    }

    fn poll_over(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let until = self.until;
        let timer = self
            .timer
            .get_or_insert_with(|| Box::pin(sleep_until(until)));
        timer.as_mut().poll(cx)
    }
}

/// The error of a call that has waited for its limit. It says nothing about the peer, which has seen nothing of the call.
fn waited(wait: Duration, circuit: &Circuit) -> BoxError {
    let message = format!(
        "this call waited {wait:?} for the probe of another call, and was not sent: {}. \
         Try again later, or make it a call that waits for the peer",
        circuit.why()
    );
    Fault::unsent(Origin::Ours, Status::unavailable(message))
        .temporary()
        .into()
}

impl<S, B, O> BreakerFuture<S, B, O>
where
    S: Service<Request<B>>,
    O: Observe,
{
    #[inline]
    pub(super) fn running(future: S::Future, tracking: Tracking<AttemptObservers<O>>) -> Self {
        Self {
            state: State::Running { future },
            tracking,
        }
    }

    /// The inner service was not ready but failed, which is told at once.
    pub(super) fn failed(error: BoxError, mut tracking: Tracking<AttemptObservers<O>>) -> Self {
        tracking.failed(Ending::Error, &error);
        Self {
            state: State::Failed { error: Some(error) },
            tracking,
        }
    }

    pub(super) fn waiting(
        inner: S,
        request: Request<B>,
        circuit: Circuit,
        max_wait: Option<Duration>,
        tracking: Tracking<AttemptObservers<O>>,
    ) -> Self {
        let held = Held {
            inner,
            request,
            limit: max_wait.and_then(Limit::new),
        };
        Self {
            state: State::Waiting {
                waiter: Waiter::new(circuit),
                held: Some(Box::new(held)),
            },
            tracking,
        }
    }
}

impl<S, B, R, O> Future for BreakerFuture<S, B, O>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Error: Into<BoxError>,
    R: Body,
    R::Error: Into<BoxError>,
    O: Observe,
{
    type Output = Result<Response<BreakerBody<R, O>>, BoxError>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            if let StateProj::Running { future } = this.state.as_mut().project() {
                let result = ready!(future.poll(cx));
                return Poll::Ready(this.tracking.response(result));
            }
            if let Some(error) = ready!(this.state.as_mut().poll_begin(this.tracking, cx)) {
                return Poll::Ready(this.tracking.response(Err::<Response<R>, _>(error)));
            }
        }
    }
}

impl<S, B> State<S, B, S::Future>
where
    S: Service<Request<B>>,
{
    /// What does not run yet begins to, or fails.
    #[cold]
    fn poll_begin<O: Observe>(
        mut self: Pin<&mut Self>,
        tracking: &mut Tracking<AttemptObservers<O>>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<BoxError>> {
        match self.as_mut().project() {
            StateProj::Running { .. } => {}
            StateProj::Waiting { waiter, held } => {
                let Some(waits) = held else {
                    return Poll::Pending;
                };
                let Poll::Ready(attempt) = waiter.poll_enter(cx) else {
                    let Some(limit) = &mut waits.limit else {
                        return Poll::Pending;
                    };
                    ready!(limit.poll_over(cx));
                    let error = waited(limit.wait, waiter.circuit());
                    // The waiter goes with its state, and its waker with it.
                    self.set(State::Failed { error: None });
                    return Poll::Ready(Some(error));
                };
                tracking.restart(Deadline::of(&waits.request));
                attempt.begin(&mut waits.request, tracking);
                let Some(waits) = held.take() else {
                    return Poll::Pending;
                };
                let Held {
                    mut inner, request, ..
                } = *waits;
                let future = inner.call(request);
                self.set(State::Running { future });
            }
            StateProj::Failed { error } => match error.take() {
                Some(error) => return Poll::Ready(Some(error)),
                None => return Poll::Pending,
            },
        }
        Poll::Ready(None)
    }
}

impl<S, B, O> fmt::Debug for BreakerFuture<S, B, O>
where
    S: Service<Request<B>>,
    O: Observe,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BreakerFuture").finish_non_exhaustive()
    }
}

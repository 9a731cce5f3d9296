use std::{
    fmt,
    future::{Future, ready},
    pin::{Pin, pin},
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body::Body;
use http_body_util::Empty;
use pin_project_lite::pin_project;
use tokio::time::{Instant, Sleep, sleep_until};
use tonic::Status;
use tower::Service;

use super::{Attempt, BreakerBody, Circuit, waiter::Waiter};
use crate::{
    BoxError, Deadline, Fault, Origin,
    classify::{Tracked, track},
};

pin_project! {
    /// The future of a [`Breaker`](super::Breaker)'s call.
    ///
    /// Cancel safe in that a dropped one leaves nothing behind: a permit that it had goes to the next.
    #[must_use = "futures do nothing unless polled"]
    pub struct BreakerFuture<S, B>
    where
        S: Service<Request<B>>,
    {
        #[pin]
        state: State<S, B, S::Future>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<S, B, F> {
        Running {
            #[pin]
            tracked: Tracked<F, Attempt>,
        },
        // Was told that it is ready, and then another one took the permit or the circuit opened.
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

/// The error of a call that has waited for as long as it may. It says nothing of the peer, which has seen nothing of the call.
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

#[inline]
fn running<S, B, F>(future: F, attempt: Attempt, deadline: Option<Deadline>) -> State<S, B, F> {
    State::Running {
        tracked: track(future, attempt, deadline),
    }
}

/// Lets an attempt end with an error that was there before it began.
fn end_with(error: BoxError, attempt: Attempt) -> BoxError {
    let nothing = ready(Err::<Response<Empty<Bytes>>, _>(error));
    let ended = pin!(track(nothing, attempt, None));
    match ended.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Err(error)) => error,
        _ => Status::internal("an error that is there at once").into(),
    }
}

impl<S, B> BreakerFuture<S, B>
where
    S: Service<Request<B>>,
{
    #[inline]
    pub(super) fn running(future: S::Future, attempt: Attempt, deadline: Option<Deadline>) -> Self {
        Self {
            state: running(future, attempt, deadline),
        }
    }

    /// The inner service was not ready but failed; it counts if the call was let in.
    pub(super) fn failed(error: BoxError, attempt: Option<Attempt>) -> Self {
        let error = Some(match attempt {
            Some(attempt) => end_with(error, attempt),
            None => error,
        });
        Self {
            state: State::Failed { error },
        }
    }

    pub(super) fn waiting(
        inner: S,
        request: Request<B>,
        circuit: Circuit,
        max_wait: Option<Duration>,
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
        }
    }
}

impl<S, B, R> Future for BreakerFuture<S, B>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Error: Into<BoxError>,
    R: Body,
    R::Error: Into<BoxError>,
{
    type Output = Result<Response<BreakerBody<R>>, BoxError>;

    #[inline]
    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            if let StateProj::Running { tracked } = state.as_mut().project() {
                return tracked.poll(cx);
            }
            if let Some(error) = ready!(state.as_mut().poll_begin(cx)) {
                return Poll::Ready(Err(error));
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
    fn poll_begin(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<BoxError>> {
        match self.as_mut().project() {
            StateProj::Running { .. } => {}
            StateProj::Waiting { waiter, held } => {
                let Some(waits) = held else {
                    return Poll::Pending;
                };
                let Poll::Ready(mut attempt) = waiter.poll_enter(cx) else {
                    let Some(limit) = &mut waits.limit else {
                        return Poll::Pending;
                    };
                    ready!(limit.poll_over(cx));
                    let error = waited(limit.wait, waiter.circuit());
                    // The waiter goes with its state, and its waker with it.
                    self.set(State::Failed { error: None });
                    return Poll::Ready(Some(error));
                };
                let deadline = attempt.begin(&mut waits.request);
                let Some(waits) = held.take() else {
                    return Poll::Pending;
                };
                let Held {
                    mut inner, request, ..
                } = *waits;
                let future = inner.call(request);
                self.set(running(future, attempt, deadline));
            }
            StateProj::Failed { error } => match error.take() {
                Some(error) => return Poll::Ready(Some(error)),
                None => return Poll::Pending,
            },
        }
        Poll::Ready(None)
    }
}

impl<S, B> fmt::Debug for BreakerFuture<S, B>
where
    S: Service<Request<B>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BreakerFuture").finish_non_exhaustive()
    }
}

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tower::Service;

use super::{
    BreakerBody, Circuit,
    circuit::{Attempt, Probe, Waiter},
};
use crate::{
    BoxError, Deadline,
    classify::{Tracked, track},
};

pin_project! {
    /// The future of a [`Breaker`](super::Breaker)'s call.
    ///
    /// Cancel safe in that a dropped one leaves nothing behind: a permit that it had goes to the next.
    #[must_use = "futures do nothing unless polled"]
    pub struct ResponseFuture<S, B>
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
            tracked: Tracked<Inner<F>, Attempt>,
            probe: Option<Probe>,
        },
        // Was told that it is ready, and then another one took the permit or the circuit opened.
        Waiting {
            waiter: Waiter,
            held: Option<(S, Request<B>)>,
        },
        Failed {
            error: Option<BoxError>,
        },
    }
}

pin_project! {
    #[project = InnerProj]
    enum Inner<F> {
        Call { #[pin] future: F },
        Failed { error: Option<BoxError> },
    }
}

impl<F, R, E> Future for Inner<F>
where
    F: Future<Output = Result<R, E>>,
    E: Into<BoxError>,
{
    type Output = Result<R, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project() {
            InnerProj::Call { future } => future.poll(cx).map_err(Into::into),
            InnerProj::Failed { error } => match error.take() {
                Some(error) => Poll::Ready(Err(error)),
                None => Poll::Pending,
            },
        }
    }
}

fn running<S, B, F>(
    inner: Inner<F>,
    attempt: Attempt,
    deadline: Option<Deadline>,
) -> State<S, B, F> {
    State::Running {
        probe: attempt.probe(),
        tracked: track(inner, attempt, deadline),
    }
}

impl<S, B> ResponseFuture<S, B>
where
    S: Service<Request<B>>,
{
    pub(super) fn running(future: S::Future, attempt: Attempt, deadline: Option<Deadline>) -> Self {
        Self {
            state: running(Inner::Call { future }, attempt, deadline),
        }
    }

    /// The inner service was not ready but failed; it counts if the call was let in.
    pub(super) fn failed(error: BoxError, attempt: Option<Attempt>) -> Self {
        let error = Some(error);
        Self {
            state: match attempt {
                Some(attempt) => running(Inner::Failed { error }, attempt, None),
                None => State::Failed { error },
            },
        }
    }

    pub(super) fn waiting(inner: S, request: Request<B>, circuit: Circuit) -> Self {
        Self {
            state: State::Waiting {
                waiter: Waiter::new(circuit),
                held: Some((inner, request)),
            },
        }
    }
}

impl<S, B, R> Future for ResponseFuture<S, B>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Error: Into<BoxError>,
    R: Body,
    R::Error: Into<BoxError>,
{
    type Output = Result<Response<BreakerBody<R>>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.project().state;
        loop {
            let next = match state.as_mut().project() {
                StateProj::Running { tracked, probe } => {
                    let response = ready!(tracked.poll(cx));
                    if let (Ok(_), Some(probe)) = (&response, probe.take()) {
                        probe.answered();
                    }
                    return Poll::Ready(response);
                }
                StateProj::Waiting { waiter, held } => {
                    let attempt = ready!(waiter.poll_enter(cx));
                    let Some((mut inner, request)) = held.take() else {
                        return Poll::Pending;
                    };
                    let deadline = Deadline::of(&request);
                    let future = inner.call(request);
                    running(Inner::Call { future }, attempt, deadline)
                }
                StateProj::Failed { error } => match error.take() {
                    Some(error) => return Poll::Ready(Err(error)),
                    None => return Poll::Pending,
                },
            };
            state.set(next);
        }
    }
}

impl<S, B> fmt::Debug for ResponseFuture<S, B>
where
    S: Service<Request<B>>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

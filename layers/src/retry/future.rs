use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::{Request, Response};
use pin_project_lite::pin_project;
use tokio::time::{Sleep, sleep};
use tonic::body::Body;
use tower::Service;

use super::{call::Call, tally::Failure};
use crate::BoxError;

pin_project! {
    /// A call's attempts, one after the other.
    ///
    /// Dropping it drops the attempt or the wait that it is at, and the request.
    #[must_use = "futures do nothing unless polled"]
    pub struct RetryFuture<S>
    where
        S: Service<Request<Body>>,
    {
        service: S,
        call: Box<Call>,
        #[pin]
        state: State<S::Future>,
    }
}

pin_project! {
    #[project = StateProj]
    enum State<F> {
        Attempt {
            #[pin]
            response: F,
        },
        Backoff {
            #[pin]
            wait: Sleep,
        },
        Ready,
    }
}

impl<S: Service<Request<Body>>> RetryFuture<S> {
    pub(super) fn new(service: S, call: Box<Call>, first: S::Future) -> Self {
        Self {
            service,
            call,
            state: State::Attempt { response: first },
        }
    }
}

impl<S, R> Future for RetryFuture<S>
where
    S: Service<Request<Body>, Response = Response<R>>,
    S::Error: Into<BoxError>,
{
    type Output = Result<Response<R>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        loop {
            let result = match this.state.as_mut().project() {
                StateProj::Attempt { response } => ready!(response.poll(cx)).map_err(Into::into),
                StateProj::Backoff { wait } => {
                    ready!(wait.poll(cx));
                    this.state.set(State::Ready);
                    continue;
                }
                StateProj::Ready => match ready!(this.service.poll_ready(cx)) {
                    Ok(()) => {
                        if let Some(error) = this.call.too_late() {
                            return Poll::Ready(Err(Box::new(error)));
                        }
                        let response = this.service.call(this.call.request());
                        this.state.set(State::Attempt { response });
                        continue;
                    }
                    Err(error) => Err(error.into()),
                },
            };
            let failure = match &result {
                Ok(response) => Failure::of_head(response),
                Err(error) => Some(Failure::of_error(error)),
            };
            let Some(failure) = failure else {
                this.call.succeeded();
                return Poll::Ready(result);
            };
            let Some(wait) = this.call.failed(&failure) else {
                return Poll::Ready(result);
            };
            // Before the wait: a failed attempt may hold a place that the next one needs.
            drop(result);
            this.state.set(match wait.is_zero() {
                true => State::Ready,
                false => State::Backoff { wait: sleep(wait) },
            });
        }
    }
}

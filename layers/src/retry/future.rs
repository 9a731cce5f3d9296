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
use crate::{BoxError, unsent::Unsent};

pin_project! {
    /// A call's attempts, one after the other.
    ///
    /// Dropping it drops the current attempt or wait, and the request.
    #[must_use = "futures do nothing unless polled"]
    pub struct RetryFuture<S>
    where
        S: Service<Request<Body>>,
    {
        // What another attempt is made of; nothing where there is never to be one.
        again: Option<(S, Call)>,
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
    pub(super) fn new(service: S, call: Call, first: S::Future) -> Self {
        Self {
            again: Some((service, call)),
            state: State::Attempt { response: first },
        }
    }

    /// One attempt, of which nothing is kept.
    pub(super) fn once(only: S::Future) -> Self {
        Self {
            again: None,
            state: State::Attempt { response: only },
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
        let Some((service, call)) = this.again else {
            return match this.state.project() {
                StateProj::Attempt { response } => response
                    .poll(cx)
                    .map_err(|error| Unsent::take(error.into()).0),
                // They come after a failure that is followed by another attempt.
                StateProj::Backoff { .. } | StateProj::Ready => Poll::Pending,
            };
        };
        loop {
            let result = match this.state.as_mut().project() {
                StateProj::Attempt { response } => ready!(response.poll(cx)).map_err(Into::into),
                StateProj::Backoff { wait } => {
                    ready!(wait.poll(cx));
                    this.state.set(State::Ready);
                    continue;
                }
                StateProj::Ready => match ready!(service.poll_ready(cx)) {
                    Ok(()) => {
                        if let Some(error) = call.too_late() {
                            return Poll::Ready(Err(Box::new(error)));
                        }
                        let Some(request) = call.request() else {
                            // There is one wherever another attempt follows.
                            return Poll::Pending;
                        };
                        let response = service.call(request);
                        this.state.set(State::Attempt { response });
                        continue;
                    }
                    Err(error) => Err(error.into()),
                },
            };
            let (result, returned) = match result {
                Ok(response) => (Ok(response), None),
                Err(error) => {
                    let (error, returned) = Unsent::take(error);
                    (Err(error), returned)
                }
            };
            let failure = match &result {
                Ok(response) => Failure::of_head(response),
                Err(error) => Some(Failure::of_error(error)),
            };
            let Some(failure) = failure else {
                call.succeeded();
                return Poll::Ready(result);
            };
            let Some(wait) = call.failed(&failure, returned) else {
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

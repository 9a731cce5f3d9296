use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::Response;
use http_body::Body;
use pin_project_lite::pin_project;

use super::{SLACK, ServerDeadlineBody, late};
use crate::{
    BoxError,
    deadline::{
        clock::{Budget, Clock},
        scope::within,
    },
};

pin_project! {
    /// A handler, until its call's deadline. Dropping it drops the handler.
    #[must_use = "futures do nothing unless polled"]
    pub struct ServerDeadlineFuture<F> {
        // `None` if there was no time to begin.
        #[pin]
        handler: Option<F>,
        clock: Clock,
    }
}

impl<F> ServerDeadlineFuture<F> {
    pub(super) fn new(handler: Option<F>, budget: Option<Budget>) -> Self {
        Self {
            handler,
            clock: Clock::new(budget),
        }
    }
}

impl<F, R, E> Future for ServerDeadlineFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
    E: Into<BoxError>,
    R: Body,
    R::Error: Into<BoxError>,
{
    type Output = Result<Response<ServerDeadlineBody<R>>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let budget = this.clock.budget();
        let what = match this.handler.as_mut().as_pin_mut() {
            Some(handler) => {
                let deadline = budget.map(|budget| budget.deadline);
                if let Poll::Ready(result) = within(deadline, || handler.poll(cx)) {
                    return Poll::Ready(match result {
                        Ok(response) => {
                            Ok(response.map(|body| ServerDeadlineBody::new(body, budget)))
                        }
                        Err(error) => Err(error.into()),
                    });
                }
                "its handler did not answer"
            }
            None => "its handler could not begin",
        };
        let budget = ready!(this.clock.poll_over(cx, SLACK));
        this.handler.set(None);
        Poll::Ready(Ok(late(budget, what).into_http()))
    }
}

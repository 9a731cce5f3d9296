use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use http::{Request, Response};
use http_body::Body;
use pin_project_lite::pin_project;
use tower::Service;

use super::ClientDeadlineBody;
use crate::{
    BoxError,
    deadline::{
        Stage,
        clock::{Budget, Clock},
        error::{Elapsed, by_any_clock},
        header,
    },
};

pin_project! {
    /// An outgoing call: waits for the inner service, then for the response, under one deadline.
    ///
    /// Dropping it drops what it waits for, which takes the call back or resets its stream.
    #[must_use = "futures do nothing unless polled"]
    pub struct ClientDeadlineFuture<S, B>
    where
        S: Service<Request<B>>,
    {
        #[pin]
        call: Call<S, B, S::Future>,
        clock: Clock,
    }
}

pin_project! {
    #[project = CallProj]
    enum Call<S, B, F> {
        Waiting {
            service: S,
            request: Option<Request<B>>,
        },
        Sent {
            #[pin]
            response: F,
        },
        Over,
    }
}

impl<S: Service<Request<B>>, B> ClientDeadlineFuture<S, B> {
    pub(super) fn new(service: S, request: Request<B>, budget: Option<Budget>) -> Self {
        Self {
            call: Call::Waiting {
                service,
                request: Some(request),
            },
            clock: Clock::new(budget),
        }
    }
}

impl<S, B, R> Future for ClientDeadlineFuture<S, B>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Error: Into<BoxError>,
    R: Body,
    R::Error: Into<BoxError>,
{
    type Output = Result<Response<ClientDeadlineBody<R>>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let mut this = self.project();
        let budget = this.clock.budget();
        let stage = loop {
            match this.call.as_mut().project() {
                CallProj::Waiting { service, request } => {
                    match service.poll_ready(cx) {
                        Poll::Ready(Ok(())) => {}
                        Poll::Ready(Err(error)) => return Poll::Ready(Err(error.into())),
                        Poll::Pending => break Stage::Waiting,
                    }
                    // Before the call and not by the timer: an expired call must not be sent, and a timer needs a tick to
                    // report it.
                    if this.clock.over().is_some() {
                        break Stage::Waiting;
                    }
                    let Some(request) = request.take() else {
                        break Stage::Waiting;
                    };
                    let response = service.call(request);
                    this.call.set(Call::Sent { response });
                }
                CallProj::Sent { response } => match response.poll(cx) {
                    Poll::Ready(Ok(response)) => return Poll::Ready(answered(response, budget)),
                    Poll::Ready(Err(error)) => {
                        return Poll::Ready(Err(by_any_clock(error.into(), Stage::Answer, budget)));
                    }
                    Poll::Pending => break Stage::Answer,
                },
                // A future is not polled after its end.
                CallProj::Over => return Poll::Pending,
            }
        };
        let budget = ready!(this.clock.poll_over(cx, Duration::ZERO));
        // Before the caller learns of it, so that everything the call held is free by then.
        this.call.set(Call::Over);
        Poll::Ready(Err(Box::new(Elapsed::new(stage, Some(budget.limit)))))
    }
}

fn answered<R: Body>(
    response: Response<R>,
    budget: Option<Budget>,
) -> Result<Response<ClientDeadlineBody<R>>, BoxError> {
    if let Some(budget) = budget
        && header::is_cancelled(response.headers())
        && budget.is_nearly_over()
    {
        return Err(Box::new(Elapsed::new(Stage::Answer, Some(budget.limit))));
    }
    Ok(response.map(|body| ClientDeadlineBody::new(body, budget)))
}

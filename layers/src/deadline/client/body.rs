use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

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
    /// A response's body, until the call's deadline: then it yields an error, and the inner body is dropped, which resets the stream.
    ///
    /// A body that nobody polls is not watched: it keeps its stream until it is polled again or dropped.
    #[derive(Debug)]
    pub struct ClientDeadlineBody<R> {
        #[pin]
        inner: Option<R>,
        #[pin]
        clock: Clock,
    }
}

impl<R> ClientDeadlineBody<R> {
    pub(super) fn new(inner: R, budget: Option<Budget>) -> Self {
        Self {
            inner: Some(inner),
            clock: Clock::new(budget),
        }
    }
}

impl<R> Body for ClientDeadlineBody<R>
where
    R: Body,
    R::Error: Into<BoxError>,
{
    type Data = R::Data;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<R::Data>, BoxError>>> {
        let mut this = self.project();
        let Some(inner) = this.inner.as_mut().as_pin_mut() else {
            return Poll::Ready(None);
        };
        // Before the inner body, which may always have another frame at hand.
        let over = match this.clock.over() {
            Some(budget) => budget,
            None => match inner.poll_frame(cx) {
                Poll::Pending => ready!(this.clock.poll_over(cx, Duration::ZERO)),
                Poll::Ready(Some(Ok(frame))) => match this.clock.budget() {
                    Some(budget)
                        if frame.trailers_ref().is_some_and(header::is_cancelled)
                            && budget.deadline.left() <= header::SLACK =>
                    {
                        budget
                    }
                    _ => return Poll::Ready(Some(Ok(frame))),
                },
                Poll::Ready(Some(Err(error))) => {
                    let budget = this.clock.budget();
                    let budget = budget.map(|budget| (budget.deadline, budget.limit));
                    let error = by_any_clock(error.into(), Stage::Body, budget);
                    return Poll::Ready(Some(Err(error)));
                }
                Poll::Ready(None) => return Poll::Ready(None),
            },
        };
        this.inner.set(None);
        let error = Elapsed::new(Stage::Body, Some(over.limit));
        Poll::Ready(Some(Err(Box::new(error))))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        match &self.inner {
            Some(inner) => inner.size_hint(),
            None => SizeHint::with_exact(0),
        }
    }
}

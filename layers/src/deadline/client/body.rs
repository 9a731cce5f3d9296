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
        clock::Budget,
        error::{Elapsed, by_any_clock},
        header,
        limited::{Limited, Next},
    },
};

pin_project! {
    /// A response's body, until the call's deadline. Then it yields an error, and the inner body is dropped, which resets the stream.
    ///
    /// A body that is not polled is not watched: it keeps its stream until it is polled again or dropped.
    #[derive(Debug)]
    pub struct ClientDeadlineBody<R> {
        #[pin]
        inner: Limited<R>,
    }
}

impl<R: Body> ClientDeadlineBody<R> {
    pub(super) fn new(inner: R, budget: Option<Budget>) -> Self {
        Self {
            inner: Limited::new(inner, budget),
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
        let inner = self.project().inner;
        let budget = inner.budget();
        let next = ready!(inner.poll_next(cx, Duration::ZERO, |inner, cx| inner.poll_frame(cx)));
        let over = match (next, budget) {
            (Next::Over(budget), _) => budget,
            // The peer's clock ended it, at our deadline too.
            (Next::Frame(Some(Ok(frame))), Some(budget))
                if frame.trailers_ref().is_some_and(header::is_cancelled)
                    && budget.is_nearly_over() =>
            {
                budget
            }
            (Next::Frame(Some(Err(error))), budget) => {
                let error = by_any_clock(error.into(), Stage::Body, budget);
                return Poll::Ready(Some(Err(error)));
            }
            (Next::Frame(frame), _) => {
                return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
            }
        };
        let error = Elapsed::new(Stage::Body, Some(over.limit));
        Poll::Ready(Some(Err(Box::new(error))))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

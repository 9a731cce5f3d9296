use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::{SLACK, late};
use crate::{
    BoxError,
    deadline::{
        clock::Budget,
        limited::{Limited, Next},
        scope::within,
    },
};

pin_project! {
    /// A response's body, until the call's deadline. Then it ends with DEADLINE_EXCEEDED in the trailers, and the inner body is dropped.
    #[derive(Debug)]
    pub struct ServerDeadlineBody<R> {
        #[pin]
        inner: Limited<R>,
    }
}

impl<R: Body> ServerDeadlineBody<R> {
    pub(super) fn new(inner: R, budget: Option<Budget>) -> Self {
        Self {
            inner: Limited::new(inner, budget),
        }
    }
}

/// The body of a response that is only a head.
impl<R> Default for ServerDeadlineBody<R> {
    fn default() -> Self {
        Self {
            inner: Limited::default(),
        }
    }
}

impl<R> Body for ServerDeadlineBody<R>
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
        let deadline = inner.budget().map(|budget| budget.deadline);
        let next = inner.poll_next(cx, SLACK, |inner, cx| {
            within(deadline, || inner.poll_frame(cx))
        });
        let over = match ready!(next) {
            Next::Frame(frame) => {
                return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
            }
            Next::Over(over) => over,
        };
        let status = late(over, "its response did not end");
        let mut trailers = HeaderMap::new();
        Poll::Ready(Some(match status.add_header(&mut trailers) {
            Ok(()) => Ok(Frame::trailers(trailers)),
            Err(status) => Err(Box::new(status)),
        }))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

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
        clock::{Budget, Clock},
        scope::within,
    },
};

pin_project! {
    /// A response's body, until the call's deadline: then it ends with trailers that say DEADLINE_EXCEEDED, and the inner body is dropped.
    #[derive(Debug)]
    pub struct ServerDeadlineBody<R> {
        #[pin]
        inner: Option<R>,
        #[pin]
        clock: Clock,
    }
}

impl<R> ServerDeadlineBody<R> {
    pub(super) fn new(inner: R, budget: Option<Budget>) -> Self {
        Self {
            inner: Some(inner),
            clock: Clock::new(budget),
        }
    }
}

/// The body of a response that is only a head.
impl<R> Default for ServerDeadlineBody<R> {
    fn default() -> Self {
        Self {
            inner: None,
            clock: Clock::new(None),
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
        let mut this = self.project();
        let Some(inner) = this.inner.as_mut().as_pin_mut() else {
            return Poll::Ready(None);
        };
        // What is at its end is not late.
        let over = match this.clock.over() {
            Some(budget) if !inner.is_end_stream() => budget,
            _ => {
                let deadline = this.clock.budget().map(|budget| budget.deadline);
                match within(deadline, || inner.poll_frame(cx)) {
                    Poll::Ready(frame) => {
                        let is_last = frame
                            .as_ref()
                            .is_none_or(|frame| frame.as_ref().map_or(true, Frame::is_trailers));
                        if is_last {
                            // Or a poll after the end might find the time over, and end it once more.
                            this.inner.set(None);
                        }
                        return Poll::Ready(frame.map(|frame| frame.map_err(Into::into)));
                    }
                    Poll::Pending => ready!(this.clock.poll_over(cx, SLACK)),
                }
            }
        };
        this.inner.set(None);
        let status = late(over, "its response did not end");
        let mut trailers = HeaderMap::new();
        Poll::Ready(Some(match status.add_header(&mut trailers) {
            Ok(()) => Ok(Frame::trailers(trailers)),
            Err(status) => Err(Box::new(status)),
        }))
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

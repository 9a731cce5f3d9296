//! A response's body, while its call has time.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use super::clock::{Budget, Clock};

pin_project! {
    /// A body and its deadline. When the time is over it is dropped, which resets its stream. When it has ended it is released: a
    /// poll after the end may find the time over too, and must not end it again.
    #[derive(Debug)]
    pub(super) struct Limited<R> {
        #[pin]
        inner: Option<R>,
        clock: Clock,
    }
}

/// What a poll of a [`Limited`] body yields.
pub(super) enum Next<R: Body> {
    Frame(Option<Result<Frame<R::Data>, R::Error>>),
    /// The time is over, and the body is dropped.
    Over(Budget),
}

impl<R: Body> Limited<R> {
    pub(super) fn new(inner: R, budget: Option<Budget>) -> Self {
        Self {
            inner: Some(inner),
            clock: Clock::new(budget),
        }
    }

    pub(super) fn budget(&self) -> Option<Budget> {
        self.clock.budget()
    }

    /// The next frame as `poll` gets it from the inner body, or that no more than `slack` is left to wait for one.
    pub(super) fn poll_next(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slack: Duration,
        poll: impl FnOnce(
            Pin<&mut R>,
            &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<R::Data>, R::Error>>>,
    ) -> Poll<Next<R>> {
        let mut this = self.project();
        let Some(inner) = this.inner.as_mut().as_pin_mut() else {
            return Poll::Ready(Next::Frame(None));
        };
        let over = match this.clock.over() {
            // Before the inner body, which may always have another frame ready. A body at its end is not late.
            Some(budget) if !inner.is_end_stream() => budget,
            _ => match poll(inner, cx) {
                Poll::Ready(frame) => {
                    let is_last = frame
                        .as_ref()
                        .is_none_or(|frame| frame.as_ref().map_or(true, Frame::is_trailers));
                    if is_last {
                        this.inner.set(None);
                    }
                    return Poll::Ready(Next::Frame(frame));
                }
                Poll::Pending => ready!(this.clock.poll_over(cx, slack)),
            },
        };
        this.inner.set(None);
        Poll::Ready(Next::Over(over))
    }

    pub(super) fn is_end_stream(&self) -> bool {
        self.inner.as_ref().is_none_or(Body::is_end_stream)
    }

    pub(super) fn size_hint(&self) -> SizeHint {
        match &self.inner {
            Some(inner) => inner.size_hint(),
            None => SizeHint::with_exact(0),
        }
    }
}

impl<R> Default for Limited<R> {
    /// A body that has ended.
    fn default() -> Self {
        Self {
            inner: None,
            clock: Clock::new(None),
        }
    }
}

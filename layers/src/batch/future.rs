use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::sync::oneshot;

use super::{
    error::BatchError,
    shared::{Answer, Place},
};
use crate::BoxError;

/// The future of [`Batch`](super::Batch): an item's own result.
///
/// Dropped while the item waits, it takes the item out. Dropped later, the item's result is nobody's; and once all callers of a batch have
/// left, its call is dropped too.
#[must_use = "futures do nothing unless polled"]
pub struct BatchFuture<T, R> {
    state: State<T, R>,
}

enum State<T, R> {
    // The receiver's drop tells the worker, if the item is in flight; the place's takes it out, if it waits.
    Waits(
        oneshot::Receiver<Answer<R>>,
        #[allow(dead_code, reason = "for its drop")] Place<T, R>,
    ),
    Refused(Option<BatchError>),
}

impl<T, R> BatchFuture<T, R> {
    pub(super) fn waits(answer: oneshot::Receiver<Answer<R>>, place: Place<T, R>) -> Self {
        let state = State::Waits(answer, place);
        Self { state }
    }

    pub(super) fn refused(error: BatchError) -> Self {
        let state = State::Refused(Some(error));
        Self { state }
    }
}

impl<T, R> Unpin for BatchFuture<T, R> {}

impl<T, R> Future for BatchFuture<T, R> {
    type Output = Result<R, BoxError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut self.state {
            State::Waits(answer, _) => Pin::new(answer).poll(cx).map(|answer| match answer {
                Ok(answer) => answer.map_err(Into::into),
                // Its batch was in flight when the worker ended.
                Err(_) => Err(BatchError::stopped(true).into()),
            }),
            State::Refused(error) => {
                let error = error.take();
                let error = error.unwrap_or_else(|| BatchError::stopped(false));
                Poll::Ready(Err(error.into()))
            }
        }
    }
}

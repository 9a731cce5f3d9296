use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll},
};

use pin_project_lite::pin_project;

use crate::BoxError;

pin_project! {
    /// The future of a [`FailFast`](super::FailFast)'s call: the inner one, or an immediate error.
    #[derive(Debug)]
    #[must_use = "futures do nothing unless polled"]
    pub struct FailFastFuture<F> {
        #[pin]
        state: State<F>,
    }
}

pin_project! {
    #[derive(Debug)]
    #[project = StateProj]
    enum State<F> {
        Call { #[pin] future: F },
        Failed { error: Option<BoxError> },
    }
}

impl<F> FailFastFuture<F> {
    pub(super) fn call(future: F) -> Self {
        Self {
            state: State::Call { future },
        }
    }

    pub(super) fn failed(error: BoxError) -> Self {
        Self {
            state: State::Failed { error: Some(error) },
        }
    }
}

impl<F, R, E> Future for FailFastFuture<F>
where
    F: Future<Output = Result<R, E>>,
    E: Into<BoxError>,
{
    type Output = Result<R, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match self.project().state.project() {
            StateProj::Call { future } => future.poll(cx).map_err(Into::into),
            StateProj::Failed { error } => match error.take() {
                Some(error) => Poll::Ready(Err(error)),
                // Polled after its end.
                None => Poll::Pending,
            },
        }
    }
}

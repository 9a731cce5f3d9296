use std::task::{Context, Poll};

use http::{Request, Response};
use http_body::Body;
use tower::{Layer, Service};

use super::{Observe, Outcome, Tracked, TrackedBody, track};
use crate::{BoxError, Deadline};

/// Calls a closure with the [`Outcome`] of each attempt.
#[derive(Clone, Copy, Debug)]
pub struct ClassifyLayer<F> {
    observer: F,
}

impl<F: FnOnce(&Outcome) + Clone> ClassifyLayer<F> {
    /// A clone of `observer` is called once per attempt, wherever the attempt ends. That may be a destructor, so it must not
    /// panic or block.
    pub fn new(observer: F) -> Self {
        Self { observer }
    }
}

impl<S, F: Clone> Layer<S> for ClassifyLayer<F> {
    type Service = Classify<S, F>;

    fn layer(&self, inner: S) -> Classify<S, F> {
        Classify {
            inner,
            observer: self.observer.clone(),
        }
    }
}

/// The service that [`ClassifyLayer`] makes.
#[derive(Clone, Copy, Debug)]
pub struct Classify<S, F> {
    inner: S,
    observer: F,
}

impl<S, F, B, R> Service<Request<B>> for Classify<S, F>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Error: Into<BoxError>,
    R: Body,
    R::Error: Into<BoxError>,
    F: Observe + Clone,
{
    type Response = Response<TrackedBody<R, F>>;
    type Error = BoxError;
    type Future = Tracked<S::Future, F>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let deadline = Deadline::of(&request);
        track(self.inner.call(request), self.observer.clone(), deadline)
    }
}

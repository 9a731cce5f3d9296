use std::{
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, Response};
use tonic::body::Body;
use tower::Service;

use super::{
    RetryFuture,
    call::{Call, Shared},
};
use crate::BoxError;

/// The service that [`RetryLayer`](super::RetryLayer) makes.
///
/// Its readiness is the inner service's and is for the first attempt; a further one makes a clone of the inner service ready in the
/// future. A clone carries no readiness.
#[derive(Clone, Debug)]
pub struct Retry<S> {
    inner: S,
    shared: Arc<Shared>,
    /// Whether `inner` returns what never left.
    returned: bool,
}

impl<S> Retry<S> {
    pub(super) fn new(inner: S, shared: Arc<Shared>, returned: bool) -> Self {
        Self {
            inner,
            shared,
            returned,
        }
    }
}

impl<S, R> Service<Request<Body>> for Retry<S>
where
    S: Service<Request<Body>, Response = Response<R>> + Clone,
    S::Error: Into<BoxError>,
{
    type Response = Response<R>;
    type Error = BoxError;
    type Future = RetryFuture<S>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let entry = self.shared.methods.number(request.uri().path());
        if self.shared.policy(entry).max_attempts == 1 {
            return RetryFuture::once(self.inner.call(request));
        }
        let (call, first) = Call::new(request, self.shared.clone(), entry, self.returned);
        let first = self.inner.call(first);
        RetryFuture::new(self.inner.clone(), call, first)
    }
}

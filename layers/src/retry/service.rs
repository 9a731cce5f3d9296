use std::{
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, Response};
use tonic::body::Body;
use tower::Service;

use super::{RetryBudget, RetryFuture, RetryPolicy, call::Call};
use crate::BoxError;

/// The service that [`RetryLayer`](super::RetryLayer) makes.
///
/// Its readiness is the inner service's and is for the first attempt; a further one makes a clone of the inner service ready in the
/// future. A clone carries no readiness.
#[derive(Clone, Debug)]
pub struct Retry<S> {
    inner: S,
    policy: Arc<RetryPolicy>,
    budget: RetryBudget,
}

impl<S> Retry<S> {
    pub(super) fn new(inner: S, policy: Arc<RetryPolicy>, budget: RetryBudget) -> Self {
        Self {
            inner,
            policy,
            budget,
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
        let call = Call::new(request, self.policy.clone(), self.budget.clone());
        let first = self.inner.call(call.request());
        RetryFuture::new(self.inner.clone(), call, first)
    }
}

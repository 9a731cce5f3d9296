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
/// Its readiness is the inner service's, for the first attempt. A further attempt makes a clone of the inner service ready in the
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
        self.shared.call(&mut self.inner, request, self.returned)
    }
}

impl Shared {
    /// Begins a call over `service`, which is ready. Clones of it make the further attempts. `returned`: it returns what never left.
    pub(super) fn call<S, R>(
        self: &Arc<Self>,
        service: &mut S,
        request: Request<Body>,
        returned: bool,
    ) -> RetryFuture<S>
    where
        S: Service<Request<Body>, Response = Response<R>> + Clone,
        S::Error: Into<BoxError>,
    {
        let entry = self.methods.number(request.uri().path());
        if self.policy(entry).max_attempts == 1 {
            return RetryFuture::once(service.call(request));
        }
        let (call, first) = Call::new(request, self.clone(), entry, returned);
        let first = service.call(first);
        RetryFuture::new(service.clone(), call, first)
    }
}

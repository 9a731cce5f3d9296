use std::{
    task::{Context, Poll},
    time::Duration,
};

use http::{Request, Response};
use http_body::Body;
use tower::Service;

use super::{ClientDeadlineBody, ClientDeadlineFuture};
use crate::{
    BoxError, Deadline, Methods,
    deadline::{clock::Budget, header},
};

/// The service that [`DeadlineLayer`](super::DeadlineLayer) makes.
///
/// It is always ready. A generated client waits for readiness before it has a request, so no deadline could cover that wait. Here
/// each call clones the inner service and waits for the clone in its own future. The clone is made ready for this one call, so no
/// readiness is shared or carried from clone to clone.
#[derive(Clone, Debug)]
pub struct ClientDeadline<S> {
    inner: S,
    default_timeout: Option<Duration>,
    methods: Methods,
}

impl<S> ClientDeadline<S> {
    pub(super) fn new(inner: S, default_timeout: Option<Duration>, methods: Methods) -> Self {
        Self {
            inner,
            default_timeout,
            methods,
        }
    }

    /// The earliest of the limits of a call.
    fn budget<B>(&self, request: &Request<B>) -> Option<Budget> {
        let until = [
            request.extensions().get::<Deadline>().copied(),
            Deadline::inherited(),
        ];
        let own = self.methods.get(request.uri().path()).timeout();
        let limits = [
            header::read(request.headers()),
            own.or(self.default_timeout),
        ];
        Budget::earliest(
            until.into_iter().flatten().min(),
            limits.into_iter().flatten().min(),
        )
    }
}

impl<S, B, R> Service<Request<B>> for ClientDeadline<S>
where
    S: Service<Request<B>, Response = Response<R>> + Clone,
    S::Error: Into<BoxError>,
    R: Body,
    R::Error: Into<BoxError>,
{
    type Response = Response<ClientDeadlineBody<R>>;
    type Error = BoxError;
    type Future = ClientDeadlineFuture<S, B>;

    /// Always ready: see [`ClientDeadline`].
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let budget = self.budget(&request);
        if let Some(budget) = budget {
            request.extensions_mut().insert(budget.deadline);
        }
        ClientDeadlineFuture::new(self.inner.clone(), request, budget)
    }
}

use std::task::{Context, Poll};

use http::{Request, Response};
use http_body::Body;
use tower::Service;

use super::{ServerDeadlineBody, ServerDeadlineBuilder, ServerDeadlineFuture};
use crate::{
    BoxError, Deadline,
    deadline::{clock::Budget, header, scope::within},
};

/// The service that [`ServerDeadlineLayer`](super::ServerDeadlineLayer) makes. Its readiness is the inner service's; a clone carries none.
#[derive(Clone, Copy, Debug)]
pub struct ServerDeadline<S> {
    inner: S,
    limits: ServerDeadlineBuilder,
}

impl<S> ServerDeadline<S> {
    pub(super) fn new(inner: S, limits: ServerDeadlineBuilder) -> Self {
        Self { inner, limits }
    }

    fn budget<B>(&self, request: &Request<B>) -> Option<Budget> {
        let until = request.extensions().get::<Deadline>().copied();
        let limit = header::read(request.headers());
        let limit = match until {
            Some(_) => limit,
            None => limit.or(self.limits.default_timeout),
        };
        let limit = [limit, self.limits.max_timeout].into_iter().flatten().min();
        Budget::earliest(until, limit)
    }
}

impl<S, B, R> Service<Request<B>> for ServerDeadline<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Error: Into<BoxError>,
    R: Body,
    R::Error: Into<BoxError>,
{
    type Response = Response<ServerDeadlineBody<R>>;
    type Error = BoxError;
    type Future = ServerDeadlineFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let budget = self.budget(&request);
        let deadline = budget.map(|budget| budget.deadline);
        if deadline.is_some_and(Deadline::is_over) {
            return ServerDeadlineFuture::new(None, budget);
        }
        if let Some(deadline) = deadline {
            request.extensions_mut().insert(deadline);
        }
        // A handler may make its call before it is first polled.
        let handler = within(deadline, || self.inner.call(request));
        ServerDeadlineFuture::new(Some(handler), budget)
    }
}

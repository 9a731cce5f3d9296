use std::task::{Context, Poll};

use http::Request;
use tower::{Layer, Service};

use crate::Urgency;

/// For servers: puts the urgency of a request's `priority` header into its extensions, where handlers find it. An urgency that is already
/// there stays.
#[derive(Clone, Copy, Debug, Default)]
pub struct ReadPriorityLayer;

impl ReadPriorityLayer {
    /// The layer; it has no settings.
    pub fn new() -> Self {
        Self
    }
}

impl<S> Layer<S> for ReadPriorityLayer {
    type Service = ReadPriority<S>;

    fn layer(&self, inner: S) -> ReadPriority<S> {
        ReadPriority { inner }
    }
}

/// The service that [`ReadPriorityLayer`] makes. It has no error of its own; readiness is the inner service's.
#[derive(Clone, Copy, Debug)]
pub struct ReadPriority<S> {
    inner: S,
}

impl<S: Service<Request<B>>, B> Service<Request<B>> for ReadPriority<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> S::Future {
        if request.extensions().get::<Urgency>().is_none()
            && let Some(urgency) = Urgency::from_headers(request.headers())
        {
            request.extensions_mut().insert(urgency);
        }
        self.inner.call(request)
    }
}

/// So that a server that wraps its services in it still finds them by name.
impl<S: tonic::server::NamedService> tonic::server::NamedService for ReadPriority<S> {
    const NAME: &'static str = S::NAME;
}

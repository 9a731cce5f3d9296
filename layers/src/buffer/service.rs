use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, Response};
use tonic::body::Body;
use tower::Service;

use super::{BufferConfig, BufferFuture, BufferHandle, shared::Shared};
use crate::{BoxError, Methods};

/// In a request's extensions, it makes the buffer hold the call until the peer is there, whatever its method: gRPC's `wait_for_ready`.
///
/// ```
/// use tower_iroh_layers::buffer::WaitForReady;
///
/// let mut request = tonic::Request::new(());
/// request.extensions_mut().insert(WaitForReady);
/// ```
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct WaitForReady;

/// A service that a buffer can serve: it takes gRPC requests and can be cloned and sent. Implemented for all such services.
pub trait Served:
    Service<
        Request<Body>,
        Response = Response<Self::Body>,
        Error: Into<BoxError>,
        Future: Send + 'static,
    > + Clone
    + Send
    + 'static
{
    /// The response's body.
    type Body: Send + 'static;
}

impl<S, R> Served for S
where
    S: Service<Request<Body>, Response = Response<R>> + Clone + Send + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
    R: Send + 'static,
{
    type Body = R;
}

/// The buffer of one peer. Clones are the same buffer.
///
/// `S` takes the served calls, `P` those that pass by: the same service, unless set otherwise.
pub struct Buffer<S: Served, P = S> {
    inner: S,
    passing: P,
    shared: Arc<Shared<S::Body>>,
}

impl<S: Served> Buffer<S> {
    /// A buffer in front of `inner`, for calls that carry [`WaitForReady`]. [`BufferLayer::methods`](super::BufferLayer::methods) adds a table.
    pub fn new(config: BufferConfig, inner: S) -> Self {
        Self::with_passing(config, Methods::default(), inner.clone(), inner)
    }
}

impl<S: Served, P> Buffer<S, P> {
    /// A buffer in front of `inner`; other calls go to `passing`.
    pub(super) fn with_passing(
        config: BufferConfig,
        methods: Methods,
        inner: S,
        passing: P,
    ) -> Self {
        Self {
            inner,
            passing,
            shared: Shared::new(config, methods),
        }
    }

    /// Begins a call, as the service does. The buffer is always ready, so no `poll_ready` is needed.
    pub fn begin(&self, request: Request<Body>) -> BufferFuture<S, P>
    where
        P: Service<Request<Body>> + Clone,
    {
        if !self.shared.config.serves(&request, &self.shared.methods) {
            return BufferFuture::passing(self.passing.clone(), request);
        }
        BufferFuture::served(
            self.inner.clone(),
            self.passing.clone(),
            self.shared.clone(),
            request,
        )
    }

    /// A handle on this buffer.
    pub fn handle(&self) -> BufferHandle {
        BufferHandle::new(self.shared.clone())
    }
}

impl<S, P, R> Service<Request<Body>> for Buffer<S, P>
where
    S: Served<Body = R>,
    P: Service<Request<Body>, Response = Response<R>> + Clone,
    P::Error: Into<BoxError>,
    R: Send + 'static,
{
    type Response = Response<R>;
    type Error = BoxError;
    type Future = BufferFuture<S, P>;

    /// Always ready: calls wait in their future. So a clone has no readiness to carry.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        self.begin(request)
    }
}

impl<S: Served, P: Clone> Clone for Buffer<S, P> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            passing: self.passing.clone(),
            shared: self.shared.clone(),
        }
    }
}

impl<S: Served, P> fmt::Debug for Buffer<S, P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Buffer")
            .field("stats", &self.shared.stats())
            .finish_non_exhaustive()
    }
}

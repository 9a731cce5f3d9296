//! What a call goes through under its deadline, in one piece.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, Response};
use tonic::body::Body;
use tower::Service;
use tower_iroh_layers::{
    BoxError,
    buffer::{Buffer, BufferFuture, BufferHandle, Served},
    fail_fast::FailFast,
    priority::PriorityLayer,
    retry::{RetryBudget, RetryFuture, RetryLayer},
};

/// Priority and retry, over the attempts that go through the buffer or fail fast.
#[derive(Clone)]
pub struct UnderDeadline<A: Served>(Arc<Layers<A>>);

struct Layers<A: Served> {
    priority: PriorityLayer,
    retry: RetryLayer,
    buffer: Buffer<A, FailFast<A>>,
}

impl<A: Served> UnderDeadline<A> {
    pub(super) fn new(
        priority: PriorityLayer,
        retry: RetryLayer,
        buffer: Buffer<A, FailFast<A>>,
    ) -> Self {
        Self(Arc::new(Layers {
            priority,
            retry,
            buffer,
        }))
    }

    pub(super) fn buffer(&self) -> BufferHandle {
        self.0.buffer.handle()
    }

    pub(super) fn budget(&self) -> RetryBudget {
        self.0.retry.budget()
    }
}

impl<A, R> Service<Request<Body>> for UnderDeadline<A>
where
    A: Served<Body = R>,
    FailFast<A>: Service<Request<Body>, Response = Response<R>, Error = BoxError> + Clone,
    R: Send + 'static,
{
    type Response = Response<R>;
    type Error = BoxError;
    type Future = RetryFuture<MakeAttempt<A>>;

    /// Always: an attempt waits in its future.
    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        self.0.priority.decide(&mut request);
        self.0.retry.call(MakeAttempt(self.0.clone()), request)
    }
}

/// What makes a call's attempts.
#[derive(Clone)]
pub struct MakeAttempt<A: Served>(Arc<Layers<A>>);

impl<A, R> Service<Request<Body>> for MakeAttempt<A>
where
    A: Served<Body = R>,
    FailFast<A>: Service<Request<Body>, Response = Response<R>, Error = BoxError> + Clone,
    R: Send + 'static,
{
    type Response = Response<R>;
    type Error = BoxError;
    /// In a box, because the futures above move it and it is large.
    type Future = Pin<Box<BufferFuture<A, FailFast<A>>>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(self.0.buffer.begin(request))
    }
}

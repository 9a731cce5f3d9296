use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::sync::{AcquireError, OwnedSemaphorePermit, Semaphore, oneshot};
use tower::Service;

use super::{
    BatchConfig, BatchFuture,
    error::BatchError,
    layer::Size,
    shared::{Place, Shared, Waiting},
    worker::start,
};
use crate::BoxError;

/// The service that [`BatchLayer`](super::BatchLayer) makes. Clones share its batches.
pub struct Batch<S, T, R> {
    inner: S,
    size: Size<T>,
    shared: Arc<Shared<T, R>>,
    room: Arc<Semaphore>,
    readiness: Readiness,
}

type Permit = Result<OwnedSemaphorePermit, AcquireError>;

enum Readiness {
    None,
    Waits(Pin<Box<dyn Future<Output = Permit> + Send + Sync>>),
    Ready(OwnedSemaphorePermit),
}

impl<S, T, R> Batch<S, T, R> {
    pub(super) fn new(config: BatchConfig, size: Size<T>, inner: S) -> Self {
        Self {
            inner,
            size,
            room: Arc::new(Semaphore::new(config.max_waiting)),
            shared: Arc::new(Shared::new(config)),
            readiness: Readiness::None,
        }
    }
}

impl<S, T, R> Service<T> for Batch<S, T, R>
where
    S: Service<Vec<T>, Response = Vec<R>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    T: Send + 'static,
    R: Send + 'static,
{
    type Response = R;
    type Error = BoxError;
    type Future = BatchFuture<T, R>;

    /// Once there is room for an item to wait. The service keeps that room until the call.
    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        loop {
            self.readiness = match &mut self.readiness {
                Readiness::Ready(_) => return Poll::Ready(Ok(())),
                Readiness::None => match self.room.clone().try_acquire_owned() {
                    Ok(permit) => Readiness::Ready(permit),
                    Err(_) => Readiness::Waits(Box::pin(self.room.clone().acquire_owned())),
                },
                Readiness::Waits(room) => match ready!(room.as_mut().poll(cx)) {
                    Ok(permit) => Readiness::Ready(permit),
                    // Nobody closes it.
                    Err(_) => return Poll::Ready(Err(BatchError::stopped(false).into())),
                },
            };
        }
    }

    fn call(&mut self, item: T) -> BatchFuture<T, R> {
        let permit = match std::mem::replace(&mut self.readiness, Readiness::None) {
            Readiness::Ready(permit) => Some(permit),
            Readiness::None | Readiness::Waits(_) => self.room.clone().try_acquire_owned().ok(),
        };
        let Some(permit) = permit else {
            return BatchFuture::refused(BatchError::full(self.shared.config.max_waiting));
        };
        let bytes = (self.size)(&item);
        let (caller, answer) = oneshot::channel();
        let waiting = Waiting {
            item,
            caller,
            permit,
        };
        let (seq, needed) = self.shared.push(bytes, waiting);
        if needed {
            start(&self.shared, &self.inner);
        }
        let shared = self.shared.clone();
        BatchFuture::waits(answer, Place { shared, seq })
    }
}

impl<S: Clone, T, R> Clone for Batch<S, T, R> {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            size: self.size.clone(),
            shared: self.shared.clone(),
            room: self.room.clone(),
            // Room is kept for one call: a clone has none.
            readiness: Readiness::None,
        }
    }
}

impl<S, T, R> fmt::Debug for Batch<S, T, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Batch")
            .field("config", &self.shared.config)
            .field("room", &self.room.available_permits())
            .finish_non_exhaustive()
    }
}

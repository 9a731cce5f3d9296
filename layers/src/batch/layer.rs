use std::{fmt, sync::Arc};

use tower::{Layer, Service};

use super::{Batch, BatchConfig};
use crate::BoxError;

/// How many bytes an item counts for.
pub(super) type Size<T> = Arc<dyn Fn(&T) -> usize + Send + Sync>;

/// Coalesces calls of one item into calls of many: see the [module](super). Each service that it wraps has batches of its own.
pub struct BatchLayer<T> {
    config: BatchConfig,
    size: Size<T>,
}

impl<T> BatchLayer<T> {
    /// `size` says how many bytes an item counts for, against `max_bytes`. It is called once per item and must be quick.
    pub fn new(config: BatchConfig, size: impl Fn(&T) -> usize + Send + Sync + 'static) -> Self {
        Self {
            config,
            size: Arc::new(size),
        }
    }
}

impl<S, T, R> Layer<S> for BatchLayer<T>
where
    S: Service<Vec<T>, Response = Vec<R>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
{
    type Service = Batch<S, T, R>;

    fn layer(&self, inner: S) -> Batch<S, T, R> {
        Batch::new(self.config, self.size.clone(), inner)
    }
}

impl<T> Clone for BatchLayer<T> {
    fn clone(&self) -> Self {
        Self {
            config: self.config,
            size: self.size.clone(),
        }
    }
}

impl<T> fmt::Debug for BatchLayer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("BatchLayer")
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}

use tower::Layer;

use super::{FailFast, FailFastConfig};

/// Wraps a service in a [`FailFast`].
#[derive(Clone, Debug, Default)]
pub struct FailFastLayer {
    config: FailFastConfig,
}

impl FailFastLayer {
    /// Each wrapped service has its own state, which only the clones of its [`FailFast`] share.
    pub fn new(config: FailFastConfig) -> Self {
        Self { config }
    }
}

impl<S> Layer<S> for FailFastLayer {
    type Service = FailFast<S>;

    fn layer(&self, inner: S) -> FailFast<S> {
        FailFast::new(inner, self.config.clone())
    }
}

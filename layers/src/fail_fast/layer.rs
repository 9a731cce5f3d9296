use tower::Layer;

use super::{FailFast, FailFastConfig};

/// Makes a [`FailFast`] of what it wraps.
#[derive(Clone, Debug, Default)]
pub struct FailFastLayer {
    config: FailFastConfig,
}

impl FailFastLayer {
    /// Each service that it wraps has its own state, which only the clones of the [`FailFast`] share.
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

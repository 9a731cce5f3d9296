use std::time::Duration;

use tower::Layer;

use super::{Breaker, Circuit};

/// Makes a [`Breaker`] of what it wraps.
#[derive(Clone, Debug)]
pub struct BreakerLayer {
    circuit: Circuit,
    max_wait: Option<Duration>,
}

impl BreakerLayer {
    /// The longest wait of a call in its future, unless [set](Breaker::max_wait): as long as fail fast waits for readiness.
    pub const MAX_WAIT: Duration = Duration::from_secs(2);

    /// All services that it wraps share `circuit`: they lead to one peer over one transport.
    pub fn new(circuit: Circuit) -> Self {
        Self {
            circuit,
            max_wait: Some(Self::MAX_WAIT),
        }
    }

    /// The longest that a call waits in its future: see [`Breaker::max_wait`].
    pub fn max_wait(mut self, wait: impl Into<Option<Duration>>) -> Self {
        self.max_wait = wait.into();
        self
    }
}

impl<S> Layer<S> for BreakerLayer {
    type Service = Breaker<S>;

    fn layer(&self, inner: S) -> Breaker<S> {
        Breaker::new(inner, self.circuit.clone()).max_wait(self.max_wait)
    }
}

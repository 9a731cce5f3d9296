use tower::Layer;

use super::{Breaker, Circuit};

/// Makes a [`Breaker`] of what it wraps.
#[derive(Clone, Debug)]
pub struct BreakerLayer {
    circuit: Circuit,
}

impl BreakerLayer {
    /// All services that it wraps share `circuit`: they lead to one peer over one transport.
    pub fn new(circuit: Circuit) -> Self {
        Self { circuit }
    }
}

impl<S> Layer<S> for BreakerLayer {
    type Service = Breaker<S>;

    fn layer(&self, inner: S) -> Breaker<S> {
        Breaker::new(inner, self.circuit.clone())
    }
}

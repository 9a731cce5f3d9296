use std::time::Duration;

use tower::Layer;

use super::{Breaker, Circuit};
use crate::{classify::Recorder, setters::setters};

/// Wraps a service in a [`Breaker`].
#[derive(Clone, Debug)]
pub struct BreakerLayer<M = ()> {
    circuit: Circuit,
    max_wait: Option<Duration>,
    recorder: M,
}

impl BreakerLayer {
    /// The longest wait of a call in its future, unless [set](Breaker::max_wait): the time that fail fast waits for readiness.
    pub const MAX_WAIT: Duration = Duration::from_secs(2);

    /// All services that the layer wraps share `circuit`, since they lead to one peer over one transport.
    pub fn new(circuit: Circuit) -> Self {
        Self {
            circuit,
            max_wait: Some(Self::MAX_WAIT),
            recorder: (),
        }
    }
}

impl<M> BreakerLayer<M> {
    setters! {
        /// The longest that a call waits in its future: see [`Breaker::max_wait`].
        pub fn max_wait(wait: impl Into<Option<Duration>>) => max_wait = wait.into();
    }

    /// Lets `recorder` record each attempt too, refused ones included, as a layer above would. Each attempt is followed once for both,
    /// which costs less.
    pub fn recording<R: Recorder>(self, recorder: R) -> BreakerLayer<R> {
        BreakerLayer {
            circuit: self.circuit,
            max_wait: self.max_wait,
            recorder,
        }
    }
}

impl<S, M: Clone> Layer<S> for BreakerLayer<M> {
    type Service = Breaker<S, M>;

    fn layer(&self, inner: S) -> Breaker<S, M> {
        Breaker::of(
            inner,
            self.circuit.clone(),
            self.max_wait,
            self.recorder.clone(),
        )
    }
}

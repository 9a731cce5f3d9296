use tower::{Layer, layer::util::Identity};

use super::{Buffer, BufferConfig};
use crate::{Methods, setters::setters};

/// Gives each wrapped service its own buffer.
#[derive(Clone, Debug)]
pub struct BufferLayer<L = Identity> {
    config: BufferConfig,
    methods: Methods,
    passing: L,
}

impl BufferLayer {
    /// One buffer per wrapped service, that is one per peer. [`Buffer::handle`] gives the handle.
    pub fn new(config: BufferConfig) -> Self {
        Self {
            config,
            methods: Methods::default(),
            passing: Identity::new(),
        }
    }
}

impl<L> BufferLayer<L> {
    setters! {
        /// Takes each method's settings from the table: whether it waits for the peer, for how long, and whether it is idempotent.
        pub fn methods(methods: Methods) => methods = methods;
    }

    /// Also wraps the path of the calls that pass by in `layer`, and only that path. With a fail-fast there, unbuffered calls fail at
    /// once while buffered calls wait for the same peer.
    pub fn passing<M>(self, layer: M) -> BufferLayer<M> {
        BufferLayer {
            config: self.config,
            methods: self.methods,
            passing: layer,
        }
    }
}

impl<S: Clone, L: Layer<S>> Layer<S> for BufferLayer<L>
where
    S: super::Served,
{
    type Service = Buffer<S, L::Service>;

    fn layer(&self, inner: S) -> Self::Service {
        let passing = self.passing.layer(inner.clone());
        Buffer::with_passing(self.config.clone(), self.methods.clone(), inner, passing)
    }
}

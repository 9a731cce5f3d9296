use tower::Layer;

use super::{Select, SelectHandle};

/// Joins two services, `(first, second)`, in a [`Select`].
#[derive(Clone, Debug)]
pub struct SelectLayer {
    handle: SelectHandle,
}

impl SelectLayer {
    /// All services that it and its clones make share the handle's state, so they should lead to one peer.
    pub fn new(handle: SelectHandle) -> Self {
        Self { handle }
    }
}

impl<I: Clone, T: Clone> Layer<(I, T)> for SelectLayer {
    type Service = Select<I, T>;

    fn layer(&self, (first, second): (I, T)) -> Select<I, T> {
        Select::new(first, second, self.handle.clone())
    }
}

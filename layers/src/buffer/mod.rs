//! Store and forward.

mod config;
mod driver;
mod error;
mod future;
mod handle;
mod held;
mod layer;
#[cfg(feature = "metrics")]
mod meter;
mod pace;
mod queue;
mod service;
mod shared;

pub use config::{BufferConfig, BufferConfigBuilder};
pub use error::{BufferError, Reason};
pub use future::ResponseFuture;
pub use handle::{BufferHandle, BufferStats};
pub use layer::BufferLayer;
pub use queue::Overflow;
pub use service::{Buffer, Served, WaitForReady};

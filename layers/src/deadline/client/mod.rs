//! The deadline layer for outgoing calls.

mod body;
mod future;
mod layer;
mod service;
mod stamp;

pub use body::ClientDeadlineBody;
pub use future::ClientDeadlineFuture;
pub use layer::{DeadlineBuilder, DeadlineLayer};
pub use service::ClientDeadline;
pub use stamp::{Stamp, StampLayer};

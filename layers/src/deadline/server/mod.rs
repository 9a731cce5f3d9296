//! The deadline layer for incoming calls.

mod body;
mod future;
mod layer;
mod service;

pub use body::ServerDeadlineBody;
pub use future::ServerDeadlineFuture;
pub use layer::{ServerDeadlineBuilder, ServerDeadlineLayer};
pub use service::ServerDeadline;

use std::time::Duration;

use tonic::Status;

use super::clock::Budget;

/// tonic's server has a timer of its own on `grpc-timeout`, which starts a little before ours and answers CANCELLED. It polls the
/// handler once more before it does, and by then ours has less left than this.
const SLACK: Duration = Duration::from_millis(1);

fn late(budget: Budget, what: &str) -> Status {
    Status::deadline_exceeded(format!(
        "the call had {:?} on this server, and {what} in that time",
        budget.limit
    ))
}

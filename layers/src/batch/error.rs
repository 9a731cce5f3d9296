use std::{error::Error, fmt, sync::Arc};

use tonic::Status;

use crate::{BoxError, Fault, Origin};

/// Why an item has no result.
///
/// Its source is the error of the batch, shared by all who were in it, or a [`Fault`]; so the gRPC code is that of the cause.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub enum BatchError {
    /// The batch that the item was in failed, and so did every item in it. Whether the peer did any of it is what the source says, if it
    /// says so.
    Failed(Arc<BoxError>),
    /// The service below gave another number of results than there were items, so nobody's can be told. INTERNAL.
    Mismatch {
        /// How many items there were.
        items: usize,
        /// How many results came.
        results: usize,
        /// The source.
        fault: Fault,
    },
    /// The call was made without readiness and no more items may wait. RESOURCE_EXHAUSTED.
    Full(Fault),
    /// The task that sends batches has ended with its tokio runtime, or there is none, or the service below panicked. UNAVAILABLE.
    Stopped(Fault),
}

impl BatchError {
    pub(super) fn mismatch(items: usize, results: usize) -> Self {
        let status = Status::internal(format!(
            "a batch of {items} items got {results} results: what became of each is not known"
        ));
        Self::Mismatch {
            items,
            results,
            fault: Fault::perhaps_sent(Origin::Peer, status),
        }
    }

    pub(super) fn full(limit: usize) -> Self {
        let status = Status::resource_exhausted(format!(
            "not sent: {limit} items wait for their batch (max_waiting); await readiness before the call"
        ));
        Self::Full(Fault::unsent(Origin::Ours, status))
    }

    /// `sent` where the item may have left.
    pub(super) fn stopped(sent: bool) -> Self {
        let status = Status::unavailable(
            "nothing sends batches here: the tokio runtime has ended, or the service below panicked",
        );
        Self::Stopped(match sent {
            true => Fault::perhaps_sent(Origin::Ours, status),
            false => Fault::unsent(Origin::Ours, status),
        })
    }
}

impl fmt::Display for BatchError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(_) => f.write_str("the batch that this item was in failed"),
            Self::Mismatch { items, results, .. } => {
                write!(f, "a batch of {items} items got {results} results")
            }
            Self::Full(_) => f.write_str("too many items wait for their batch"),
            Self::Stopped(_) => f.write_str("nothing sends batches any more"),
        }
    }
}

impl Error for BatchError {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(match self {
            Self::Failed(error) => &***error,
            Self::Mismatch { fault, .. } | Self::Full(fault) | Self::Stopped(fault) => fault,
        })
    }
}

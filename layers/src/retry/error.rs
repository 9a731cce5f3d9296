use tonic::Status;

use crate::{Fault, Origin};

/// An error of this layer itself. The failure of an attempt is passed on unchanged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RetryError {
    /// The call's deadline passed while a retry waited for the inner service: DEADLINE_EXCEEDED.
    #[error("the call's deadline passed before it could be sent again")]
    TooLate(#[source] Fault),
    /// What a request's body yields to an attempt that was replaced: CANCELLED. No caller sees it.
    #[error("another attempt has taken over")]
    Superseded(#[source] Fault),
}

impl RetryError {
    /// `last` is how the attempt before ended.
    pub(super) fn too_late(last: tonic::Code, seen: bool) -> Self {
        let status = Status::deadline_exceeded(format!(
            "the deadline passed while a retry waited for the connection; the attempt before ended with: {last}"
        ));
        Self::TooLate(match seen {
            true => Fault::perhaps_sent(Origin::Ours, status),
            false => Fault::unsent(Origin::Ours, status),
        })
    }

    pub(super) fn superseded() -> Self {
        let status = Status::cancelled("another attempt has taken over this request");
        Self::Superseded(Fault::perhaps_sent(Origin::Ours, status))
    }
}

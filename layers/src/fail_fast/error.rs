use std::time::Duration;

use tonic::Status;

use crate::{Fault, Origin};

/// The call was not made, because the peer has not been ready for a while. Its code is UNAVAILABLE.
#[derive(Debug, thiserror::Error)]
#[error("failed fast: the peer has not been ready for {:.1} s", waited.as_secs_f64())]
pub struct FailedFast {
    waited: Duration,
    #[source]
    fault: Fault,
}

impl FailedFast {
    pub(super) fn new(waited: Duration, reason: Option<String>) -> Self {
        let seconds = waited.as_secs_f64();
        let reason = reason.unwrap_or_else(|| "its service does not become ready".into());
        let message = format!(
            "the peer has not been ready for {seconds:.1} s, so this call was not sent: {reason}. \
             Try again later, or make it a call that waits for the peer"
        );
        Self {
            waited,
            fault: Fault::unsent(Origin::Ours, Status::unavailable(message)).temporary(),
        }
    }

    /// How long the peer had not been ready.
    pub fn waited(&self) -> Duration {
        self.waited
    }
}

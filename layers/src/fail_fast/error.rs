use std::{error::Error, fmt, time::Duration};

use tonic::Status;

use crate::{Fault, Origin};

/// The call was not made, because the peer has not been ready for a while. Its code is UNAVAILABLE.
#[derive(Debug)]
pub struct FailedFast {
    waited: Duration,
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

impl fmt::Display for FailedFast {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.waited.as_secs_f64();
        write!(
            f,
            "failed fast: the peer has not been ready for {seconds:.1} s"
        )
    }
}

impl Error for FailedFast {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.fault)
    }
}

use std::time::Duration;

use tonic::Status;

use super::Arm;
use crate::{Fault, Origin};

/// The call was not made, because no arm that it may use has been ready for a while. Its code is UNAVAILABLE.
#[derive(Debug, thiserror::Error)]
#[error("no arm to send on: {who} not been ready for {:.1} s", waited.as_secs_f64())]
pub struct NotReady {
    arm: Arm,
    /// `iroh has`, for example.
    who: String,
    waited: Duration,
    #[source]
    fault: Fault,
}

impl NotReady {
    /// `names`: its own, and the other one's. `either`: the other arm would have done, and was not ready.
    pub(super) fn new(
        arm: Arm,
        names: [&'static str; 2],
        either: bool,
        waited: Duration,
        why: Option<&(dyn Fn(Arm) -> String + Send + Sync)>,
    ) -> Self {
        let seconds = waited.as_secs_f64();
        let [own, other] = names;
        let who = match either {
            true => format!("neither {own} nor {other} has"),
            false => format!("{own} has"),
        };
        let why = match (why, either) {
            (None, _) => "its service does not become ready".to_owned(),
            (Some(why), false) => why(arm),
            (Some(why), true) => format!("{own}: {}; {other}: {}", why(arm), why(arm.other())),
        };
        let message = format!(
            "{who} not been ready for {seconds:.1} s, so this call was not sent: {why}. Try again later, or let the \
             policy have it go over another arm"
        );
        Self {
            arm,
            who,
            waited,
            fault: Fault::unsent(Origin::Ours, Status::unavailable(message)).temporary(),
        }
    }

    /// The arm that was chosen first.
    pub fn arm(&self) -> Arm {
        self.arm
    }

    /// How long that arm had not been ready.
    pub fn waited(&self) -> Duration {
        self.waited
    }
}

use std::{error::Error, fmt, time::Duration};

use tonic::Status;

use super::Arm;
use crate::{Fault, Origin};

/// The call was not made, because no arm that it may use has been ready for a while. Its code is UNAVAILABLE.
#[derive(Debug)]
pub struct NotReady {
    arm: Arm,
    names: [&'static str; 2],
    either: bool,
    waited: Duration,
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
        let why = match (why, either) {
            (None, _) => "its service does not become ready".to_owned(),
            (Some(why), false) => why(arm),
            (Some(why), true) => {
                let [own, other] = names;
                format!("{own}: {}; {other}: {}", why(arm), why(arm.other()))
            }
        };
        let who = Who(names, either);
        let message = format!(
            "{who} not been ready for {seconds:.1} s, so this call was not sent: {why}. Try again later, or let the \
             policy have it go over another arm"
        );
        Self {
            arm,
            names,
            either,
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

struct Who([&'static str; 2], bool);

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.1 {
            true => write!(f, "neither {} nor {} has", self.0[0], self.0[1]),
            false => write!(f, "{} has", self.0[0]),
        }
    }
}

impl fmt::Display for NotReady {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.waited.as_secs_f64();
        let who = Who(self.names, self.either);
        write!(
            f,
            "no arm to send on: {who} not been ready for {seconds:.1} s"
        )
    }
}

impl Error for NotReady {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.fault)
    }
}

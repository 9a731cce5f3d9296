use std::fmt;

use http::HeaderValue;

use super::Arm;
use crate::named::named;

named! {
    /// Why a call went over its arm.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    #[non_exhaustive]
    pub enum SelectReason (pub ALL) {
        /// The policy's default choice is fixed to it.
        Fixed = "fixed",
        /// The policy's default choice prefers it.
        Preferred = "preferred",
        /// A rule for the method names it.
        Method = "method",
        /// A rule for the class of the call, its urgency, names it.
        Class = "class",
        /// The call is in the canary.
        CanaryIn = "canary_in",
        /// The call is not in the canary.
        CanaryOut = "canary_out",
        /// The arm is the better one by measurement.
        Adaptive = "adaptive",
        /// A probe of the arm that is not in use, or has just come back.
        Probe = "probe",
        /// The first choice is ready again, but not for long enough yet.
        Returning = "returning",
        /// The first choice was not ready.
        NotReady = "not_ready",
        /// The first choice failed before anything was sent.
        FailedUnsent = "failed_unsent",
    }
}

impl SelectReason {
    /// Whether the policy would have chosen the other arm.
    pub const fn is_fallback(self) -> bool {
        matches!(self, Self::Returning | Self::NotReady | Self::FailedUnsent)
    }

    pub(super) const fn index(self) -> usize {
        self as usize
    }
}

/// Which arm carried a call, and why: in the extensions of each response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Selected {
    /// The arm that answered.
    pub arm: Arm,
    /// The arm's name.
    pub name: &'static str,
    /// Why the arm was chosen.
    pub reason: SelectReason,
}

/// The response header that [`SelectConfigBuilder::response_header`](super::SelectConfigBuilder::response_header) switches on.
pub const SELECTED: &str = "tower-iroh-selected";

impl Selected {
    pub(super) fn header(self) -> Option<HeaderValue> {
        HeaderValue::try_from(self.to_string()).ok()
    }
}

impl fmt::Display for Selected {
    /// As in the header: `iroh; reason=canary_in`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}; reason={}", self.name, self.reason)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_reason_has_a_place_and_a_name_of_its_own() {
        for (n, reason) in SelectReason::ALL.into_iter().enumerate() {
            assert_eq!(reason.index(), n);
            let same = SelectReason::ALL
                .iter()
                .filter(|other| other.as_str() == reason.as_str());
            assert_eq!(same.count(), 1, "{reason}");
        }
        let selected = Selected {
            arm: Arm::Second,
            name: "tcp",
            reason: SelectReason::FailedUnsent,
        };
        let header = selected.header().expect("a header");
        assert_eq!(header, "tcp; reason=failed_unsent");
    }
}

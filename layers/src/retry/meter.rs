//! The layer's metrics, and nothing where the feature is off. Only a failure comes here.

use super::tally::{End, Reason};

#[cfg(feature = "metrics")]
pub(super) use on::{ended, exhausted, retried};

#[cfg(not(feature = "metrics"))]
pub(super) fn retried(_: Reason) {}

#[cfg(not(feature = "metrics"))]
pub(super) fn ended(_: End) {}

#[cfg(not(feature = "metrics"))]
pub(super) fn exhausted(_: f64) {}

#[cfg(feature = "metrics")]
mod on {
    use metrics::{counter, gauge};

    use super::{End, Reason};

    // Asked for by name each time: a retry waits for a hundred milliseconds anyway, and a cached handle would be of the recorder that was there first.

    pub(in super::super) fn retried(reason: Reason) {
        let reason = match reason {
            Reason::Code => "code",
            Reason::Refused => "refused",
            Reason::Unreached => "unreached",
        };
        counter!("tower_iroh_retry_retries_total", "reason" => reason).increment(1);
    }

    pub(in super::super) fn ended(end: End) {
        let reason = match end {
            // Nothing that a retry is for.
            End::Final | End::NotIdempotent => return,
            End::Pushback => "pushback",
            End::Attempts => "attempts",
            End::Body => "body",
            End::Deadline => "deadline",
            End::Budget => "budget",
        };
        counter!("tower_iroh_retry_given_up_total", "reason" => reason).increment(1);
    }

    pub(in super::super) fn exhausted(change: f64) {
        gauge!("tower_iroh_retry_budgets_exhausted").increment(change);
    }
}

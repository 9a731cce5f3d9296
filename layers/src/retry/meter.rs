//! The layer's metrics. Only a failure comes here, so the handles are looked up by name each time.

use super::tally::{End, Reason};
use crate::meter::{counter, gauge};

pub(super) fn retried(reason: Reason) {
    let reason = match reason {
        Reason::Code => "code",
        Reason::Refused => "refused",
        Reason::Unreached => "unreached",
    };
    counter("tower_iroh_retry_retries_total", &[("reason", reason)]).increment(1);
}

pub(super) fn ended(end: End) {
    let reason = match end {
        // Nothing that a retry is for.
        End::Final | End::NotIdempotent => return,
        End::Pushback => "pushback",
        End::Attempts => "attempts",
        End::Body => "body",
        End::Deadline => "deadline",
        End::Budget => "budget",
    };
    counter("tower_iroh_retry_given_up_total", &[("reason", reason)]).increment(1);
}

pub(super) fn exhausted(change: f64) {
    gauge("tower_iroh_retry_budgets_exhausted", &[]).increment(change);
}

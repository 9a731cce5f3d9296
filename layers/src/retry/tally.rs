//! Whether a failed attempt is followed by another: the rules, without a clock or a body.

use std::time::Duration;

use http::{Response, StatusCode};
use tonic::{Code, Status};

use super::{RetryBudget, RetryPolicy};
use crate::{
    BoxError, Fault, Origin,
    classify::{
        Pushback,
        head::{code_of_http, status},
    },
    fault::{chain, code_of},
};

/// A longer wait than this means that there should be no retry: otherwise a call without a deadline would sleep for up to 24 days, the most
/// that the header can say.
const LONGEST_PUSHBACK: Duration = Duration::from_secs(60);

/// What an attempt's end says, if it was a failure.
#[derive(Clone, Copy, Debug)]
pub(super) struct Failure {
    pub(super) code: Code,
    pub(super) fault: Option<(Origin, bool)>,
    /// The transport used its whole time-out.
    timed_out: bool,
    pub(super) pushback: Option<Pushback>,
}

impl Failure {
    pub(super) fn of_error(error: &BoxError) -> Self {
        let said = chain(&**error).find_map(|error| error.downcast_ref::<Status>());
        let fault = Fault::find(&**error);
        Self {
            code: code_of(&**error),
            timed_out: fault.as_ref().is_some_and(Fault::is_timed_out),
            // A peer that answered may have begun the call, whatever the fault claims.
            fault: fault.map(|fault| {
                let unsent = fault.not_processed() && fault.origin() != Origin::Peer;
                (fault.origin(), unsent)
            }),
            pushback: said.and_then(|status| Pushback::read(status.metadata().as_ref())),
        }
    }

    /// A head that ends the response and says how the call ended, or a proxy's. Any other head means that the peer has begun to answer: the
    /// call is committed to this attempt.
    pub(super) fn of_head<R>(response: &Response<R>) -> Option<Self> {
        let code = match status(response.headers()) {
            Some(code) => code,
            None if response.status() != StatusCode::OK => code_of_http(response.status()),
            None => return None,
        };
        (code != Code::Ok).then(|| Self {
            code,
            fault: None,
            timed_out: false,
            pushback: Pushback::read(response.headers()),
        })
    }

    /// Why the peer cannot have begun the call, so that any method may be sent again.
    fn unseen(&self) -> Option<Reason> {
        match self.fault? {
            (Origin::Refused, true) => Some(Reason::Refused),
            (_, true) if self.code == Code::Unavailable && !self.timed_out => {
                Some(Reason::Unreached)
            }
            _ => None,
        }
    }
}

/// Why an attempt follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reason {
    /// The code is retried, and the method may be executed twice.
    Code,
    /// The peer provably did not take it.
    Refused,
    /// It never got there.
    Unreached,
}

/// Why no attempt follows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    /// Another attempt would not help.
    Final,
    NotIdempotent,
    Pushback,
    Attempts,
    /// The request's body is no longer held in full.
    Body,
    Deadline,
    Budget,
}

/// What the failure means for the call, beside its own code.
pub(super) struct Circumstances<'a> {
    pub(super) policy: &'a RetryPolicy,
    pub(super) budget: &'a RetryBudget,
    /// Whether the method may be done twice.
    pub(super) idempotent: bool,
    /// What the call's deadline leaves.
    pub(super) left: Option<Duration>,
    /// Within 0 to 1.
    pub(super) random: f64,
}

/// A call's attempts so far.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Tally {
    /// Those that the peer may have seen, so the ones that it is told of.
    pub(super) seen: u32,
    /// Those that it provably has not begun.
    unseen: u32,
    /// The waits since the peer last named one itself.
    waits: u32,
}

impl Tally {
    pub(super) fn is_first(&self) -> bool {
        self.seen == 0 && self.unseen == 0
    }

    /// Counts a failed attempt, and says how long to wait before the next one.
    pub(super) fn failed(
        &mut self,
        failure: &Failure,
        at: &Circumstances<'_>,
    ) -> Result<(Reason, Duration), End> {
        let Circumstances { policy, budget, .. } = at;
        if matches!(failure.fault, Some((Origin::Ours, _))) {
            return Err(End::Final);
        }
        let unseen = failure.unseen();
        let forbidden = match failure.pushback {
            Some(Pushback::After(wait)) => wait > LONGEST_PUSHBACK,
            Some(Pushback::Never) => true,
            None => false,
        };
        let counted = match unseen {
            Some(_) => &mut self.unseen,
            None => &mut self.seen,
        };
        *counted = counted.saturating_add(1);
        let spent = *counted >= policy.max_attempts;
        if unseen.is_none() {
            let worth = policy.retries(failure.code);
            // Whatever the method: the budget is for the peer's sake.
            if worth || forbidden {
                budget.failed();
            }
            if !worth {
                return Err(End::Final);
            }
            if !at.idempotent {
                return Err(End::NotIdempotent);
            }
        }
        if forbidden {
            return Err(End::Pushback);
        }
        if spent {
            return Err(End::Attempts);
        }
        let wait = match (failure.pushback, unseen) {
            (Some(Pushback::After(wait)), _) => {
                self.waits = 0;
                wait
            }
            // Another connection, or the same one, will take it at once; if it does not, something else is wrong.
            (_, Some(Reason::Refused)) if self.unseen == 1 => Duration::ZERO,
            _ => {
                let wait = policy.backoff.wait(self.waits, at.random);
                self.waits += 1;
                wait
            }
        };
        if at.left.is_some_and(|left| left <= wait) {
            return Err(End::Deadline);
        }
        if unseen.is_none() && !budget.admits() {
            return Err(End::Budget);
        }
        Ok((unseen.unwrap_or(Reason::Code), wait))
    }
}

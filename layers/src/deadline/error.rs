use std::{fmt, time::Duration};

use tonic::{Status, TimeoutExpired};

use super::clock::Budget;
use crate::{
    BoxError, Fault, Origin,
    fault::{chain, code_of},
};

/// A call's deadline passed: DEADLINE_EXCEEDED.
///
/// Its source is a [`Fault`] of [`Origin::Ours`], because a caller's impatience says nothing about the peer. `classify::track` decides below
/// whether the attempt was long enough to blame the peer. [`Fault::not_processed`] holds only if the call had not been handed to the inner
/// service.
#[derive(Debug, thiserror::Error)]
#[error("the call's deadline passed {stage}")]
#[non_exhaustive]
pub struct Elapsed {
    stage: Stage,
    #[source]
    fault: Fault,
}

/// What a call was doing when its deadline passed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Stage {
    /// It waited for the inner service to be ready, so it has not been sent.
    Waiting,
    /// It waited for the response's head: it had been handed to the inner service, which may or may not have sent it.
    Answer,
    /// It waited for the rest of the response.
    Body,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Waiting => "before it could be sent",
            Self::Answer => "before there was an answer",
            Self::Body => "before the response had ended",
        })
    }
}

impl Elapsed {
    pub(super) fn new(stage: Stage, limit: Option<Duration>) -> Self {
        let advice = match stage {
            Stage::Waiting => {
                "nothing was sent: look at why the peer is not ready, or allow more time"
            }
            // Only the layers below know whether it was sent, and it may have waited there all the time.
            Stage::Answer | Stage::Body => "allow more time, or ask for less",
        };
        let message = match limit {
            Some(limit) => {
                format!("the deadline, {limit:?} after the start, passed {stage}; {advice}")
            }
            None => format!("the transport's time-out passed {stage}; {advice}"),
        };
        let status = Status::deadline_exceeded(message);
        Self {
            stage,
            fault: match stage {
                Stage::Waiting => Fault::unsent(Origin::Ours, status),
                Stage::Answer | Stage::Body => Fault::perhaps_sent(Origin::Ours, status),
            },
        }
    }

    /// What the call was doing.
    pub fn stage(&self) -> Stage {
        self.stage
    }
}

/// The same error, unless the peer's or the transport's clock made it: either may strike first, and both say CANCELLED for it.
pub(super) fn by_any_clock(error: BoxError, stage: Stage, budget: Option<Budget>) -> BoxError {
    let expired = || chain(&*error).any(|error| error.is::<TimeoutExpired>());
    let cancelled =
        || code_of(&*error) == tonic::Code::Cancelled && budget.is_some_and(Budget::is_nearly_over);
    if expired() || cancelled() {
        return Box::new(Elapsed::new(stage, budget.map(|budget| budget.limit)));
    }
    error
}

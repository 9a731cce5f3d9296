use std::time::Duration;

use http::StatusCode;
use tonic::Code;

use super::Pushback;
use crate::{Incident, Origin};

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ending {
    /// The head had the status: trailers only.
    Head,
    /// The trailers had it.
    Trailers,
    /// The body ended, and there was no status.
    NoStatus,
    /// An HTTP status other than 200, and no gRPC status.
    Http(StatusCode),
    /// The head announced another protocol.
    NotGrpc,
    /// There was no response.
    Error,
    /// The body failed.
    BodyError,
    /// The caller dropped the future before there was a response.
    FutureDropped,
    /// The caller dropped the body.
    BodyDropped {
        /// Whether it had got data by then.
        after_data: bool,
    },
}

/// What is known of an attempt that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outcome {
    pub(super) ending: Ending,
    pub(super) code: Code,
    pub(super) origin: Option<Origin>,
    pub(super) not_processed: bool,
    pub(super) pushback: Option<Pushback>,
    pub(super) timed_out_after: Option<Duration>,
    /// A message had come by then.
    pub(super) after_data: bool,
}

/// What an attempt says of the peer's health.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Verdict {
    /// The peer answered.
    Success,
    /// The peer's application answered, with INTERNAL, UNKNOWN or DATA_LOSS: the peer is there, and this call went wrong.
    Application,
    /// The peer failed.
    Failure,
    /// The way to the peer failed. Calls with the same incident tell of one failure.
    Link(Incident),
    /// The peer has no room for this call, or the caller has used up its rate.
    Overload,
    /// It says nothing of the peer.
    Neutral,
}

/// A deadline shorter than this says nothing of a peer that misses it.
const FAIR: Duration = Duration::from_secs(1);
/// What a call may have spent of its time before the attempt began that is judged: a deadline of a second is a fair one.
const SPENT: Duration = Duration::from_millis(10);

impl Outcome {
    /// How the attempt ended.
    pub fn ending(&self) -> Ending {
        self.ending
    }

    /// The code that a caller saw, or would have seen: CANCELLED for who left, DEADLINE_EXCEEDED for whose time was over.
    pub fn code(&self) -> Code {
        self.code
    }

    /// Whose failure it was, where that is known.
    pub fn origin(&self) -> Option<Origin> {
        self.origin
    }

    /// Whether something came back that a peer sends, so that the way to one is there.
    #[cfg(feature = "breaker")]
    pub(crate) fn is_answer(&self) -> bool {
        match self.ending {
            Ending::Head
            | Ending::Trailers
            | Ending::NoStatus
            | Ending::Http(_)
            | Ending::NotGrpc => true,
            Ending::Error
            | Ending::BodyError
            | Ending::FutureDropped
            | Ending::BodyDropped { .. } => false,
        }
    }

    /// Whether it is an answer that shows that calls are served, though it counts nowhere: a handler's own DEADLINE_EXCEEDED, or what a
    /// proxy says of the caller. CANCELLED may be the caller's own.
    #[cfg(feature = "breaker")]
    pub(crate) fn shows_life(&self) -> bool {
        self.is_answer() && self.timed_out_after.is_none() && self.code != Code::Cancelled
    }

    /// Whether the peer provably has not begun the call.
    pub fn not_processed(&self) -> bool {
        self.not_processed
    }

    /// What the server said about trying again.
    pub fn pushback(&self) -> Option<Pushback> {
        self.pushback
    }

    /// What the outcome says of the peer's health. `rtt` is the smoothed round-trip time, where it is known: a deadline of less than
    /// four of them, or than a second, is the caller's impatience.
    pub fn verdict(&self, rtt: Option<Duration>) -> Verdict {
        match self.origin {
            Some(Origin::Refused | Origin::Ours) => return Verdict::Neutral,
            Some(Origin::Link(incident)) => return Verdict::Link(incident),
            Some(Origin::Peer) | None => {}
        }
        if let Some(budget) = self.timed_out_after {
            let fair = budget + SPENT >= FAIR && budget >= rtt.unwrap_or_default() * 4;
            // A stream that delivers until its time is over is cut off by who gave it the time, whichever clock is first.
            return match fair && !self.after_data {
                true => Verdict::Failure,
                false => Verdict::Neutral,
            };
        }
        match self.ending {
            Ending::BodyDropped { after_data: true } => return Verdict::Success,
            Ending::FutureDropped | Ending::BodyDropped { after_data: false } => {
                return Verdict::Neutral;
            }
            Ending::Http(status) => return of_http(status),
            Ending::NoStatus | Ending::NotGrpc => return Verdict::Failure,
            Ending::Head | Ending::Trailers | Ending::Error | Ending::BodyError => {}
        }
        let answered = matches!(self.ending, Ending::Head | Ending::Trailers);
        match self.code {
            Code::Ok
            | Code::InvalidArgument
            | Code::NotFound
            | Code::AlreadyExists
            | Code::FailedPrecondition
            | Code::OutOfRange
            | Code::Unimplemented
            | Code::Unauthenticated
            | Code::PermissionDenied
            | Code::Aborted => Verdict::Success,
            Code::Internal | Code::DataLoss | Code::Unknown if answered => Verdict::Application,
            Code::Unavailable | Code::Internal | Code::DataLoss | Code::Unknown => Verdict::Failure,
            Code::ResourceExhausted => Verdict::Overload,
            // A DEADLINE_EXCEEDED before our deadline is a handler's own, about something else.
            Code::DeadlineExceeded | Code::Cancelled => Verdict::Neutral,
        }
    }
}

/// What an HTTP status says that came without a gRPC status. A proxy that refuses this caller, or this request for its size, serves others.
fn of_http(status: StatusCode) -> Verdict {
    match status {
        StatusCode::TOO_MANY_REQUESTS => Verdict::Overload,
        StatusCode::REQUEST_TIMEOUT => Verdict::Failure,
        status if status.is_client_error() => Verdict::Neutral,
        _ => Verdict::Failure,
    }
}

use std::time::Duration;

use http::StatusCode;
use tonic::Code;

use super::Pushback;
use crate::{Incident, Origin};

/// How an attempt ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Ending {
    /// The head had the status: a trailers-only response.
    Head,
    /// The trailers had the status.
    Trailers,
    /// The body ended without a status.
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
        /// Whether data had arrived by then.
        after_data: bool,
    },
}

/// How one attempt ended, and what is known of it.
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

/// What an attempt's end says about the peer's health.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Verdict {
    /// The peer answered.
    Success,
    /// The peer's application answered with INTERNAL, UNKNOWN or DATA_LOSS: the peer is there, and this call failed.
    Application,
    /// The peer failed.
    Failure,
    /// The link to the peer failed. Calls with the same incident report one failure.
    Link(Incident),
    /// The peer has no capacity for this call, or the caller has used up its rate.
    Overload,
    /// The end says nothing about the peer.
    Neutral,
}

/// A deadline shorter than this says nothing of a peer that misses it.
const FAIR: Duration = Duration::from_secs(1);
/// How much of its time a call may have spent before the judged attempt began, so that a deadline of a second is a fair one.
const SPENT: Duration = Duration::from_millis(10);

impl Outcome {
    /// How the attempt ended.
    pub fn ending(&self) -> Ending {
        self.ending
    }

    /// The code that a caller saw, or would have seen: CANCELLED if the caller left, DEADLINE_EXCEEDED if its time was over.
    pub fn code(&self) -> Code {
        self.code
    }

    /// Whose failure it was, where that is known.
    pub fn origin(&self) -> Option<Origin> {
        self.origin
    }

    /// Whether the peer sent something back, which shows that the link to it works.
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

    /// Whether it is an answer that shows that calls are served, though it counts nowhere: a handler's own DEADLINE_EXCEEDED, or a proxy's
    /// answer about the caller. CANCELLED may be the caller's own.
    #[cfg(feature = "breaker")]
    pub(crate) fn shows_life(&self) -> bool {
        self.is_answer() && self.timed_out_after.is_none() && self.code != Code::Cancelled
    }

    /// Whether the peer provably has not begun the call.
    pub fn not_processed(&self) -> bool {
        self.not_processed
    }

    /// What the server said about retrying.
    pub fn pushback(&self) -> Option<Pushback> {
        self.pushback
    }

    /// What the outcome says about the peer's health. `rtt` is the smoothed round-trip time, if it is known. A missed deadline shorter than
    /// four round trips, or than a second, is the caller's impatience.
    pub fn verdict(&self, rtt: Option<Duration>) -> Verdict {
        match self.origin {
            Some(Origin::Refused | Origin::Ours) => return Verdict::Neutral,
            Some(Origin::Link(incident)) => return Verdict::Link(incident),
            Some(Origin::Peer) | None => {}
        }
        if let Some(budget) = self.timed_out_after {
            let fair = budget + SPENT >= FAIR && budget >= rtt.unwrap_or_default() * 4;
            // The party that set the deadline cuts off a stream that still delivers, whichever clock is first.
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
            // A DEADLINE_EXCEEDED before our deadline is the handler's own, about something else.
            Code::DeadlineExceeded | Code::Cancelled => Verdict::Neutral,
        }
    }
}

/// The verdict of an HTTP status without a gRPC status. A proxy that refuses this caller, or this request for its size, serves others.
fn of_http(status: StatusCode) -> Verdict {
    match status {
        StatusCode::TOO_MANY_REQUESTS => Verdict::Overload,
        StatusCode::REQUEST_TIMEOUT => Verdict::Failure,
        status if status.is_client_error() => Verdict::Neutral,
        _ => Verdict::Failure,
    }
}

use std::{error::Error as StdError, fmt, time::Duration};

use iroh::EndpointId;
use tonic::{Code, Status};
use tower_iroh_layers::{Fault, Incident, Origin};

mod carried;
mod from;

/// Why a call, a dial or a connection failed.
///
/// Its [`source`](StdError::source) is a [`Fault`], which tells layers whose failure it is. The fault's source is the [`Status`] that a gRPC caller
/// sees, and the status's source is the cause. tonic looks for a `Status` along this chain, so the code survives any number of boxed errors.
#[derive(Clone, Debug)]
pub struct Error {
    kind: ErrorKind,
    peer: Option<EndpointId>,
    fault: Fault,
}

/// The kind of an [`Error`], with the gRPC code that it maps to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The URI does not name a peer: INVALID_ARGUMENT.
    InvalidPeer,
    /// The peer has no known address: UNAVAILABLE.
    NoAddress,
    /// The peer did not answer the dial in time: UNAVAILABLE.
    DialTimeout,
    /// The dial failed for another reason: UNAVAILABLE.
    DialFailed,
    /// The peer answers but does not speak the protocol: UNAVAILABLE.
    AlpnMismatch,
    /// The machine that answered did not prove the peer's key: UNAVAILABLE.
    WrongIdentity,
    /// An earlier dial failed and the next is not due yet: the code of that failure. The text says when the next is due.
    Backoff,
    /// The peer's policy refuses this caller: PERMISSION_DENIED.
    Forbidden,
    /// This side's policy or a hook on this side does not allow the peer, and nothing was sent: PERMISSION_DENIED.
    NotAllowed,
    /// The peer's policy does not know this caller: UNAUTHENTICATED.
    Unauthenticated,
    /// The peer or this side's pool is at a limit: RESOURCE_EXHAUSTED.
    Exhausted,
    /// The peer is shutting down: UNAVAILABLE.
    Draining,
    /// The connection was lost: UNAVAILABLE.
    Lost,
    /// The peer reset this call at the HTTP/2 level; the code follows gRPC's table.
    Reset,
    /// The caller's request body failed: the status that it failed with.
    RequestBody,
    /// The deadline passed: DEADLINE_EXCEEDED.
    Deadline,
    /// A layer on this side rejected the call before it was sent: the breaker was open for too long, the buffer was full or held the call
    /// for too long. The layer's error in the source chain has the reason and the code.
    Rejected,
    /// This side's endpoint or links were closed: UNAVAILABLE.
    Closed,
    /// A bug in this program: INTERNAL.
    Internal,
}

impl ErrorKind {
    /// The gRPC code of this kind where nothing more exact is known.
    pub fn code(self) -> Code {
        match self {
            Self::InvalidPeer => Code::InvalidArgument,
            Self::Forbidden | Self::NotAllowed => Code::PermissionDenied,
            Self::Unauthenticated => Code::Unauthenticated,
            Self::Exhausted => Code::ResourceExhausted,
            Self::Deadline => Code::DeadlineExceeded,
            Self::Internal | Self::Reset | Self::RequestBody => Code::Internal,
            Self::Rejected
            | Self::NoAddress
            | Self::DialTimeout
            | Self::DialFailed
            | Self::AlpnMismatch
            | Self::WrongIdentity
            | Self::Backoff
            | Self::Draining
            | Self::Lost
            | Self::Closed => Code::Unavailable,
        }
    }

    /// Whose failure it is, for who counts failures.
    fn origin(self) -> Origin {
        match self {
            Self::NoAddress
            | Self::DialTimeout
            | Self::DialFailed
            | Self::AlpnMismatch
            | Self::WrongIdentity
            | Self::Backoff
            | Self::Forbidden
            | Self::Unauthenticated
            | Self::Lost => Origin::Link(Incident::new()),
            Self::Draining => Origin::Refused,
            // That the peer was not there in time is for the deadline's length to judge.
            Self::Reset | Self::Deadline => Origin::Peer,
            Self::InvalidPeer
            | Self::Exhausted
            | Self::RequestBody
            | Self::Rejected
            | Self::Closed
            | Self::NotAllowed
            | Self::Internal => Origin::Ours,
        }
    }
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self::with_status(kind, Status::new(kind.code(), message))
    }

    pub(crate) fn with_status(kind: ErrorKind, status: Status) -> Self {
        let fault = Fault::unsent(kind.origin(), status);
        Self {
            kind,
            peer: None,
            fault: match kind {
                ErrorKind::DialTimeout => fault.timed_out(),
                _ => fault,
            },
        }
    }

    pub(crate) fn caused_by(mut self, cause: impl StdError + Send + Sync + 'static) -> Self {
        self.fault = self.fault.caused_by(cause);
        self
    }

    /// Says whose failure it is, where the kind alone does not tell.
    pub(crate) fn blamed_on(mut self, origin: Origin) -> Self {
        let fault = match self.fault.not_processed() {
            true => Fault::unsent,
            false => Fault::perhaps_sent,
        };
        self.fault = fault(origin, self.fault.into());
        self
    }

    /// Names the event that ended this call, so that a breaker counts it once.
    pub(crate) fn of(mut self, incident: Incident) -> Self {
        self.fault = self.fault.of(incident);
        self
    }

    pub(crate) fn at(mut self, peer: EndpointId) -> Self {
        self.peer = Some(peer);
        self
    }

    /// Like [`at`](Self::at), where nobody has said so yet.
    pub(crate) fn known_at(mut self, peer: EndpointId) -> Self {
        self.peer.get_or_insert(peer);
        self
    }

    /// Says that the peer may have begun the call.
    pub(crate) fn perhaps_processed(mut self) -> Self {
        self.fault = self.fault.perhaps_processed();
        self
    }

    pub(crate) fn backoff(next_dial: Duration, last: &Error) -> Self {
        let message = format!(
            "the last dial failed ({}); the next is due in {} ms",
            last.status().message(),
            next_dial.as_millis()
        );
        // A peer that refused us still refuses us while we wait, and that is no further failure.
        let status = Status::new(last.status().code(), message);
        Self::with_status(ErrorKind::Backoff, status)
            .caused_by(last.clone())
            .blamed_on(last.fault.origin())
    }

    /// What went wrong.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Whether the peer provably has not begun the call, so that a retry cannot execute it twice: the call was never sent, or
    /// the peer refused it (REFUSED_STREAM, a GOAWAY below the call, a refused lane).
    pub fn not_processed(&self) -> bool {
        self.fault.not_processed()
    }

    /// The peer, if one was known.
    pub fn peer(&self) -> Option<EndpointId> {
        self.peer
    }

    /// The status that a gRPC caller sees.
    pub fn status(&self) -> &Status {
        self.fault.status()
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let what = match self.kind {
            ErrorKind::InvalidPeer => "not a peer that can be dialled",
            ErrorKind::NoAddress => "no address is known",
            ErrorKind::DialTimeout => "the dial timed out",
            ErrorKind::DialFailed => "the dial failed",
            ErrorKind::AlpnMismatch => "the peer does not speak this protocol",
            ErrorKind::WrongIdentity => "the peer's identity did not hold",
            ErrorKind::Backoff => "waiting before the next dial",
            ErrorKind::Forbidden => "the peer refused us",
            ErrorKind::NotAllowed => "this side does not allow the peer",
            ErrorKind::Unauthenticated => "the peer does not know us",
            ErrorKind::Exhausted => "a limit was reached",
            ErrorKind::Draining => "the peer is shutting down",
            ErrorKind::Lost => "the connection was lost",
            ErrorKind::Reset => "the call was reset",
            ErrorKind::RequestBody => "the request's body failed",
            ErrorKind::Deadline => "the deadline passed",
            ErrorKind::Rejected => "the call was rejected on this side",
            ErrorKind::Closed => "closed on this side",
            ErrorKind::Internal => "an internal fault",
        };
        match self.peer {
            Some(peer) => write!(f, "{what} (peer {})", peer.fmt_short()),
            None => f.write_str(what),
        }
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&self.fault)
    }
}

impl From<Error> for Status {
    fn from(error: Error) -> Self {
        error.fault.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wait_is_no_failure_beside_the_one_before_it() {
        for kind in [
            ErrorKind::Draining,
            ErrorKind::Exhausted,
            ErrorKind::Closed,
            ErrorKind::DialFailed,
            ErrorKind::Forbidden,
        ] {
            let last = Error::new(kind, "said so");
            let waits = Error::backoff(Duration::from_secs(1), &last);
            assert_eq!(waits.fault.origin(), last.fault.origin(), "{kind:?}");
            assert_eq!(waits.status().code(), last.status().code());
            assert!(waits.not_processed());
        }
    }

    #[test]
    fn what_layers_say_keeps_its_code_and_its_words() {
        let fault = Fault::unsent(
            Origin::Ours,
            Status::resource_exhausted("the buffer is full"),
        );
        let error = Error::from_layers(Box::new(fault));
        assert_eq!(error.kind(), ErrorKind::Rejected);
        assert_eq!(error.status().message(), "the buffer is full");
        assert!(error.not_processed());
        let boxed: tower_iroh_layers::BoxError = Box::new(error);
        let again = Error::from_layers(boxed);
        assert_eq!(again.kind(), ErrorKind::Rejected);
        let status = Status::from_error(Box::new(again));
        assert_eq!(status.code(), Code::ResourceExhausted);
    }
}

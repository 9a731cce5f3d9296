use std::{error::Error as StdError, fmt, time::Duration};

use iroh::{
    EndpointId,
    endpoint::{ConnectWithOptsError, ConnectingError, ConnectionError},
};
use tonic::{Code, Status};
use tower_iroh_layers::{Fault, Incident, Origin};

use crate::wire::close;

/// What went wrong between a caller and a peer.
///
/// Its [`source`](StdError::source) is a [`Fault`], which tells layers whose failure it is, the fault's the [`Status`] that a gRPC caller
/// sees, and that one's the cause beneath it. So the code survives any stack of boxes: tonic looks for a `Status` along the chain.
#[derive(Clone, Debug)]
pub struct Error {
    kind: ErrorKind,
    peer: Option<EndpointId>,
    fault: Fault,
}

/// What went wrong, in the words of this project.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum ErrorKind {
    /// The URI or peer is not one: INVALID_ARGUMENT.
    InvalidPeer,
    /// Nothing is known of where the peer is: UNAVAILABLE.
    NoAddress,
    /// The peer did not answer the dial in time: UNAVAILABLE.
    DialTimeout,
    /// The dial failed in another way: UNAVAILABLE.
    DialFailed,
    /// The peer is there and does not speak the protocol: UNAVAILABLE.
    AlpnMismatch,
    /// Who answered could not prove that it is the peer: UNAVAILABLE.
    WrongIdentity,
    /// An earlier dial failed and the next is not due yet: the code of that failure, and says when.
    Backoff,
    /// The peer's policy refuses us: PERMISSION_DENIED.
    Forbidden,
    /// The peer's policy does not know us: UNAUTHENTICATED.
    Unauthenticated,
    /// The peer or our own pool is at a limit: RESOURCE_EXHAUSTED.
    Exhausted,
    /// The peer is shutting down: UNAVAILABLE.
    Draining,
    /// The connection was lost: UNAVAILABLE.
    Lost,
    /// The peer ended this one call at the HTTP/2 level; the code follows gRPC's table.
    Reset,
    /// The caller's own request body failed: the status that it failed with.
    RequestBody,
    /// The deadline passed: DEADLINE_EXCEEDED.
    Deadline,
    /// Our own endpoint or links were closed: UNAVAILABLE.
    Closed,
    /// A fault of this program: INTERNAL.
    Internal,
}

impl ErrorKind {
    /// The gRPC code that a caller sees by default.
    pub fn code(self) -> Code {
        match self {
            Self::InvalidPeer => Code::InvalidArgument,
            Self::Forbidden => Code::PermissionDenied,
            Self::Unauthenticated => Code::Unauthenticated,
            Self::Exhausted => Code::ResourceExhausted,
            Self::Deadline => Code::DeadlineExceeded,
            Self::Internal | Self::Reset | Self::RequestBody => Code::Internal,
            Self::NoAddress
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
            | Self::Closed
            | Self::Internal => Origin::Ours,
        }
    }
}

impl Error {
    pub(crate) fn new(kind: ErrorKind, message: impl Into<String>) -> Self {
        Self::with_status(kind, Status::new(kind.code(), message))
    }

    pub(crate) fn with_status(kind: ErrorKind, status: Status) -> Self {
        Self {
            kind,
            peer: None,
            fault: Fault::new(kind.origin(), status),
        }
    }

    pub(crate) fn caused_by(mut self, cause: impl StdError + Send + Sync + 'static) -> Self {
        self.fault = self.fault.caused_by(cause);
        self
    }

    /// Says that the peer did not take the call.
    fn refused(mut self) -> Self {
        self.fault = Fault::new(Origin::Refused, self.fault.into());
        self
    }

    /// Names the event that ended this call, so that whoever counts failures counts it once.
    pub(crate) fn of(mut self, incident: Incident) -> Self {
        self.fault = self.fault.of(incident);
        self
    }

    pub(crate) fn at(mut self, peer: EndpointId) -> Self {
        self.peer = Some(peer);
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
        let error = Self::with_status(ErrorKind::Backoff, status).caused_by(last.clone());
        match last.fault.origin() {
            Origin::Link(incident) => error.of(incident),
            _ => error,
        }
    }

    /// What went wrong.
    pub fn kind(&self) -> ErrorKind {
        self.kind
    }

    /// Whether the peer provably has not begun the call, so that sending it again cannot do anything twice: it never left, or
    /// the peer said so (REFUSED_STREAM, a GOAWAY below the call, a lane that it did not take).
    pub fn not_processed(&self) -> bool {
        self.fault.not_processed()
    }

    /// The peer that it went wrong with, where one was known.
    pub fn peer(&self) -> Option<EndpointId> {
        self.peer
    }

    /// What a gRPC caller sees.
    pub fn status(&self) -> &Status {
        self.fault.status()
    }

    /// What a closed connection means for who was using it, or tried to.
    pub(crate) fn from_connection(error: &ConnectionError) -> Self {
        let (kind, message): (_, String) = match error {
            ConnectionError::ApplicationClosed(frame) => {
                let said = String::from_utf8_lossy(&frame.reason);
                match frame.error_code {
                    close::FORBIDDEN => (ErrorKind::Forbidden, format!("refused: {said}")),
                    close::UNAUTHENTICATED => {
                        (ErrorKind::Unauthenticated, format!("refused: {said}"))
                    }
                    close::TOO_MANY_CONNECTIONS => {
                        (ErrorKind::Exhausted, format!("the peer refused: {said}"))
                    }
                    close::DRAINING | close::DRAINED => {
                        (ErrorKind::Draining, "the peer is shutting down".to_owned())
                    }
                    close::DRAIN_EXPIRED => (
                        ErrorKind::Lost,
                        "the peer shut down before the call was finished".to_owned(),
                    ),
                    close::GONE => (ErrorKind::Lost, "the peer's endpoint closed".to_owned()),
                    close::IDLE | close::CLIENT_CLOSED | close::RETIRED | close::UNHEALTHY => (
                        ErrorKind::Lost,
                        format!("the peer closed the connection: {said}"),
                    ),
                    // A code that is not ours comes from a hook of the application, which rejects with what it likes.
                    code => (
                        ErrorKind::Forbidden,
                        format!("the peer refused with code {code}: {said}"),
                    ),
                }
            }
            // 0x178: the TLS alert no_application_protocol, RFC 9001 section 4.8.
            ConnectionError::ConnectionClosed(frame)
                if u64::from(frame.error_code) == ALERT_NO_APPLICATION_PROTOCOL =>
            {
                (
                    ErrorKind::AlpnMismatch,
                    "the peer does not speak the protocol asked for".to_owned(),
                )
            }
            // An endpoint that is closing says so too, so it is not the limit that it may be.
            ConnectionError::ConnectionClosed(frame)
                if u64::from(frame.error_code) == CONNECTION_REFUSED =>
            {
                (
                    ErrorKind::DialFailed,
                    "the peer refused the connection: it is busy or shutting down".to_owned(),
                )
            }
            ConnectionError::TransportError(error)
                if u64::from(error.code) == ALERT_NO_APPLICATION_PROTOCOL =>
            {
                (
                    ErrorKind::AlpnMismatch,
                    "the peer does not speak the protocol asked for".to_owned(),
                )
            }
            ConnectionError::TransportError(error)
                if CRYPTO_ERRORS.contains(&u64::from(error.code)) =>
            {
                (
                    ErrorKind::WrongIdentity,
                    "who answered could not prove to be the peer".to_owned(),
                )
            }
            ConnectionError::TimedOut => (
                ErrorKind::Lost,
                "the peer fell silent and the connection timed out".to_owned(),
            ),
            ConnectionError::LocallyClosed => (
                ErrorKind::Closed,
                "the connection was closed on this side".to_owned(),
            ),
            _ => (ErrorKind::Lost, "the connection was lost".to_owned()),
        };
        Self::new(kind, message).caused_by(error.clone())
    }

    /// What a dial means that failed before it reached anybody.
    pub(crate) fn from_connect_start(
        source: &ConnectWithOptsError,
        shown: &(impl fmt::Display + ?Sized),
    ) -> Self {
        let kind = match source {
            ConnectWithOptsError::SelfConnect { .. } => ErrorKind::InvalidPeer,
            ConnectWithOptsError::NoAddress { .. } => ErrorKind::NoAddress,
            ConnectWithOptsError::EndpointClosed { .. } => ErrorKind::Closed,
            ConnectWithOptsError::LocallyRejected { .. } => ErrorKind::Forbidden,
            _ => ErrorKind::DialFailed,
        };
        Self::new(kind, format!("cannot dial: {shown}"))
    }

    pub(crate) fn from_connecting(error: &ConnectingError) -> Self {
        match error {
            ConnectingError::ConnectionError { source, .. } => Self::from_dial_connection(source),
            ConnectingError::LocallyRejected { .. } => {
                Self::new(ErrorKind::Forbidden, "a hook on this side refused the peer")
                    .caused_by(error.clone())
            }
            _ => Self::new(ErrorKind::DialFailed, "the handshake failed").caused_by(error.clone()),
        }
    }

    /// A connection that ended before it began: a time-out is a dial's, and nothing was lost because nothing was sent.
    fn from_dial_connection(error: &ConnectionError) -> Self {
        let mut mapped = Self::from_connection(error);
        mapped.kind = match (mapped.kind, error) {
            (_, ConnectionError::TimedOut) => ErrorKind::DialTimeout,
            (ErrorKind::Lost, _) => ErrorKind::DialFailed,
            (kind, _) => kind,
        };
        mapped
    }

    /// What an HTTP/2 error means for one call. `connection` is why the QUIC connection beneath ended, if it did.
    pub(crate) fn from_h2(error: h2::Error, connection: Option<&ConnectionError>) -> Self {
        // A reset is about this call alone and was received before the connection ended.
        if let Some(connection) = connection
            && !error.is_reset()
        {
            return Self::from_connection(connection);
        }
        if error.is_io() {
            return Self::new(ErrorKind::Lost, "the lane was lost").caused_by(error);
        }
        // A GOAWAY without an error reaches only the calls that the peer has not begun, RFC 9113 section 6.8.
        if error.is_go_away() && error.is_remote() && error.reason() == Some(h2::Reason::NO_ERROR) {
            return Self::new(ErrorKind::Draining, "the peer is shutting down").caused_by(error);
        }
        let Some(reason) = error.reason() else {
            return Self::new(ErrorKind::Internal, format!("HTTP/2: {error}")).caused_by(error);
        };
        // The table of gRPC's PROTOCOL-HTTP2, "Errors".
        let code = match reason {
            h2::Reason::REFUSED_STREAM => Code::Unavailable,
            h2::Reason::CANCEL => Code::Cancelled,
            h2::Reason::ENHANCE_YOUR_CALM => Code::ResourceExhausted,
            h2::Reason::INADEQUATE_SECURITY => Code::PermissionDenied,
            _ => Code::Internal,
        };
        let by_peer = error.is_remote();
        let who = if by_peer { "the peer" } else { "this side" };
        let status = Status::new(code, format!("{who} reset the call: {reason}"));
        let error = Self::with_status(ErrorKind::Reset, status).caused_by(error);
        match reason {
            h2::Reason::REFUSED_STREAM if by_peer => error.refused(),
            _ => error,
        }
    }
}

/// `CRYPTO_ERROR` with the alert 120, RFC 9001 section 4.8 and RFC 7301 section 3.2.
const ALERT_NO_APPLICATION_PROTOCOL: u64 = 0x100 + 120;
/// All of `CRYPTO_ERROR`, RFC 9000 section 20.1.
const CRYPTO_ERRORS: std::ops::RangeInclusive<u64> = 0x100..=0x1ff;
/// RFC 9000 section 20.1.
const CONNECTION_REFUSED: u64 = 0x02;

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
            ErrorKind::Unauthenticated => "the peer does not know us",
            ErrorKind::Exhausted => "a limit was reached",
            ErrorKind::Draining => "the peer is shutting down",
            ErrorKind::Lost => "the connection was lost",
            ErrorKind::Reset => "the call was reset",
            ErrorKind::RequestBody => "the request's body failed",
            ErrorKind::Deadline => "the deadline passed",
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

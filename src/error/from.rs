//! What errors of the layers, of QUIC and of HTTP/2 mean to a caller.

use std::{error::Error as StdError, fmt};

use iroh::endpoint::{ConnectWithOptsError, ConnectingError, ConnectionError};
use tonic::{Code, Status};
use tower_iroh_layers::{
    BoxError, Fault, Incident, Origin,
    fault::{chain, code_of_h2, is_own_limit},
};

use super::{Error, ErrorKind};
use crate::wire::close;

impl Error {
    /// The first of ours in an error's chain.
    pub(crate) fn in_chain<'a>(error: &'a (dyn StdError + 'static)) -> Option<&'a Self> {
        chain(error).find_map(|cause| cause.downcast_ref())
    }

    /// The error that comes out of a stack of layers: ours as it is, else the fault or status in its chain.
    pub(crate) fn from_layers(error: BoxError) -> Self {
        let error = match error.downcast::<Self>() {
            Ok(error) => return *error,
            Err(error) => error,
        };
        if let Some(ours) = Self::in_chain(&*error) {
            return ours.clone();
        }
        let Some(fault) = Fault::find(&*error) else {
            // A layer of the user's own, which tells at most a code.
            let status = Status::from_error(error);
            return Self::with_status(ErrorKind::Reset, status).perhaps_processed();
        };
        let kind = match (fault.status().code(), fault.origin()) {
            (Code::DeadlineExceeded, _) => ErrorKind::Deadline,
            (_, Origin::Ours) => ErrorKind::Rejected,
            (_, Origin::Link(_)) => ErrorKind::Lost,
            (_, Origin::Refused) => ErrorKind::Draining,
            _ => ErrorKind::Reset,
        };
        // The layer's own error stays in the chain, beneath the status.
        let cause = Boxed(error);
        Self {
            kind,
            peer: None,
            fault: fault.caused_by(cause),
        }
    }

    /// What a closed connection means for its callers. `answered` says whether anything ever came back on it.
    pub(crate) fn from_connection(error: &ConnectionError, answered: bool) -> Self {
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
                    code if close::is_unused(code) => (
                        ErrorKind::Draining,
                        format!("the peer ended the connection: {said}"),
                    ),
                    close::CUT => (
                        ErrorKind::Lost,
                        format!("the peer cut the connection: {said}"),
                    ),
                    close::DRAIN_EXPIRED => (
                        ErrorKind::Lost,
                        "the peer shut down before the call was finished".to_owned(),
                    ),
                    close::GONE => (ErrorKind::Lost, "the peer's endpoint closed".to_owned()),
                    close::IDLE | close::CLIENT_CLOSED | close::RETIRED | close::UNHEALTHY => (
                        ErrorKind::Lost,
                        format!("the peer closed the connection: {said}"),
                    ),
                    // The application at the other end closed it with a code of its own.
                    code if answered => (
                        ErrorKind::Lost,
                        format!("the peer closed the connection with code {code}: {said}"),
                    ),
                    // Before any answer that is a hook of the application, which rejects with any code.
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
            // An endpoint that is closing sends this code too, so it may not be a limit.
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
                    "another identity answered at the peer's address".to_owned(),
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
        let mapped = Self::new(kind, message).caused_by(error.clone());
        match kind {
            // The peer's limit, not ours.
            ErrorKind::Exhausted => mapped.blamed_on(Origin::Link(Incident::new())),
            _ => mapped,
        }
    }

    /// What the failure of a dial means that sent nothing.
    pub(crate) fn from_connect_start(
        source: &ConnectWithOptsError,
        shown: &(impl fmt::Display + ?Sized),
    ) -> Self {
        let kind = match source {
            ConnectWithOptsError::SelfConnect { .. } => ErrorKind::InvalidPeer,
            ConnectWithOptsError::NoAddress { .. } => ErrorKind::NoAddress,
            ConnectWithOptsError::EndpointClosed { .. } => ErrorKind::Closed,
            ConnectWithOptsError::LocallyRejected { .. } => ErrorKind::NotAllowed,
            _ => ErrorKind::DialFailed,
        };
        Self::new(kind, format!("cannot dial: {shown}"))
    }

    pub(crate) fn from_connecting(error: &ConnectingError) -> Self {
        match error {
            ConnectingError::ConnectionError { source, .. } => Self::from_dial_connection(source),
            ConnectingError::LocallyRejected { .. } => Self::new(
                ErrorKind::NotAllowed,
                "a hook on this side refused the peer",
            )
            .caused_by(error.clone()),
            _ => Self::new(ErrorKind::DialFailed, "the handshake failed").caused_by(error.clone()),
        }
    }

    /// A connection that ended before it began: a time-out is the dial's, and nothing was lost, because nothing was sent.
    fn from_dial_connection(error: &ConnectionError) -> Self {
        let mut mapped = Self::from_connection(error, false);
        match (mapped.kind, error) {
            (_, ConnectionError::TimedOut) => {
                mapped.kind = ErrorKind::DialTimeout;
                mapped.fault = mapped.fault.timed_out();
            }
            (ErrorKind::Lost, _) => mapped.kind = ErrorKind::DialFailed,
            _ => {}
        }
        mapped
    }

    /// What an HTTP/2 error means for one call. `connection` says why the QUIC connection beneath ended, if it did.
    pub(crate) fn from_h2(error: h2::Error, connection: Option<Self>) -> Self {
        // A reset is about this call alone and was received before the connection ended.
        if let Some(connection) = connection
            && !error.is_reset()
        {
            return connection;
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
        let (by_peer, own_limit) = (error.is_remote(), is_own_limit(&error));
        let who = if by_peer { "the peer" } else { "this side" };
        let status = Status::new(
            code_of_h2(reason),
            format!("{who} reset the call: {reason}"),
        );
        let error = Self::with_status(ErrorKind::Reset, status).caused_by(error);
        match reason {
            h2::Reason::REFUSED_STREAM if by_peer => error.blamed_on(Origin::Refused),
            // It says nothing of the peer.
            _ if own_limit => error.blamed_on(Origin::Ours),
            _ => error,
        }
    }
}

/// A boxed error as an error, so that it can be another's cause.
#[derive(Debug)]
struct Boxed(BoxError);

impl fmt::Display for Boxed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl StdError for Boxed {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        // Itself, so that it can be asked for its type.
        Some(&*self.0)
    }
}

/// `CRYPTO_ERROR` with the alert 120, RFC 9001 section 4.8 and RFC 7301 section 3.2.
const ALERT_NO_APPLICATION_PROTOCOL: u64 = 0x100 + 120;
/// All of `CRYPTO_ERROR`, RFC 9000 section 20.1.
const CRYPTO_ERRORS: std::ops::RangeInclusive<u64> = 0x100..=0x1ff;
/// RFC 9000 section 20.1.
const CONNECTION_REFUSED: u64 = 0x02;

#[cfg(test)]
mod tests {
    use iroh::endpoint::{ApplicationClose, VarInt};

    use super::*;

    #[test]
    fn a_code_of_the_application_refuses_only_before_any_answer() {
        let closed = |code| {
            ConnectionError::ApplicationClosed(ApplicationClose {
                error_code: code,
                reason: "why".into(),
            })
        };
        let kind = |code, answered| Error::from_connection(&closed(code), answered).kind();
        let unknown = VarInt::from_u32(0x7777);
        assert_eq!(kind(unknown, false), ErrorKind::Forbidden);
        assert_eq!(kind(unknown, true), ErrorKind::Lost);
        // A code that says so refuses at any time: a peer may be shut out later.
        for answered in [false, true] {
            assert_eq!(kind(close::FORBIDDEN, answered), ErrorKind::Forbidden);
        }
    }
}

//! What TCP's and TLS's errors mean to a caller.

use std::{io, net::SocketAddr};

use rustls::{AlertDescription, InvalidMessage, PeerIncompatible};
use tower_iroh_layers::{Incident, Origin};

use crate::error::{Error, ErrorKind};

/// What TLS says in an IO error, if it is TLS that does.
fn tls(error: &io::Error) -> Option<&rustls::Error> {
    error.get_ref()?.downcast_ref()
}

/// Nobody was reached.
pub(super) fn unreachable(error: io::Error, addr: &dyn std::fmt::Display) -> Error {
    let kind = match error.kind() {
        io::ErrorKind::TimedOut => ErrorKind::DialTimeout,
        _ => ErrorKind::DialFailed,
    };
    Error::new(kind, format!("cannot reach {addr}: {error}")).caused_by(error)
}

/// Whether the bytes that came are none of TLS's: a server that speaks HTTP in the clear, most likely.
pub(super) fn speaks_no_tls(error: &io::Error) -> bool {
    matches!(
        tls(error),
        Some(rustls::Error::InvalidMessage(
            InvalidMessage::InvalidContentType | InvalidMessage::UnknownProtocolVersion
        ))
    )
}

/// The address answered, and the handshake failed.
pub(super) fn handshake(error: io::Error, remote: SocketAddr) -> Error {
    let (kind, message) = match tls(&error) {
        Some(error) => refused(error),
        None => (
            ErrorKind::DialFailed,
            "the connection ended during the handshake".to_owned(),
        ),
    };
    Error::new(kind, format!("{message} ({remote})")).caused_by(error)
}

fn refused(error: &rustls::Error) -> (ErrorKind, String) {
    use rustls::Error as Tls;
    match error {
        Tls::InvalidCertificate(_)
        | Tls::NoCertificatesPresented
        | Tls::PeerIncompatible(
            PeerIncompatible::IncorrectCertificateTypeExtension
            | PeerIncompatible::UnsolicitedCertificateTypeExtension,
        ) => (
            ErrorKind::WrongIdentity,
            "who answered could not prove to be the peer".to_owned(),
        ),
        Tls::InvalidMessage(_) => (
            ErrorKind::AlpnMismatch,
            "the peer's port does not speak TLS, and nothing is said in the clear".to_owned(),
        ),
        Tls::AlertReceived(alert) => alerted(*alert),
        Tls::PeerIncompatible(_) | Tls::NoApplicationProtocol => (
            ErrorKind::AlpnMismatch,
            format!("the peer does not speak HTTP/2 over TLS 1.3: {error}"),
        ),
        other => (
            ErrorKind::DialFailed,
            format!("the handshake failed: {other}"),
        ),
    }
}

fn alerted(alert: AlertDescription) -> (ErrorKind, String) {
    let kind = match alert {
        AlertDescription::AccessDenied => ErrorKind::Forbidden,
        AlertDescription::CertificateRequired
        | AlertDescription::BadCertificate
        | AlertDescription::CertificateUnknown
        | AlertDescription::UnsupportedCertificate
        | AlertDescription::UnknownCA
        | AlertDescription::DecryptError => ErrorKind::Unauthenticated,
        AlertDescription::ProtocolVersion
        | AlertDescription::NoApplicationProtocol
        | AlertDescription::HandshakeFailure => ErrorKind::AlpnMismatch,
        _ => ErrorKind::DialFailed,
    };
    (kind, format!("the peer refused with TLS's {alert:?}"))
}

/// A connection that was there is broken. With TLS 1.3 a server that refuses a client says so only then.
pub(super) fn lost(error: &io::Error) -> Error {
    let (kind, message) = match tls(error) {
        Some(rustls::Error::AlertReceived(alert)) => match alerted(*alert) {
            (kind @ (ErrorKind::Forbidden | ErrorKind::Unauthenticated), message) => {
                (kind, message)
            }
            (_, message) => (ErrorKind::Lost, message),
        },
        _ => match error.kind() {
            io::ErrorKind::UnexpectedEof => {
                (ErrorKind::Lost, "the peer closed the connection".to_owned())
            }
            io::ErrorKind::TimedOut => (
                ErrorKind::Lost,
                "the peer fell silent and the connection timed out".to_owned(),
            ),
            _ => (ErrorKind::Lost, format!("the connection was lost: {error}")),
        },
    };
    // An IO error cannot be cloned, and later reads return it too.
    Error::new(kind, message).caused_by(io::Error::new(error.kind(), error.to_string()))
}

/// What a server means that takes no connection: see `refusal`.
pub(super) fn refusal(reason: h2::Reason, said: &str) -> Error {
    match reason {
        h2::Reason::NO_ERROR => Error::new(ErrorKind::Draining, "the peer is shutting down"),
        h2::Reason::ENHANCE_YOUR_CALM => {
            Error::new(ErrorKind::Exhausted, format!("the peer refused: {said}"))
                // The peer's limit, not ours.
                .blamed_on(Origin::Link(Incident::new()))
        }
        h2::Reason::INADEQUATE_SECURITY => {
            Error::new(ErrorKind::Forbidden, format!("the peer refused: {said}"))
        }
        other => Error::new(
            ErrorKind::DialFailed,
            format!("the peer refused with {other}: {said}"),
        ),
    }
}

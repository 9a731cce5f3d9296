//! What a transport or layer knows of a failure beyond its gRPC code.
//!
//! UNAVAILABLE says neither whose failure it is nor whether the peer may have begun the call. Both decide the next step: a breaker counts one lost
//! connection once, and a retry may repeat at once a call that never left. A transport or a layer that knows puts a [`Fault`] into its error's
//! source chain: [`Fault::unsent`] if the call provably never left, [`Fault::perhaps_sent`] if it may have. A layer finds it with [`Fault::find`].
//! The fault's own source is the [`Status`] that a caller sees, so a transport that sets a fault has set the code too.
//!
//! ```
//! use tonic::Status;
//! use tower_iroh_layers::{Fault, Origin};
//!
//! let fault = Fault::unsent(Origin::Ours, Status::resource_exhausted("the queue is full"));
//! let boxed: tower_iroh_layers::BoxError = Box::new(fault);
//! let found = Fault::find(&*boxed).unwrap();
//! assert!(found.not_processed());
//! assert_eq!(Status::from_error(boxed).code(), tonic::Code::ResourceExhausted);
//! ```

use std::{
    error::Error,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use tonic::{Code, ConnectError, Status, TimeoutExpired};

/// What a transport or a layer knows of a failure.
#[derive(Clone, Debug)]
pub struct Fault {
    origin: Origin,
    perhaps_processed: bool,
    temporary: bool,
    timed_out: bool,
    status: Status,
}

/// Whose failure it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Origin {
    /// The peer answered with a status; the code decides.
    Peer,
    /// The peer, or a proxy before it, provably did not take this call and would take others: REFUSED_STREAM, a GOAWAY below the call.
    Refused,
    /// The link to the peer: a failed dial, a refused handshake, a lost connection. All calls that one such event ends carry the same [`Incident`].
    Link(Incident),
    /// This side: a full queue, an open breaker, a caller's own body. It says nothing about the peer.
    Ours,
}

/// One event that may end many calls, such as a lost connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Incident(u64);

impl Incident {
    /// An incident that differs from all others of this process.
    #[allow(clippy::new_without_default, reason = "each is another one")]
    pub fn new() -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(1);
        Self(NEXT.fetch_add(1, Ordering::Relaxed))
    }

    /// Its number, never 0.
    pub fn get(self) -> u64 {
        self.0
    }
}

impl Fault {
    /// A failure of a call that provably never left, or that the peer says it has not begun. A retry sends such a call again, whatever its method:
    /// when in doubt use [`perhaps_sent`](Self::perhaps_sent).
    pub fn unsent(origin: Origin, status: Status) -> Self {
        Self {
            origin,
            perhaps_processed: false,
            temporary: false,
            timed_out: false,
            status,
        }
    }

    /// A failure of a call that the peer may have begun. Only a call that may be executed twice is sent again after it.
    pub fn perhaps_sent(origin: Origin, status: Status) -> Self {
        Self::unsent(origin, status).perhaps_processed()
    }

    /// Marks an [`unsent`](Self::unsent) fault: the peer may have begun the call after all.
    pub fn perhaps_processed(mut self) -> Self {
        self.perhaps_processed = true;
        self
    }

    /// Marks a rejection by this side ([`Origin::Ours`]) as temporary, as a fail-fast's is while the peer is away: a caller that can wait should
    /// wait. A full queue or a closed endpoint is not temporary.
    pub fn temporary(mut self) -> Self {
        self.temporary = true;
        self
    }

    /// Says that the transport used its whole time-out, as with a dial that nobody answers. The caller has waited once and should not wait as long
    /// again.
    pub fn timed_out(mut self) -> Self {
        self.timed_out = true;
        self
    }

    /// Sets the cause as the status's source.
    pub fn caused_by(mut self, cause: impl Error + Send + Sync + 'static) -> Self {
        self.status.set_source(Arc::new(cause));
        self
    }

    /// Sets the incident of a link fault; any other fault stays as it is.
    pub fn of(mut self, incident: Incident) -> Self {
        if let Origin::Link(own) = &mut self.origin {
            *own = incident;
        }
        self
    }

    /// Whose failure it is.
    pub fn origin(&self) -> Origin {
        self.origin
    }

    /// Whether the peer provably has not begun the call, so that sending it again cannot do anything twice.
    pub fn not_processed(&self) -> bool {
        !self.perhaps_processed
    }

    /// Whether this side will take the same call later.
    pub fn is_temporary(&self) -> bool {
        self.temporary
    }

    /// Whether the transport used its whole time-out.
    pub fn is_timed_out(&self) -> bool {
        self.timed_out
    }

    /// The status that a gRPC caller sees.
    pub fn status(&self) -> &Status {
        &self.status
    }

    /// The fault in the chain of `error` and its sources.
    ///
    /// Beside a [`Fault`] it recognises the errors of tonic's own transport. A [`ConnectError`] is a link fault. An HTTP/2 REFUSED_STREAM or GOAWAY
    /// without an error from the peer is a refusal. A stream or a connection that a limit of this side ended, as for too large headers, is a fault
    /// of [ours](Origin::Ours). `None` if only a code is known.
    pub fn find(error: &(dyn Error + 'static)) -> Option<Self> {
        let mut code = None;
        let mut dial = None;
        for error in chain(error) {
            if let Some(fault) = error.downcast_ref::<Self>() {
                return Some(fault.clone());
            }
            if let Some(status) = error.downcast_ref::<Status>() {
                code.get_or_insert(status.code());
            } else if error.is::<ConnectError>() {
                // A refused dial may have a more precise error beneath.
                dial.get_or_insert(error);
            } else if let (Some(h2), None) = (error.downcast_ref::<h2::Error>(), dial) {
                return Self::of_h2(h2);
            }
        }
        let status = Status::new(code.unwrap_or(Code::Unavailable), dial?.to_string());
        Some(Self::unsent(Origin::Link(Incident::new()), status))
    }

    /// What an HTTP/2 error proves of its call.
    fn of_h2(error: &h2::Error) -> Option<Self> {
        if refusal(error) {
            let status = Status::unavailable(error.to_string());
            return Some(Self::unsent(Origin::Refused, status));
        }
        is_own_limit(error).then(|| {
            let status = Status::new(code_of(error), error.to_string());
            Self::perhaps_sent(Origin::Ours, status)
        })
    }
}

/// Whether an HTTP/2 error comes from a limit of this side, such as the size of the headers. h2 also resets a stream for an answer that HTTP/2 does
/// not allow, and does not tell the two apart. It ends a connection with ENHANCE_YOUR_CALM only for its limits.
pub fn is_own_limit(error: &h2::Error) -> bool {
    let by_guard = error.is_go_away() && error.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM);
    !error.is_remote() && (error.is_reset() || by_guard)
}

/// RFC 9113: the peer has not begun a stream that it refuses (section 8.7), nor one above a GOAWAY's last (section 6.8); h2 fails
/// only those with a GOAWAY that has no error.
fn refusal(error: &h2::Error) -> bool {
    let reason = error.reason();
    error.is_remote()
        && ((error.is_reset() && reason == Some(h2::Reason::REFUSED_STREAM))
            || (error.is_go_away() && reason == Some(h2::Reason::NO_ERROR)))
}

/// The gRPC code of an error: that of the first error in its chain that has one, as tonic's client finds it. A failed dial differs: tonic always
/// says UNAVAILABLE, but the error that refused it may have its own code beneath. A transport's time-out is DEADLINE_EXCEEDED; an error without a
/// code is UNKNOWN.
pub fn code_of(error: &(dyn Error + 'static)) -> Code {
    let mut otherwise = Code::Unknown;
    for error in chain(error) {
        if let Some(fault) = error.downcast_ref::<Fault>() {
            return fault.status.code();
        }
        if let Some(status) = error.downcast_ref::<Status>() {
            return status.code();
        }
        if error.is::<ConnectError>() {
            otherwise = Code::Unavailable;
        }
        if otherwise == Code::Unavailable {
            continue;
        }
        if error.is::<TimeoutExpired>() {
            return Code::DeadlineExceeded;
        }
        if let Some(reason) = error
            .downcast_ref::<h2::Error>()
            .and_then(h2::Error::reason)
        {
            return code_of_h2(reason);
        }
    }
    otherwise
}

/// The gRPC code of an HTTP/2 error: the table of PROTOCOL-HTTP2, "Errors". A reason that is not in the table is UNKNOWN, as in tonic.
pub fn code_of_h2(reason: h2::Reason) -> Code {
    match reason {
        h2::Reason::REFUSED_STREAM => Code::Unavailable,
        h2::Reason::CANCEL => Code::Cancelled,
        h2::Reason::ENHANCE_YOUR_CALM => Code::ResourceExhausted,
        h2::Reason::INADEQUATE_SECURITY => Code::PermissionDenied,
        h2::Reason::NO_ERROR
        | h2::Reason::PROTOCOL_ERROR
        | h2::Reason::INTERNAL_ERROR
        | h2::Reason::FLOW_CONTROL_ERROR
        | h2::Reason::SETTINGS_TIMEOUT
        | h2::Reason::FRAME_SIZE_ERROR
        | h2::Reason::COMPRESSION_ERROR
        | h2::Reason::CONNECT_ERROR => Code::Internal,
        _ => Code::Unknown,
    }
}

/// An error and what caused it, outermost first.
pub fn chain<'a>(
    error: &'a (dyn Error + 'static),
) -> impl Iterator<Item = &'a (dyn Error + 'static)> {
    let mut next = Some(error);
    std::iter::from_fn(move || {
        let error = next?;
        next = error.source();
        Some(error)
    })
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self.origin {
            Origin::Peer => "the peer answered with an error",
            Origin::Refused => "the peer did not take the call",
            Origin::Link(_) => "the way to the peer failed",
            Origin::Ours => "the call was rejected on this side",
        })
    }
}

impl Error for Fault {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        Some(&self.status)
    }
}

impl From<Fault> for Status {
    fn from(fault: Fault) -> Self {
        fault.status
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("outer")]
    struct Outer(#[source] crate::BoxError);

    #[test]
    fn a_fault_is_found_through_boxes_and_keeps_its_code() {
        let fault = Fault::unsent(Origin::Refused, Status::unavailable("later"));
        let error: crate::BoxError = Box::new(Outer(Box::new(Outer(Box::new(fault)))));
        let found = Fault::find(&*error).expect("found");
        assert_eq!(found.origin(), Origin::Refused);
        assert!(found.not_processed());
        assert_eq!(code_of(&*error), Code::Unavailable);
        assert_eq!(Status::from_error(error).code(), Code::Unavailable);
    }

    #[test]
    fn what_tonic_leaves_is_read_too() {
        let error: crate::BoxError = Box::new(Outer(Box::new(ConnectError("no route".into()))));
        let found = Fault::find(&*error).expect("found");
        assert!(matches!(found.origin(), Origin::Link(_)) && found.not_processed());
        assert_eq!(code_of(&*error), Code::Unavailable);

        // Whoever refused it says so beneath, and what else stands there is the dial's business.
        let refused = Fault::unsent(Origin::Link(Incident::new()), Status::permission_denied(""));
        let error: crate::BoxError = Box::new(ConnectError(Box::new(Outer(Box::new(refused)))));
        let found = Fault::find(&*error).expect("found");
        assert_eq!(found.status().code(), Code::PermissionDenied);
        assert_eq!(code_of(&*error), Code::PermissionDenied);
        let h2 = h2::Error::from(h2::Reason::CANCEL);
        let error: crate::BoxError = Box::new(ConnectError(Box::new(h2)));
        let found = Fault::find(&*error).expect("found");
        assert!(matches!(found.origin(), Origin::Link(_)));
        assert_eq!(code_of(&*error), Code::Unavailable);

        let error = h2::Error::from(h2::Reason::REFUSED_STREAM);
        assert!(Fault::find(&error).is_none(), "not from the peer");
        assert_eq!(code_of(&error), Code::Unavailable);
        assert_eq!(code_of(&Status::aborted("")), Code::Aborted);
        assert!(Fault::find(&Status::aborted("")).is_none());
        assert_eq!(code_of(&std::io::Error::other("?")), Code::Unknown);
    }

    #[tokio::test]
    async fn what_this_side_s_limits_ended_is_a_fault_of_ours() {
        // h2 resets the stream for headers above the limit, and ends the connection for headers far above it.
        for (large, resets) in [(1200, true), (4096, false)] {
            let (near, far) = tokio::io::duplex(1 << 16);
            tokio::spawn(async move {
                let mut server = h2::server::handshake(far).await.expect("a connection");
                while let Some(Ok((_, mut respond))) = server.accept().await {
                    let response = http::Response::builder().header("large", "x".repeat(large));
                    let _ = respond.send_response(response.body(()).expect("valid"), true);
                }
            });
            let mut client = h2::client::Builder::new();
            client.max_header_list_size(1024);
            let connected = client.handshake::<_, bytes::Bytes>(near).await;
            let (requests, connection) = connected.expect("a connection");
            tokio::spawn(connection);
            let mut requests = requests.ready().await.expect("ready");
            let request = http::Request::builder().uri("http://peer/").body(());
            let sent = requests.send_request(request.expect("valid"), true);
            let error = sent.expect("sent").0.await.expect_err("too large");
            assert_eq!(error.is_reset(), resets, "{error:?}");
            let error: crate::BoxError = Box::new(Outer(Box::new(error)));
            let found = Fault::find(&*error).expect("found");
            assert!(found.origin() == Origin::Ours && !found.not_processed());
            assert_eq!(found.status().code(), code_of(&*error));
        }
    }

    #[test]
    fn the_code_of_an_http2_error_is_tonic_s() {
        for reason in (0..20).map(h2::Reason::from) {
            let by_tonic = Status::from_error(Box::new(h2::Error::from(reason)));
            assert_eq!(code_of_h2(reason), by_tonic.code(), "{reason:?}");
        }
    }

    #[test]
    fn no_two_incidents_are_the_same() {
        assert_ne!(Incident::new(), Incident::new());
    }
}

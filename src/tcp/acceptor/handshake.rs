//! From an accepted socket to a connection: tells TLS from plaintext, completes the handshake, admits the caller.

use std::{
    fmt, io,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use iroh::EndpointId;
use tokio::{net::TcpStream, time::sleep};
use tokio_rustls::TlsAcceptor;
use tonic::Code;

use super::{
    super::{dial::prepare, io::TcpIo, refusal, stream::Stream, tls},
    Permit, Shared,
    silent::Accepted,
};
use crate::{
    http2::Observer,
    pool::{Busy, Full, HandshakePermit, Source, admission},
};

/// A TLS record that holds a handshake: RFC 8446, section 5.1.
const TLS: u8 = 0x16;

/// What a caller that has spoken gets.
pub(super) enum Turn {
    /// Its handshake may begin.
    Now(HandshakePermit),
    /// It waits for a permit, and is counted as one of those that wait.
    Queued {
        source: Source,
        busy: Busy,
        queued: HandshakePermit,
    },
}

impl Turn {
    /// `None` if too many wait, or too many of its source. The caller is refused then.
    pub(super) fn take(shared: &Shared, remote: SocketAddr) -> Option<Self> {
        // TCP has proved the address.
        let source = Source::address(remote.ip());
        let busy = match shared.handshakes.try_acquire(source.clone()) {
            Ok(permit) => return Some(Self::Now(permit)),
            Err(busy) => busy,
        };
        match shared.queue.try_acquire(source.clone()) {
            Ok(queued) => Some(Self::Queued {
                source,
                busy,
                queued,
            }),
            Err(_) => {
                shared.refused(remote, &Refused::Busy(busy));
                None
            }
        }
    }

    /// Waits for the permit, or until the time is over.
    async fn wait(self, shared: &Shared, left: Duration) -> Result<HandshakePermit, Refused> {
        match self {
            Self::Now(permit) => Ok(permit),
            Self::Queued {
                source,
                busy,
                queued,
            } => tokio::select! {
                permit = shared.handshakes.acquire(source) => Ok(permit),
                busy = queued.displaced() => Err(Refused::Busy(busy)),
                () = sleep(left) => Err(Refused::Busy(busy)),
            },
        }
    }
}

/// Makes a connection of an accepted socket, or refuses it. Dropping the future closes the socket.
pub(super) async fn shake_hands(
    shared: Arc<Shared>,
    socket: Accepted,
    turn: Turn,
) -> Option<TcpIo> {
    let remote = socket.remote;
    match in_time(&shared, socket, turn).await {
        Ok(io) => {
            metrics::counter!("tower_iroh_tcp_connections_total").increment(1);
            Some(io)
        }
        Err(refused) => {
            shared.refused(remote, &refused);
            None
        }
    }
}

async fn in_time(shared: &Arc<Shared>, socket: Accepted, turn: Turn) -> Result<TcpIo, Refused> {
    let Accepted {
        stream,
        remote,
        since,
    } = socket;
    let left = || {
        let most = shared.settings.handshake_timeout;
        most.saturating_sub(since.elapsed())
    };
    let permit = turn.wait(shared, left()).await?;
    tokio::select! {
        admitted = admit(shared, stream, remote) => admitted,
        busy = permit.displaced() => Err(Refused::Busy(busy)),
        () = sleep(left()) => Err(Refused::Timeout),
    }
}

impl Shared {
    fn refused(&self, remote: SocketAddr, refused: &Refused) {
        let reason = refused.reason();
        self.refusals.add(reason, |suppressed| match refused {
        Refused::Plaintext if !self.warned.swap(true, Relaxed) => tracing::warn!(
            %remote, listener = %self.local_addr,
            "refused a caller without TLS: this port takes only TLS with iroh identities; TcpAcceptorBuilder::plaintext admits such callers; this is logged once"
        ),
        Refused::Full(..) | Refused::Busy(_) => {
            tracing::warn!(%remote, reason, suppressed, "refused a TCP connection: {refused}");
        }
        Refused::Policy(_) => {
            tracing::info!(%remote, reason, suppressed, "refused a TCP connection: {refused}");
        }
        _ => tracing::debug!(%remote, reason, suppressed, "refused a TCP connection: {refused}"),
    });
    }
}

async fn admit(
    shared: &Arc<Shared>,
    stream: TcpStream,
    remote: SocketAddr,
) -> Result<TcpIo, Refused> {
    // A caller that stands still, in a debugger for example, has a full window for as long as it likes, and its kernel answers all the time.
    prepare(&stream, shared.settings.keep_alive, None)?;
    let mut first = [0];
    let came = stream.peek(&mut first).await?;
    match first[0] {
        _ if came == 0 => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
        TLS => encrypted(shared, stream, remote).await,
        // HTTP/2's preface begins with a letter (RFC 9113, section 3.4) as HTTP/1.1's methods do, which gRPC-Web needs.
        b'A'..=b'Z' if shared.settings.plaintext => plain(shared, stream, remote).await,
        b'P' => {
            let said = "this port takes TLS 1.3 with raw public keys, not plaintext";
            refusal::answer(stream, Code::PermissionDenied, said).await;
            Err(Refused::Plaintext)
        }
        other => Err(Refused::Garbage(other)),
    }
}

async fn encrypted(
    shared: &Arc<Shared>,
    stream: TcpStream,
    remote: SocketAddr,
) -> Result<TcpIo, Refused> {
    let stream = TlsAcceptor::from(shared.tls.clone()).accept(stream).await?;
    let (_, session) = stream.get_ref();
    // rustls accepts a client that names no protocol.
    if session.alpn_protocol() != Some(tls::ALPN) {
        return Err(Refused::NoAlpn);
    }
    let id = tls::proved(session).ok_or(Refused::NoKey)?;
    // Not in the handshake: an answer to a key that is not proved would tell anybody who is on the list.
    if !shared.settings.allowed.admits(Some(id)) {
        refusal::say(stream, h2::Reason::INADEQUATE_SECURITY, admission::REFUSED).await;
        return Err(Refused::Policy(Some(id)));
    }
    let permit = match shared.admit(Some(id)) {
        Ok(permit) => permit,
        Err(full) => {
            refusal::say(stream, h2::Reason::ENHANCE_YOUR_CALM, &full.to_string()).await;
            return Err(Refused::Full(full, Some(id)));
        }
    };
    let stream = Stream::Tls(Box::new(stream.into()));
    let io = TcpIo::new(stream, Some(id), remote);
    Ok(bounded(shared, io, permit, remote))
}

async fn plain(
    shared: &Arc<Shared>,
    stream: TcpStream,
    remote: SocketAddr,
) -> Result<TcpIo, Refused> {
    if !shared.warned.swap(true, Relaxed) {
        tracing::warn!(
            %remote, listener = %shared.local_addr,
            "serving a caller without TLS, because plaintext is allowed: it has no identity, and anybody on the path can read and change its calls; this is logged once"
        );
    }
    if !shared.settings.allowed.admits(None) {
        let said = "callers without TLS may call nothing here; use TLS with an iroh identity";
        refusal::answer(stream, Code::Unauthenticated, said).await;
        return Err(Refused::Policy(None));
    }
    let permit = match shared.admit(None) {
        Ok(permit) => permit,
        Err(full) => {
            refusal::answer(stream, Code::ResourceExhausted, &full.to_string()).await;
            return Err(Refused::Full(full, None));
        }
    };
    let io = TcpIo::new(Stream::Plain(stream), None, remote);
    Ok(bounded(shared, io, permit, remote))
}

/// Cuts a connection on which HTTP/2 does not begin in time, that is open at the end of the drain time, that its lifetime ends, or whose caller a reload shuts out.
fn bounded(shared: &Arc<Shared>, io: TcpIo, permit: Permit, remote: SocketAddr) -> TcpIo {
    let aborted = |said: String| io::Error::new(io::ErrorKind::ConnectionAborted, said);
    let draining = shared.draining.clone().cancelled_owned();
    let drain = shared.settings.drain_timeout;
    let drained = async move {
        draining.await;
        sleep(drain).await;
        aborted("the server shut down, and its drain time ended before the calls".to_owned())
    };
    let revoked = revoked(shared.clone(), io.peer_info().id());
    let outlived = shared.clone().outlived(permit.connection.clone(), remote);
    let observer = Observer::new(permit.connection.clone(), shared.refusals.clone());
    let io = io
        .at(permit)
        .observed(observer)
        .begun_within(shared.settings.handshake_timeout);
    io.until(Box::pin(async move {
        tokio::select! {
            error = drained => error,
            error = revoked => error,
            why = outlived => aborted(why.to_string()),
        }
    }))
}

/// Waits until a reload shuts the caller out.
async fn revoked(shared: Arc<Shared>, caller: Option<EndpointId>) -> io::Error {
    shared.settings.allowed.clone().revoked(caller).await;
    shared.refusals.add("revoked", |suppressed| {
        let peer = caller.map(|id| id.fmt_short().to_string());
        tracing::info!(
            peer,
            suppressed,
            "closing a TCP connection: a reload of the policy shuts the caller out"
        );
    });
    io::Error::new(io::ErrorKind::PermissionDenied, admission::REVOKED)
}

/// Why a connection was refused.
#[derive(Debug)]
enum Refused {
    /// TCP or TLS failed, for example because the caller has no key or another version of TLS.
    Failed(io::Error),
    NoAlpn,
    NoKey,
    Timeout,
    Plaintext,
    Garbage(u8),
    Full(Full, Option<EndpointId>),
    Busy(Busy),
    /// The policy permits nothing to the caller.
    Policy(Option<EndpointId>),
}

impl Refused {
    fn reason(&self) -> &'static str {
        match self {
            Self::Failed(_) | Self::NoAlpn | Self::NoKey => "handshake",
            Self::Timeout => "timeout",
            Self::Plaintext => "plaintext",
            Self::Garbage(_) => "garbage",
            Self::Full(..) => "limit",
            Self::Busy(busy) => busy.reason(),
            Self::Policy(_) => "policy",
        }
    }
}

impl From<io::Error> for Refused {
    fn from(error: io::Error) -> Self {
        Self::Failed(error)
    }
}

impl fmt::Display for Refused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Failed(error) => write!(f, "the handshake failed: {error}"),
            Self::NoAlpn => f.write_str("the caller names no ALPN protocol; h2 is accepted"),
            Self::NoKey => f.write_str("the caller proved no key"),
            Self::Timeout => f.write_str("the handshake took too long"),
            Self::Plaintext => f.write_str("the caller speaks HTTP/2 without TLS"),
            Self::Garbage(byte) => {
                write!(
                    f,
                    "the first byte, {byte:#04x}, begins neither TLS nor HTTP"
                )
            }
            Self::Full(full, Some(peer)) => write!(f, "peer {}: {full}", peer.fmt_short()),
            Self::Full(full, None) => full.fmt(f),
            Self::Busy(busy) => busy.fmt(f),
            Self::Policy(Some(peer)) => {
                write!(f, "the policy permits nothing to peer {}", peer.fmt_short())
            }
            Self::Policy(None) => f.write_str("the policy permits nothing to callers without TLS"),
        }
    }
}

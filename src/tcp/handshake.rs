//! What a server does with a connection before it is one.

use std::{
    fmt, io,
    net::SocketAddr,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use tokio::{
    net::TcpStream,
    time::{sleep, timeout},
};
use tokio_rustls::TlsAcceptor;

use super::{
    acceptor::{Permit, Shared},
    dial::prepare,
    io::{Stream, TcpIo},
    refusal, tls,
};

/// A TLS record that holds a handshake: RFC 8446, section 5.1.
const TLS: u8 = 0x16;
/// HTTP/2's preface begins with it: RFC 9113, section 3.4.
const HTTP2: u8 = b'P';

/// Makes a connection of what was accepted, or nothing. Dropped, it closes it.
pub(super) async fn shake_hands(
    shared: Arc<Shared>,
    stream: TcpStream,
    remote: SocketAddr,
) -> Option<TcpIo> {
    let most = shared.settings.handshake_timeout;
    let refused = match timeout(most, admit(&shared, stream, remote)).await {
        Ok(Ok(io)) => {
            metrics::counter!("tower_iroh_tcp_connections_total").increment(1);
            return Some(io);
        }
        Ok(Err(refused)) => refused,
        Err(_) => Refused::Timeout,
    };
    let reason = refused.reason();
    metrics::counter!("tower_iroh_tcp_refused_total", "reason" => reason).increment(1);
    tracing::debug!(%remote, reason, "refusing a TCP connection: {refused}");
    None
}

async fn admit(
    shared: &Arc<Shared>,
    stream: TcpStream,
    remote: SocketAddr,
) -> Result<TcpIo, Refused> {
    prepare(&stream, shared.settings.keep_alive)?;
    let mut first = [0];
    let came = stream.peek(&mut first).await?;
    match first[0] {
        _ if came == 0 => Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
        TLS => encrypted(shared, stream, remote).await,
        HTTP2 if shared.settings.plaintext => plain(shared, stream, remote).await,
        HTTP2 => {
            let said = "this port takes TLS 1.3 with raw public keys";
            refusal::say(stream, h2::Reason::INADEQUATE_SECURITY, said).await;
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
    // rustls lets a client pass that names no protocol.
    if session.alpn_protocol() != Some(tls::ALPN) {
        return Err(Refused::NoAlpn);
    }
    let id = tls::proved(session).ok_or(Refused::NoKey)?;
    let place = match Permit::take(shared, Some(id)) {
        Ok(place) => place,
        Err(full) => {
            tracing::warn!(peer = %id.fmt_short(), "refusing a TCP connection: {full}");
            refusal::say(stream, h2::Reason::ENHANCE_YOUR_CALM, &full).await;
            return Err(Refused::Limit);
        }
    };
    let stream = Stream::Tls(Box::new(stream.into()));
    let io = TcpIo::new(stream, Some(id), remote).at(place);
    Ok(bounded(shared, io))
}

async fn plain(
    shared: &Arc<Shared>,
    stream: TcpStream,
    remote: SocketAddr,
) -> Result<TcpIo, Refused> {
    if !shared.warned.swap(true, Relaxed) {
        tracing::warn!(
            %remote, listener = %shared.local_addr,
            "serving a caller without TLS, as plaintext is allowed: it has no identity, and who is in between reads and changes its calls; this is said once"
        );
    }
    let place = match Permit::take(shared, None) {
        Ok(place) => place,
        Err(full) => {
            refusal::say(stream, h2::Reason::ENHANCE_YOUR_CALM, &full).await;
            return Err(Refused::Limit);
        }
    };
    let io = TcpIo::new(Stream::Plain(stream), None, remote).at(place);
    Ok(bounded(shared, io))
}

/// Cuts a connection on which nothing begins, or that has not ended by the end of the drain time.
fn bounded(shared: &Shared, io: TcpIo) -> TcpIo {
    let draining = shared.draining.clone().cancelled_owned();
    let most = shared.settings.drain_timeout;
    let io = io.begun_within(shared.settings.handshake_timeout);
    io.until(Box::pin(async move {
        draining.await;
        sleep(most).await;
        let said = "the server shut down before all was finished";
        io::Error::new(io::ErrorKind::ConnectionAborted, said)
    }))
}

/// Why nothing came of a connection.
#[derive(Debug)]
enum Refused {
    /// TCP or TLS failed, no key or a wrong version of TLS included.
    Failed(io::Error),
    NoAlpn,
    NoKey,
    Timeout,
    Plaintext,
    Garbage(u8),
    Limit,
}

impl Refused {
    fn reason(&self) -> &'static str {
        match self {
            Self::Failed(_) | Self::NoAlpn | Self::NoKey => "handshake",
            Self::Timeout => "timeout",
            Self::Plaintext => "plaintext",
            Self::Garbage(_) => "garbage",
            Self::Limit => "limit",
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
            Self::NoAlpn => f.write_str("the caller names no protocol; h2 is accepted"),
            Self::NoKey => f.write_str("the caller has proved no key"),
            Self::Timeout => f.write_str("the handshake took too long"),
            Self::Plaintext => f.write_str("the caller speaks HTTP/2 without TLS"),
            Self::Garbage(byte) => {
                write!(f, "a first byte {byte:#04x} is neither TLS nor HTTP/2")
            }
            Self::Limit => f.write_str("as many connections are open as may be"),
        }
    }
}

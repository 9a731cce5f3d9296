//! How a connection over TCP is made: resolve, connect, prove who is who.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use futures_util::stream::{FuturesUnordered, StreamExt};
use iroh::EndpointId;
use rustls::pki_types::ServerName;
use socket2::{SockRef, TcpKeepalive};
use tokio::{
    net::TcpStream,
    time::{Instant, sleep},
};
use tokio_rustls::TlsConnector;

use super::{
    error,
    stream::Stream,
    tls::{self, TlsIdentity},
};
use crate::{
    error::{Error, ErrorKind},
    peer::TcpAddr,
};

/// How long one address of several has before the next is tried beside it: RFC 8305, section 5.
const STAGGER: Duration = Duration::from_millis(250);

/// What connections are made with. Clones share.
#[derive(Clone, Debug)]
pub(super) struct DialConfig {
    pub(super) identity: TlsIdentity,
    pub(super) keep_alive: Duration,
    /// Whether to go on in the clear where the peer speaks no TLS.
    pub(super) insecure_plaintext_fallback: bool,
    pub(super) warned: Arc<AtomicBool>,
}

/// A connection whose peer has proved to be the one that was asked for; or a plain one, where that is allowed.
#[derive(Debug)]
pub(super) struct Dialled {
    pub(super) stream: Stream,
    pub(super) remote: SocketAddr,
    /// `None` where nothing was proved.
    pub(super) id: Option<EndpointId>,
    /// How long the first answer took.
    pub(super) rtt: Duration,
}

impl DialConfig {
    /// Dials. Dropped, it leaves nothing behind. It takes as long as it takes: the time is the caller's to bound.
    pub(super) async fn dial(&self, peer: EndpointId, addr: &TcpAddr) -> Result<Dialled, Error> {
        let addrs = addr.resolve().await.map_err(|error| {
            let message = format!("{addr} is not known to the resolver: {error}");
            Error::new(ErrorKind::NoAddress, message).caused_by(error)
        })?;
        if addrs.is_empty() {
            let message = format!("the resolver knows no address of {addr}");
            return Err(Error::new(ErrorKind::NoAddress, message));
        }
        let (stream, remote, rtt) = race(&addrs)
            .await
            .map_err(|error| error::unreachable(error, addr))?;
        match self.prove(stream, peer, remote).await {
            Ok(stream) => Ok(Dialled {
                stream,
                remote,
                id: Some(peer),
                rtt,
            }),
            Err(error) if self.insecure_plaintext_fallback && error::speaks_no_tls(&error) => {
                self.in_the_clear(peer, remote).await
            }
            Err(error) => Err(error::handshake(error, remote)),
        }
    }

    /// How long data may stay unacknowledged. The kernels count in seconds; less would end a connection for one lost packet.
    fn user_timeout(&self) -> Option<Duration> {
        Some(self.keep_alive.max(Duration::from_secs(1)) * 2)
    }

    async fn prove(
        &self,
        stream: TcpStream,
        peer: EndpointId,
        remote: SocketAddr,
    ) -> io::Result<Stream> {
        prepare(&stream, self.keep_alive, self.user_timeout())?;
        let config = self.identity.client(peer).map_err(io::Error::other)?;
        // It is not sent.
        let name = ServerName::from(remote.ip());
        let stream = TlsConnector::from(Arc::new(config))
            .connect(name, stream)
            .await?;
        let (_, session) = stream.get_ref();
        if session.alpn_protocol() != Some(tls::ALPN) {
            return Err(io::Error::other(rustls::Error::NoApplicationProtocol));
        }
        if tls::proved(session) != Some(peer) {
            let other = rustls::CertificateError::ApplicationVerificationFailure;
            return Err(io::Error::other(rustls::Error::InvalidCertificate(other)));
        }
        Ok(Stream::Tls(Box::new(stream.into())))
    }

    async fn in_the_clear(&self, peer: EndpointId, remote: SocketAddr) -> Result<Dialled, Error> {
        if !self.warned.swap(true, Relaxed) {
            tracing::warn!(
                peer = %peer.fmt_short(), %remote,
                "the peer's port speaks no TLS: going on in the clear, as insecure_plaintext_fallback says; nothing proves who answers, and \
                 this is said once"
            );
        }
        let failed = |error| error::unreachable(error, &remote);
        let (stream, remote, rtt) = race(&[remote]).await.map_err(failed)?;
        prepare(&stream, self.keep_alive, self.user_timeout()).map_err(failed)?;
        Ok(Dialled {
            stream: Stream::Plain(stream),
            remote,
            id: None,
            rtt,
        })
    }
}

/// The first of the addresses that answers.
async fn race(addrs: &[SocketAddr]) -> io::Result<(TcpStream, SocketAddr, Duration)> {
    let connect = async |addr: SocketAddr| {
        let began = Instant::now();
        let stream = TcpStream::connect(addr).await?;
        Ok((stream, addr, began.elapsed()))
    };
    let mut rest = addrs.iter();
    let mut under_way = FuturesUnordered::new();
    let mut last = None;
    loop {
        match rest.next() {
            Some(addr) => under_way.push(connect(*addr)),
            None if under_way.is_empty() => {
                return Err(last.unwrap_or_else(|| io::ErrorKind::AddrNotAvailable.into()));
            }
            None => {}
        }
        tokio::select! {
            Some(connected) = under_way.next() => match connected {
                Ok(connected) => return Ok(connected),
                Err(error) => last = Some(error),
            },
            () = sleep(STAGGER), if rest.len() > 0 => {}
        }
    }
}

/// Turns Nagle's algorithm off, which would hold small calls back, and keep-alive probes on. The probes give up a silent peer after twice `keep_alive`. While
/// data is unacknowledged the kernel sends no probes; then `user_timeout` (RFC 5482) counts, or the kernel's own limit. It also ends a connection whose
/// peer answers with a window of zero.
pub(super) fn prepare(
    stream: &TcpStream,
    keep_alive: Duration,
    user_timeout: Option<Duration>,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let socket = SockRef::from(stream);
    // The kernels count in seconds.
    let keep_alive = keep_alive.max(Duration::from_secs(1));
    let probes = TcpKeepalive::new()
        .with_time(keep_alive)
        .with_interval((keep_alive / 3).max(Duration::from_secs(1)));
    #[cfg(target_os = "linux")]
    let probes = probes.with_retries(3);
    socket.set_tcp_keepalive(&probes)?;
    #[cfg(target_os = "linux")]
    socket.set_tcp_user_timeout(user_timeout)?;
    #[cfg(not(target_os = "linux"))]
    let _ = user_timeout;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_os = "linux")]
    #[tokio::test]
    async fn a_silent_peer_has_two_seconds_at_least() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.expect("bound");
        let addr = listener.local_addr().expect("an address");
        let stream = TcpStream::connect(addr).await.expect("connected");
        for (keep_alive, expected) in [(100, 2000), (1500, 3000)] {
            let config = DialConfig {
                identity: TlsIdentity::new(iroh::SecretKey::generate()),
                keep_alive: Duration::from_millis(keep_alive),
                insecure_plaintext_fallback: false,
                warned: Arc::default(),
            };
            prepare(&stream, config.keep_alive, config.user_timeout()).expect("set");
            let timeout = SockRef::from(&stream).tcp_user_timeout().expect("read");
            assert_eq!(timeout, Some(Duration::from_millis(expected)));
        }
    }
}

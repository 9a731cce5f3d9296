//! One server on both transports: one tonic server, one signal, one drain.

use std::{
    fmt,
    future::Future,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll},
};

use iroh::{Endpoint, EndpointId, protocol::Router};
use tokio_util::sync::CancellationToken;

use crate::{
    peer::{Peer, PeerError, TcpAddr, TransportKind},
    quic::Acceptor,
    tcp::TcpAcceptor,
};

#[cfg(feature = "authorize")]
mod authorize;
mod builder;
mod error;
mod incoming;
mod remote_addr;

#[cfg(feature = "authorize")]
pub use authorize::{ByPeer, authorize, peer_name};
pub use builder::{Require, ServerBuilder};
pub use error::{BindError, ServerError};
pub use incoming::{ServerIncoming, ServerIo};
pub use remote_addr::{RemoteAddr, RemoteAddrLayer};

type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// Serves every service on both transports, iroh's QUIC and TCP with the same identity, from one call.
///
/// Connections of both go into one tonic server. Layers, limits and services are given once, handlers find the caller in [`PeerInfo`](crate::PeerInfo), and
/// one signal drains everything. The caller chooses the transport.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use tower_iroh::{Channel, Server, presets};
/// # use tower_iroh_proto::{EchoService, echo::{EchoRequest, echo_client::EchoClient, echo_server::EchoServer}};
///
/// let endpoint = iroh::Endpoint::bind(presets::Offline).await?;
/// let server = Server::builder().endpoint(endpoint).tcp(([127, 0, 0, 1], 0).into()).bind().await?;
/// let (peer, handle) = (server.addresses()?, server.handle());
/// let services = tonic::transport::Server::builder().add_service(EchoServer::new(EchoService::default()));
/// let serving = tokio::spawn(server.serve(|incoming, stopped| services.serve_with_incoming_shutdown(incoming, stopped)));
///
/// let key = iroh::SecretKey::generate();
/// let over_iroh = Channel::builder(iroh::Endpoint::bind(presets::Offline).await?).peer(peer.clone()).build()?;
/// let over_tcp = Channel::tcp(key).peer(peer).build()?;
/// for channel in [over_iroh, over_tcp] {
///     EchoClient::new(channel).echo(EchoRequest { payload: "hello".into() }).await?;
/// }
/// handle.shutdown();
/// serving.await??;
/// # Ok(())
/// # }
/// ```
///
/// **Shutdown.** The signal of [`serve_with_shutdown`](Self::serve_with_shutdown) or [`ServerHandle::shutdown`] begins it. Both ports stop taking connections,
/// tonic sends GOAWAY on each connection, and calls in flight have the [drain time](ServerBuilder::drain_timeout) to finish; then they are cut. After that the
/// endpoint is closed, also one that was [given](ServerBuilder::endpoint): its client connections end with it.
///
/// **Cancel safety.** If the server or its future is dropped, it takes no further connection. tonic serves the open connections until they end, at most for
/// the drain time after that.
#[derive(Debug)]
pub struct Server {
    id: EndpointId,
    iroh: Option<Iroh>,
    tcp: Option<TcpAcceptor>,
    advertised: Option<TcpAddr>,
    missing: Option<BindError>,
    incoming: ServerIncoming,
    stop: CancellationToken,
}

/// The iroh side of a server.
#[derive(Debug)]
struct Iroh {
    endpoint: Endpoint,
    router: Router,
    acceptor: Acceptor,
}

impl Server {
    /// Begins a server.
    pub fn builder() -> ServerBuilder {
        ServerBuilder::default()
    }

    /// The identity that the server proves over both transports.
    pub fn id(&self) -> EndpointId {
        self.id
    }

    /// Where the server can be dialled, with the addresses of the transports that it has. Hand it over as a [ticket](Peer::ticket), which has both.
    ///
    /// A listener on all interfaces gets the address of the endpoint. Without an endpoint, or while the endpoint does not know its own addresses, set
    /// [`advertise_tcp`](ServerBuilder::advertise_tcp).
    ///
    /// # Errors
    /// [`PeerError`], if there is no address that can be dialled.
    pub fn addresses(&self) -> Result<Peer, PeerError> {
        let peer = match &self.iroh {
            Some(iroh) => Peer::of(&iroh.endpoint)?,
            None => Peer::new(self.id),
        };
        let Some(bound) = self.tcp_addr() else {
            return Ok(peer);
        };
        let at = match &self.advertised {
            Some(addr) => addr.clone(),
            None if !bound.ip().is_unspecified() => bound.into(),
            None => {
                // The most useful address: one that other machines can reach, of the listener's family if it has only one.
                let fits = |addr: &&SocketAddr| bound.is_ipv6() || addr.is_ipv4();
                let known = peer.addr().ip_addrs().filter(fits);
                let best = known.min_by_key(|addr| addr.ip().is_loopback());
                let best = best.ok_or(PeerError::NotDialable)?;
                SocketAddr::new(best.ip(), bound.port()).into()
            }
        };
        Ok(peer.with_tcp(at))
    }

    /// The endpoint, where iroh is served.
    pub fn endpoint(&self) -> Option<&Endpoint> {
        self.iroh.as_ref().map(|iroh| &iroh.endpoint)
    }

    /// The bound address of the TCP listener.
    pub fn tcp_addr(&self) -> Option<SocketAddr> {
        self.tcp.as_ref().map(TcpAcceptor::local_addr)
    }

    /// How many connections are open over a transport.
    pub fn connections(&self, transport: TransportKind) -> usize {
        match transport {
            TransportKind::Iroh => self.iroh.as_ref().map_or(0, |it| it.acceptor.connections()),
            TransportKind::Tcp => self.tcp.as_ref().map_or(0, TcpAcceptor::connections),
        }
    }

    /// The transport that could not be bound and was not [required](Require).
    pub fn missing(&self) -> Option<&BindError> {
        self.missing.as_ref()
    }

    /// A handle to end it with.
    pub fn handle(&self) -> ServerHandle {
        ServerHandle {
            stop: self.stop.clone(),
        }
    }

    /// The connections alone, for a server that is not tonic's, with what drains them. [`ServerHandle::shutdown`] has no effect then.
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use futures_util::StreamExt;
    ///
    /// let server = tower_iroh::Server::builder().key(iroh::SecretKey::generate()).tcp(([127, 0, 0, 1], 0).into()).bind().await?;
    /// let (incoming, drain) = server.into_incoming();
    /// let serving = tokio::spawn(incoming.for_each_concurrent(None, |connection| async move {
    ///     // An `AsyncRead + AsyncWrite`, for example for `hyper::server::conn::http2`.
    ///     drop(connection);
    /// }));
    /// serving.abort();
    /// drain.drained().await;
    /// # Ok(())
    /// # }
    /// ```
    pub fn into_incoming(self) -> (ServerIncoming, ServerDrain) {
        let drain = ServerDrain {
            iroh: self.iroh,
            tcp: self.tcp,
        };
        (self.incoming, drain)
    }

    /// Serves until [`ServerHandle::shutdown`], and drains. `services` runs tonic's server with the connections and the signal that it is given.
    ///
    /// # Errors
    /// As [`serve_with_shutdown`](Self::serve_with_shutdown).
    pub async fn serve<S, F>(self, services: S) -> Result<(), ServerError>
    where
        S: FnOnce(ServerIncoming, Stopped) -> F,
        F: Future<Output = Result<(), tonic::transport::Error>>,
    {
        self.serve_with_shutdown(std::future::pending(), services)
            .await
    }

    /// Serves until `signal` or [`ServerHandle::shutdown`], whichever comes first, and drains.
    ///
    /// # Errors
    /// [`ServerError::Serve`], with tonic's error.
    pub async fn serve_with_shutdown<S, F>(
        self,
        signal: impl Future<Output = ()> + Send + 'static,
        services: S,
    ) -> Result<(), ServerError>
    where
        S: FnOnce(ServerIncoming, Stopped) -> F,
        F: Future<Output = Result<(), tonic::transport::Error>>,
    {
        let stop = self.stop.clone();
        let stopped = Stopped(Box::pin(async move {
            tokio::select! {
                () = signal => {}
                () = stop.cancelled() => {}
            }
        }));
        let (incoming, drain) = self.into_incoming();
        let served = services(incoming, stopped).await;
        // tonic has sent its GOAWAYs, and both acceptors bound the time that is left.
        drain.drained().await;
        served.map_err(ServerError::Serve)
    }
}

/// What is left of a [`Server`] after [`into_incoming`](Server::into_incoming). Dropping it cuts the connections over iroh.
#[derive(Debug)]
#[must_use = "dropping it cuts the connections over iroh"]
pub struct ServerDrain {
    iroh: Option<Iroh>,
    tcp: Option<TcpAcceptor>,
}

impl ServerDrain {
    /// Waits until the incoming stream is dropped and every connection has ended, at most for the [drain time](ServerBuilder::drain_timeout) after that. Then
    /// closes the endpoint, also one that was given.
    pub async fn drained(self) {
        if let Some(tcp) = &self.tcp {
            tcp.drained().await;
        }
        if let Some(iroh) = &self.iroh {
            iroh.acceptor.drained().await;
            if let Err(error) = iroh.router.shutdown().await {
                tracing::error!(%error, "another protocol's handler on this endpoint panicked");
            }
        }
    }
}

/// Resolves when a [`Server`] must shut down: for `serve_with_incoming_shutdown`.
#[must_use = "futures do nothing unless polled"]
pub struct Stopped(Pin<Box<dyn Future<Output = ()> + Send>>);

impl Future for Stopped {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.0.as_mut().poll(cx)
    }
}

impl fmt::Debug for Stopped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Stopped")
    }
}

/// Shuts a [`Server`] down. Clones shut down the same server.
#[derive(Clone, Debug)]
pub struct ServerHandle {
    stop: CancellationToken,
}

impl ServerHandle {
    /// Begins the drain. The server's own future ends when the drain is over. Calling this again changes nothing.
    pub fn shutdown(&self) {
        self.stop.cancel();
    }
}

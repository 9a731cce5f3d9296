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

/// Every service on both transports, iroh's QUIC and TCP with the same identity, from one call.
///
/// Connections of both go into one tonic server: layers, limits and services stand there once, a handler tells the caller from
/// [`PeerInfo`](crate::PeerInfo), and one signal drains everything. The caller chooses the transport.
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
/// **Shutdown.** With the signal of [`serve_with_shutdown`](Self::serve_with_shutdown), or [`ServerHandle::shutdown`], both ports stop taking connections, each
/// connection is told with GOAWAY, and what is in flight has the [drain time](ServerBuilder::drain_timeout) to finish; then it is cut. After that the endpoint is
/// closed, be it one that was [given](ServerBuilder::endpoint): its clients' connections end with it.
///
/// **Cancel safety.** A server that is dropped, or whose future is, takes no further connection; tonic serves what is open until it has ended, at the longest
/// for the drain time after that.
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

/// What leads in over iroh.
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

    /// The identity that it proves over both transports.
    pub fn id(&self) -> EndpointId {
        self.id
    }

    /// Where it can be reached, with the addresses of both transports as far as they are there.
    ///
    /// A listener on all interfaces is said to be where the endpoint is; without an endpoint, or with one whose own addresses are not known yet, only
    /// [`advertise_tcp`](ServerBuilder::advertise_tcp) can tell.
    ///
    /// # Errors
    /// [`PeerError`], where nobody could dial what there is.
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
                // The most useful first: one that others than this machine can reach, of the listener's own family if it has but one.
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

    /// Where TCP is served, as it was bound.
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

    /// The transport that was asked for and could not be bound, where [`Require::Any`] let the server go on without.
    pub fn missing(&self) -> Option<&BindError> {
        self.missing.as_ref()
    }

    /// The same, for somebody who does not go on after all.
    #[cfg(all(feature = "config", feature = "authorize"))]
    pub(crate) fn take_missing(&mut self) -> Option<BindError> {
        self.missing.take()
    }

    /// A handle to end it with.
    pub fn handle(&self) -> ServerHandle {
        ServerHandle {
            stop: self.stop.clone(),
        }
    }

    /// Serves until [`ServerHandle::shutdown`], and drains. `services` is tonic's server, which is given the connections and the signal.
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
    /// [`ServerError::Serve`], what tonic says.
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
        let served = services(self.incoming, stopped).await;
        // tonic has told everybody, and both acceptors bound what is left.
        if let Some(tcp) = &self.tcp {
            tcp.drained().await;
        }
        if let Some(iroh) = &self.iroh {
            iroh.acceptor.drained().await;
            if let Err(error) = iroh.router.shutdown().await {
                tracing::error!(%error, "a protocol handler beside tower-iroh's panicked");
            }
        }
        served.map_err(ServerError::Serve)
    }
}

/// Resolves when a [`Server`] is to end: for `serve_with_incoming_shutdown`.
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

/// Ends a [`Server`]. Clones end the same.
#[derive(Clone, Debug)]
pub struct ServerHandle {
    stop: CancellationToken,
}

impl ServerHandle {
    /// Begins the drain. The server's own future says when it is over. Asking again changes nothing.
    pub fn shutdown(&self) {
        self.stop.cancel();
    }
}

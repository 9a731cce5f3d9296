//! The server's side: an iroh `ProtocolHandler` that turns connections into a stream of IO for tonic's `Server`.

use std::{
    collections::HashMap,
    future::Future,
    io,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use futures_core::Stream;
use iroh::{
    EndpointId,
    endpoint::{Accepting, Connection},
    protocol::{AcceptError, IncomingFilter, IncomingFilterOutcome, ProtocolHandler},
};
use tokio::sync::mpsc;
use tokio_util::{
    sync::{CancellationToken, WaitForCancellationFutureOwned},
    task::TaskTracker,
};

use super::{QuicIo, Tuning};
use crate::{
    lock::lock,
    wire::{close, reset},
};

mod builder;
mod connection;
mod early;

pub use builder::AcceptorBuilder;

/// Takes connections for tonic's `Server`; an iroh [`ProtocolHandler`], so one endpoint serves other protocols beside it.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use iroh::{Endpoint, protocol::Router};
/// use tower_iroh::{Acceptor, presets};
/// # use tower_iroh_proto::{EchoService, echo::echo_server::EchoServer};
///
/// let (acceptor, incoming) = Acceptor::new();
/// let router = Router::builder(Endpoint::bind(presets::Offline).await?)
///     .accept(tower_iroh::ALPN, acceptor.clone())
///     // Peers that speak HTTP/2 on a stream from the first byte on, under names of their own:
///     .accept(b"/tower_iroh.echo.v1.Echo/1.0", acceptor.bare())
///     .incoming_filter(acceptor.incoming_filter())
///     .spawn();
/// let stop = async { /* for example tokio::signal::ctrl_c() */ };
/// tonic::transport::Server::builder()
///     .add_service(EchoServer::new(EchoService::default()))
///     .serve_with_incoming_shutdown(incoming, stop)
///     .await?;
/// router.shutdown().await?;
/// # Ok(())
/// # }
/// ```
///
/// **Shutdown.** tonic drops [`Incoming`] when it begins to shut down and sends GOAWAY on every lane. From then on new
/// connections and new lanes are refused with a code that says so; a connection closes when its last lane has ended and
/// everything on it was received, or when the drain time is over, with a code that says which. [`Acceptor::drained`] and
/// `Router::shutdown` wait for that. Give tonic its signal first and shut the router down after it: a router that shuts
/// down stops accepting before it says so, and a new caller then waits for its dial time instead of being refused.
///
/// **Panics.** A panic in a service ends its call alone: services run in tasks of tonic's, not in the handler, where iroh
/// would take the whole endpoint down.
///
/// **Metrics** of all connections together: the counters `tower_iroh_server_packets_sent_total` and
/// `tower_iroh_server_packets_lost_total`, up to a second old while nothing moves; [`PeerInfo`](crate::PeerInfo) has them per peer.
#[derive(Clone, Debug)]
pub struct Acceptor {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    settings: AcceptorConfig,
    lanes: mpsc::Sender<QuicIo>,
    /// Set when `Incoming` is gone.
    draining: CancellationToken,
    handshakes: AtomicUsize,
    peers: Mutex<HashMap<EndpointId, usize>>,
    connections: TaskTracker,
}

#[derive(Clone, Debug)]
struct AcceptorConfig {
    max_connections: usize,
    max_connections_per_peer: usize,
    max_lanes_per_connection: usize,
    max_handshakes: usize,
    handshake_timeout: Duration,
    preamble_timeout: Duration,
    drain_timeout: Duration,
    copies: bool,
    tuning: Tuning,
    early_data: Option<early::EarlyData>,
}

impl Acceptor {
    /// An acceptor with the default settings, and what it accepts.
    pub fn new() -> (Self, Incoming) {
        AcceptorBuilder::default().build_valid()
    }

    /// An acceptor with other settings.
    pub fn builder() -> AcceptorBuilder {
        AcceptorBuilder::default()
    }

    fn with(settings: AcceptorConfig) -> (Self, Incoming) {
        // Lanes wait here until tonic takes them, which it does as fast as it can spawn tasks.
        let (lanes, incoming) = mpsc::channel(64);
        let draining = CancellationToken::new();
        let acceptor = Self {
            shared: Arc::new(Shared {
                settings,
                lanes,
                draining: draining.clone(),
                handshakes: AtomicUsize::new(0),
                peers: Mutex::default(),
                connections: TaskTracker::new(),
            }),
        };
        let incoming = Incoming {
            lanes: incoming,
            stopped: Box::pin(draining.clone().cancelled_owned()),
            draining,
        };
        (acceptor, incoming)
    }

    /// The same acceptor for ALPNs of other protocols' making, under which each stream is HTTP/2 from its first byte on,
    /// without a preamble: all of one urgency, and no pings.
    pub fn bare(&self) -> BareAcceptor {
        BareAcceptor {
            acceptor: self.clone(),
        }
    }

    /// A filter for `RouterBuilder::incoming_filter` that refuses connections before they cost a handshake while as many
    /// are in flight as may be.
    ///
    /// Without it the limit holds as well, but a refused peer's handshake has been begun by then.
    pub fn incoming_filter(&self) -> IncomingFilter {
        let shared = self.shared.clone();
        Arc::new(move |_| {
            if shared.handshakes.load(Ordering::Acquire) < shared.settings.max_handshakes {
                IncomingFilterOutcome::Accept
            } else {
                IncomingFilterOutcome::Reject
            }
        })
    }

    /// How many connections are open, of all peers.
    pub fn connections(&self) -> usize {
        self.shared.lock().values().sum()
    }

    /// Waits until [`Incoming`] is gone and every connection has been drained, or its drain time is over.
    ///
    /// A router that is dropped right after tonic's `serve` has returned takes answers along that their callers have not
    /// received yet. `Router::shutdown` waits by itself; this is for those who keep the router. Cancel safe.
    pub async fn drained(&self) {
        self.shared.draining.cancelled().await;
        self.shared.connections.close();
        self.shared.connections.wait().await;
    }

    /// Completes the handshake; with early data it serves the connection to its end, since what comes before the handshake and what comes after it
    /// come on the same streams.
    async fn shake_hands(
        &self,
        accepting: Accepting,
        bare: bool,
    ) -> Result<Connection, AcceptError> {
        let Some(handshake) = Handshake::begin(&self.shared) else {
            tracing::warn!("refusing a connection: too many handshakes in flight");
            return Err(AcceptError::from_err(io::Error::other(
                "too many handshakes in flight",
            )));
        };
        if let Some(early_data) = &self.shared.settings.early_data {
            return self
                .serve_early(early_data, accepting, bare, handshake)
                .await;
        }
        let most = self.shared.settings.handshake_timeout;
        match tokio::time::timeout(most, accepting).await {
            Ok(connection) => Ok(connection?),
            Err(_) => Err(late(most)),
        }
    }

    async fn serve_early(
        &self,
        early_data: &early::EarlyData,
        accepting: Accepting,
        bare: bool,
        handshake: Handshake<'_>,
    ) -> Result<Connection, AcceptError> {
        let _running = self.shared.connections.token();
        let early = accepting.into_0rtt();
        let mut serving = connection::Serving::early(self.shared.clone(), early_data, bare);
        let most = self.shared.settings.handshake_timeout;
        let connection = match tokio::time::timeout(most, serving.shake_hands(&early)).await {
            Ok(connection) => connection?,
            Err(_) => {
                early.close(close::GONE, b"the handshake took too long");
                return Err(late(most));
            }
        };
        drop((handshake, early));
        if let Some(_admitted) = self.admit(&connection) {
            serving.run(connection.clone()).await;
        }
        Ok(connection)
    }

    async fn serve(&self, connection: Connection, bare: bool) {
        // With early data it has been served by now.
        if connection.close_reason().is_some() {
            return;
        }
        let _running = self.shared.connections.token();
        if let Some(_admitted) = self.admit(&connection) {
            connection::Serving::new(self.shared.clone(), bare)
                .run(connection)
                .await;
        }
    }

    /// Whether a connection whose peer is known may go on; one that may not is closed.
    fn admit(&self, connection: &Connection) -> Option<Admitted<'_>> {
        let id = connection.remote_id();
        let admitted = match Admitted::new(&self.shared, id) {
            Ok(admitted) => admitted,
            Err(full) => {
                tracing::warn!(peer = %id.fmt_short(), "refusing a connection: {full}");
                connection.close(close::TOO_MANY_CONNECTIONS, full.as_bytes());
                return None;
            }
        };
        if self.shared.draining.is_cancelled() {
            connection.close(close::DRAINING, b"shutting down");
            return None;
        }
        Some(admitted)
    }

    async fn stop(&self) {
        self.shared.draining.cancel();
        // Each connection ends by itself within the drain time; the second more is for its last packets.
        let drain = self.shared.settings.drain_timeout;
        let most = drain.saturating_add(Duration::from_secs(1));
        let _ = tokio::time::timeout(most, self.drained()).await;
    }
}

impl ProtocolHandler for Acceptor {
    async fn on_accepting(&self, accepting: Accepting) -> Result<Connection, AcceptError> {
        self.shake_hands(accepting, false).await
    }

    async fn accept(&self, connection: Connection) -> Result<(), AcceptError> {
        self.serve(connection, false).await;
        Ok(())
    }

    async fn shutdown(&self) {
        self.stop().await;
    }
}

/// An [`Acceptor`] for streams that are HTTP/2 from their first byte on; see [`Acceptor::bare`].
#[derive(Clone, Debug)]
pub struct BareAcceptor {
    acceptor: Acceptor,
}

impl ProtocolHandler for BareAcceptor {
    async fn on_accepting(&self, accepting: Accepting) -> Result<Connection, AcceptError> {
        self.acceptor.shake_hands(accepting, true).await
    }

    async fn accept(&self, connection: Connection) -> Result<(), AcceptError> {
        self.acceptor.serve(connection, true).await;
        Ok(())
    }

    async fn shutdown(&self) {
        self.acceptor.stop().await;
    }
}

fn late(most: Duration) -> AcceptError {
    let error = format!("the handshake was not complete within {most:?}");
    AcceptError::from_err(io::Error::new(io::ErrorKind::TimedOut, error))
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, HashMap<EndpointId, usize>> {
        lock(&self.peers)
    }
}

/// A handshake in flight.
struct Handshake<'a>(&'a Shared);

impl<'a> Handshake<'a> {
    fn begin(shared: &'a Shared) -> Option<Self> {
        // Made first, so that a refusal gives the number back too.
        let begun = Self(shared);
        let before = shared.handshakes.fetch_add(1, Ordering::AcqRel);
        (before < shared.settings.max_handshakes).then_some(begun)
    }
}

impl Drop for Handshake<'_> {
    fn drop(&mut self) {
        self.0.handshakes.fetch_sub(1, Ordering::AcqRel);
    }
}

/// One of a peer's connections.
struct Admitted<'a> {
    shared: &'a Shared,
    id: EndpointId,
}

impl<'a> Admitted<'a> {
    /// One more; else what the peer is told.
    fn new(shared: &'a Shared, id: EndpointId) -> Result<Self, String> {
        let AcceptorConfig {
            max_connections,
            max_connections_per_peer,
            ..
        } = shared.settings;
        let mut peers = shared.lock();
        if peers.values().sum::<usize>() >= max_connections {
            return Err(format!("{max_connections} connections are accepted"));
        }
        let count = peers.entry(id).or_default();
        if *count >= max_connections_per_peer {
            return Err(format!(
                "{max_connections_per_peer} connections per peer are accepted"
            ));
        }
        *count += 1;
        Ok(Self { shared, id })
    }
}

impl Drop for Admitted<'_> {
    fn drop(&mut self) {
        let mut peers = self.shared.lock();
        if let Some(count) = peers.get_mut(&self.id) {
            *count -= 1;
            if *count == 0 {
                peers.remove(&self.id);
            }
        }
    }
}

/// The lanes that peers open: a stream of IO for `Server::serve_with_incoming` and `serve_with_incoming_shutdown`.
///
/// Never yields an error: what goes wrong on one connection is that connection's business. Dropping it begins the drain,
/// and it ends when `Router::shutdown` begins one.
#[derive(Debug)]
pub struct Incoming {
    lanes: mpsc::Receiver<QuicIo>,
    draining: CancellationToken,
    stopped: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Stream for Incoming {
    type Item = io::Result<QuicIo>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.stopped.as_mut().poll(cx).is_ready() {
            return Poll::Ready(None);
        }
        self.lanes.poll_recv(cx).map(|lane| lane.map(Ok))
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        self.draining.cancel();
        self.lanes.close();
        // Nobody will serve these, and their clients should try elsewhere at once.
        while let Ok(lane) = self.lanes.try_recv() {
            lane.refuse(reset::DRAINING);
        }
    }
}

//! The server's side: an iroh `ProtocolHandler` that turns connections into a stream of IO for tonic's `Server`.

use std::{
    sync::{Arc, atomic::AtomicUsize},
    time::Duration,
};

use iroh::{
    EndpointId,
    endpoint::{Accepting, Connection},
    protocol::{AcceptError, IncomingFilter, IncomingFilterOutcome, ProtocolHandler},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{QuicIo, Tuning};
use crate::pool::{Admission, Lifetime, Limits, Refusals};

mod builder;
mod connection;
mod early;
mod handshake;
mod incoming;
mod lanes;
mod lived;
mod streams;

pub use builder::AcceptorBuilder;
pub use incoming::Incoming;

/// Takes QUIC connections for tonic's `Server`. It is an iroh [`ProtocolHandler`], so one endpoint serves other protocols beside it.
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
///     // Peers whose streams are HTTP/2 from the first byte on, under an ALPN of their own:
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
/// connections and new lanes are refused with a code that says so. A connection closes when its last lane has ended and
/// the peer has received everything, or when the drain time is over, with a code that says which. [`Acceptor::drained`] and
/// `Router::shutdown` wait for that. Give tonic its signal first and shut the router down after it: a router that shuts
/// down stops accepting before it says so, and a new caller then waits for its dial timeout instead of being refused.
///
/// **Panics.** A panic in a service ends its call alone: services run in tonic's tasks. In the handler, a panic would take
/// the whole endpoint down.
///
/// **Metrics** of all connections together: the counters `tower_iroh_server_packets_sent_total` and
/// `tower_iroh_server_packets_lost_total`, up to a second old while nothing moves; [`PeerInfo`](crate::PeerInfo) has them per peer.
/// `tower_iroh_quic_refused_total` by `reason`: `limit` and `handshakes` count connections beyond a limit, `timeout` handshakes that took too long, `lanes`
/// lanes beyond a connection's limit, `preamble` streams without a valid preamble.
/// `tower_iroh_quic_closed_total` by `reason` counts connections that the server closed: `unused`, `idle`, `evicted`, `dead`, `age`, `age_expired`. The log has at most one line a second about each reason.
#[derive(Clone, Debug)]
pub struct Acceptor {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    settings: AcceptorConfig,
    lanes: incoming::HandoverSender<QuicIo>,
    /// Cancelled once `Incoming` is dropped.
    draining: CancellationToken,
    handshakes: AtomicUsize,
    admission: Admission<EndpointId>,
    connections: TaskTracker,
    refusals: Refusals,
    closings: Refusals,
}

#[derive(Clone, Debug)]
struct AcceptorConfig {
    limits: Limits,
    lifetime: Lifetime,
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
    /// An acceptor with the default settings, and the stream of what it accepts.
    pub fn new() -> (Self, Incoming) {
        AcceptorBuilder::default().build_valid()
    }

    /// Begins an acceptor with other settings.
    pub fn builder() -> AcceptorBuilder {
        AcceptorBuilder::default()
    }

    fn with(settings: AcceptorConfig) -> (Self, Incoming) {
        let draining = CancellationToken::new();
        let (lanes, incoming) = Incoming::new(draining.clone());
        let acceptor = Self {
            shared: Arc::new(Shared {
                admission: Admission::new(settings.limits),
                settings,
                lanes,
                draining,
                handshakes: AtomicUsize::new(0),
                connections: TaskTracker::new(),
                refusals: Refusals::new("tower_iroh_quic_refused_total"),
                closings: Refusals::new("tower_iroh_quic_closed_total"),
            }),
        };
        (acceptor, incoming)
    }

    /// The same acceptor for other protocols' ALPNs, under which each stream is HTTP/2 from its first byte on. Without
    /// preambles, all streams have one urgency and there are no pings.
    pub fn bare(&self) -> BareAcceptor {
        BareAcceptor {
            acceptor: self.clone(),
        }
    }

    /// A filter for `RouterBuilder::incoming_filter`. While [`max_handshakes`](AcceptorBuilder::max_handshakes) are in flight it refuses
    /// connections before they cost anything.
    ///
    /// Without the filter the limit holds as well, but the handshake of a refused peer has begun by then.
    pub fn incoming_filter(&self) -> IncomingFilter {
        let shared = self.shared.clone();
        Arc::new(move |_| {
            if shared.has_room() {
                IncomingFilterOutcome::Accept
            } else {
                IncomingFilterOutcome::Reject
            }
        })
    }

    /// How many connections are open, of all peers.
    pub fn connections(&self) -> usize {
        self.shared.admission.open()
    }

    /// Waits until [`Incoming`] is dropped and every connection has been drained, or its drain time is over. Cancel safe.
    ///
    /// Dropping the router right after tonic's `serve` has returned can lose answers that their callers have not received yet.
    /// `Router::shutdown` waits by itself; use this to wait without shutting the router down.
    pub async fn drained(&self) {
        self.shared.draining.cancelled().await;
        self.shared.connections.close();
        self.shared.connections.wait().await;
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
        self.shared.shake_hands(accepting, false).await
    }

    async fn accept(&self, connection: Connection) -> Result<(), AcceptError> {
        self.shared.serve(connection, false).await;
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
        self.acceptor.shared.shake_hands(accepting, true).await
    }

    async fn accept(&self, connection: Connection) -> Result<(), AcceptError> {
        self.acceptor.shared.serve(connection, true).await;
        Ok(())
    }

    async fn shutdown(&self) {
        self.acceptor.stop().await;
    }
}

//! The server's side: an iroh `ProtocolHandler` that turns connections into a stream of IO for tonic's `Server`.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use iroh::{
    Endpoint, EndpointId,
    endpoint::{Accepting, Connection, IncomingAddr},
    protocol::{AcceptError, IncomingFilter, ProtocolHandler, Router, RouterBuilder},
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};

use super::{QuicIo, Tuning, tuning::WindowBudget};
use crate::pool::{Admission, Allowed, Lifetime, Limits, Refusals};

mod builder;
mod connection;
mod early;
mod handshake;
mod incoming;
mod lanes;
mod lived;
mod reservations;
mod streams;

pub use builder::AcceptorBuilder;
pub use incoming::Incoming;

use reservations::Reservations;

/// Takes QUIC connections for tonic's `Server`. It is an iroh [`ProtocolHandler`], so one endpoint serves other protocols beside it.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use iroh::Endpoint;
/// use tower_iroh::{Acceptor, presets};
/// # use tower_iroh_proto::{EchoService, echo::echo_server::EchoServer};
///
/// let (acceptor, incoming) = Acceptor::new();
/// let router = acceptor
///     .router(Endpoint::bind(presets::Offline).await?)
///     // Peers whose streams are HTTP/2 from the first byte on, under an ALPN of their own:
///     .accept(b"/tower_iroh.echo.v1.Echo/1.0", acceptor.bare())
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
/// `tower_iroh_quic_refused_total` by `reason`: `policy` counts callers to whom the [allow-list](AcceptorBuilder::allow_list) permits nothing,
/// `revoked` those whose connection a reload ended, `limit` and `handshakes` connections beyond a limit, `source` connections beyond their source's share of
/// the handshakes, `timeout` handshakes that took too long, `lanes` lanes beyond a connection's limit, `preamble` streams without a valid preamble,
/// `unidirectional` streams that the protocol does not have, `windows` connections that got less than their window, and `abuse` HTTP/2 connections whose peer broke
/// the rules. `tower_iroh_quic_closed_total` by `reason` counts connections that the server closed: `unused`, `idle`, `evicted`, `dead`, `age`, `age_expired`. The
/// log has at most one line a second about each reason. `tower_iroh_quic_retries_total` counts callers that had to prove their address first.
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
    reservations: Mutex<Reservations<IncomingAddr>>,
    admission: Admission<EndpointId>,
    connections: TaskTracker,
    refusals: Arc<Refusals>,
    closings: Refusals,
    windows: Arc<WindowBudget>,
}

#[derive(Clone, Debug)]
struct AcceptorConfig {
    limits: Limits,
    lifetime: Lifetime,
    allowed: Allowed,
    max_lanes_per_connection: usize,
    window_budget: u64,
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
        let refusals = Arc::new(Refusals::new("tower_iroh_quic_refused_total"));
        let acceptor = Self {
            shared: Arc::new(Shared {
                admission: Admission::new(settings.limits),
                windows: WindowBudget::new(settings.window_budget, refusals.clone()),
                reservations: Mutex::new(Reservations::new(
                    settings.max_handshakes,
                    settings.handshake_timeout,
                )),
                settings,
                lanes,
                draining,
                connections: TaskTracker::new(),
                refusals,
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

    /// A router for this endpoint that accepts tower-iroh's ALPN and asks [`incoming_filter`](Self::incoming_filter) about each connection.
    ///
    /// Other protocols are added with `accept`, among them this one under further ALPNs with [`bare`](Self::bare). `spawn` starts it.
    pub fn router(&self, endpoint: Endpoint) -> RouterBuilder {
        Router::builder(endpoint)
            .incoming_filter(self.incoming_filter())
            .accept(crate::wire::ALPN, self.clone())
    }

    /// The filter that [`router`](Self::router) installs, for a router with a filter of its own that asks this one as well. Ask this one last: what it lets in
    /// counts as a handshake from then on.
    ///
    /// While more than a quarter of [`max_handshakes`](AcceptorBuilder::max_handshakes) are in flight, a caller has to prove that it receives at its address: the
    /// filter answers `Retry`, which costs an honest caller one round trip. A caller whose ClientHello does not fit into its first packet has to prove it at any
    /// time. A proven caller is refused with `Reject` if all handshakes are taken, or if more than a quarter are taken and its source has its share:
    ///
    /// - an IPv4 address, or the first 64 bits of an IPv6 address: an eighth, and at least two;
    /// - a relay, or a custom transport, with everybody behind it: a half, and at least two.
    ///
    /// The filter sees the connections of all protocols of its router. One of another protocol counts for up to a second.
    ///
    /// Without the filter only the number of all handshakes is limited, they count from the end of the ClientHello on, and a refused one has begun by then.
    pub fn incoming_filter(&self) -> IncomingFilter {
        let shared = self.shared.clone();
        Arc::new(move |incoming| shared.filter(incoming))
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

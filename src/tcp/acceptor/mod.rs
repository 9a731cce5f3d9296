//! The server's side: turns what a listener accepts into a stream of IO for tonic's `Server`.

use std::{
    fmt,
    net::SocketAddr,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use iroh::{EndpointId, SecretKey};
use rustls::ServerConfig;
use tokio::{net::TcpListener, time::Instant};
use tokio_util::{
    sync::CancellationToken,
    task::{TaskTracker, task_tracker::TaskTrackerToken},
};

use crate::pool::{
    Admission, Admitted, Allowed, Full, Handshakes, Lifetime, Limits, OpenConnection, Refusals, Why,
};
use tower_iroh_layers::ConfigError;

mod builder;
mod handshake;
mod incoming;
mod silent;

pub use builder::TcpAcceptorBuilder;
pub use incoming::TcpIncoming;

/// Takes TCP connections for tonic's `Server`, as an [`Acceptor`](crate::Acceptor) takes QUIC connections.
///
/// See [`tcp`](super) for an example. This is a handle; the [`TcpIncoming`] that comes with it does the work.
///
/// **Admission.** Every caller that proves a key is let in, unless an [`allow_list`](TcpAcceptorBuilder::allow_list) says otherwise. It proves the key over TLS 1.3, as a raw public key; handlers find the key in
/// [`PeerInfo::id`](crate::PeerInfo::id), and [`authorize`](crate::authorize()) decides which calls it may make. iroh's endpoint hooks do not see these callers.
/// A caller without TLS is refused in HTTP/2 (tonic shows it PERMISSION_DENIED) unless [`plaintext`](TcpAcceptorBuilder::plaintext) lets it in.
///
/// **Shutdown.** tonic drops [`TcpIncoming`] when it begins to shut down and sends GOAWAY on every connection. From then on the port is closed, and handshakes
/// in flight end. A connection ends when its last call has ended, or when the drain time is over; [`drained`](Self::drained) waits for that.
///
/// **Metrics.** The counters `tower_iroh_tcp_connections_total`, `tower_iroh_tcp_refused_total` by `reason`, and
/// `tower_iroh_tcp_accept_errors_total`. The reasons: `silent` (no byte within 2 s, or among too many such sockets the oldest), `handshakes` (too many handshakes
/// are in flight, and too many callers wait), `source` (of the caller's address), `handshake` (it failed), `timeout`, `plaintext`, `garbage`, `limit`,
/// `policy` (the allow-list permits the caller nothing), `revoked` (a reload shut the caller out), `abuse` (it broke HTTP/2's rules).
/// `tower_iroh_tcp_closed_total` by `reason` counts connections that the server closed: `unused`, `idle`, `evicted`, `age`, `age_expired`. The log has at most
/// one line a second about each reason.
#[derive(Clone, Debug)]
pub struct TcpAcceptor {
    shared: Arc<Shared>,
}

struct Shared {
    settings: AcceptorConfig,
    local_addr: SocketAddr,
    tls: Arc<ServerConfig>,
    /// Cancelled once `TcpIncoming` is dropped.
    draining: CancellationToken,
    /// The handshakes in flight.
    handshakes: Handshakes,
    /// The callers that have spoken and wait for their handshake, under the same limits.
    queue: Handshakes,
    admission: Admission<EndpointId>,
    connections: TaskTracker,
    refusals: Arc<Refusals>,
    closings: Refusals,
    /// Whether the log says already that a caller without TLS is served.
    warned: AtomicBool,
}

#[derive(Clone, Debug)]
struct AcceptorConfig {
    limits: Limits,
    lifetime: Lifetime,
    allowed: Allowed,
    max_handshakes: usize,
    handshake_timeout: Duration,
    drain_timeout: Duration,
    keep_alive: Duration,
    plaintext: bool,
}

impl TcpAcceptor {
    /// An acceptor with the default settings that proves `key`, and the stream of what it accepts.
    ///
    /// # Errors
    /// [`ConfigError`], if the listener has no address.
    pub fn new(listener: TcpListener, key: SecretKey) -> Result<(Self, TcpIncoming), ConfigError> {
        Self::builder(key).build(listener)
    }

    /// Begins an acceptor with other settings.
    pub fn builder(key: SecretKey) -> TcpAcceptorBuilder {
        TcpAcceptorBuilder::new(key)
    }

    fn with(listener: TcpListener, shared: Shared) -> (Self, TcpIncoming) {
        let shared = Arc::new(shared);
        let incoming = TcpIncoming::new(listener, shared.clone());
        (Self { shared }, incoming)
    }

    /// The address that it listens on.
    pub fn local_addr(&self) -> SocketAddr {
        self.shared.local_addr
    }

    /// How many connections are open, of all callers.
    pub fn connections(&self) -> usize {
        self.shared.admission.open()
    }

    /// Waits until [`TcpIncoming`] is dropped and every connection has ended, at the latest at the end of the drain time. Cancel safe.
    pub async fn drained(&self) {
        self.shared.draining.cancelled().await;
        self.shared.connections.close();
        self.shared.connections.wait().await;
    }

    /// Ends [`TcpIncoming`], and waits as [`drained`](Self::drained) does.
    ///
    /// Give tonic its shutdown signal first: without the signal tonic sends its clients no GOAWAY.
    pub async fn shutdown(&self) {
        self.shared.draining.cancel();
        self.drained().await;
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared")
            .field("settings", &self.settings)
            .field("local_addr", &self.local_addr)
            .finish_non_exhaustive()
    }
}

impl Shared {
    fn new(settings: AcceptorConfig, local_addr: SocketAddr, tls: ServerConfig) -> Self {
        Self {
            handshakes: Handshakes::new(settings.max_handshakes),
            queue: Handshakes::new(settings.max_handshakes),
            admission: Admission::new(settings.limits),
            settings,
            local_addr,
            tls: Arc::new(tls),
            draining: CancellationToken::new(),
            connections: TaskTracker::new(),
            refusals: Arc::new(Refusals::new("tower_iroh_tcp_refused_total")),
            closings: Refusals::new("tower_iroh_tcp_closed_total"),
            warned: AtomicBool::new(false),
        }
    }

    /// Counts a connection of a peer, or of a caller without an identity.
    fn admit(&self, caller: Option<EndpointId>) -> Result<Permit, Full> {
        let now = Instant::now();
        let connection = OpenConnection::new(now);
        Ok(Permit {
            _admitted: self.admission.admit(caller, &connection, now)?,
            _open: self.connections.token(),
            connection,
        })
    }

    /// Waits until the server is to end the connection, and has had the time to do so by itself; says why.
    async fn outlived(self: Arc<Self>, connection: Arc<OpenConnection>, remote: SocketAddr) -> Why {
        let lifetime = self.settings.lifetime.jittered(rand::random());
        let why = connection.over(lifetime).await;
        let reason = why.reason();
        self.closings.add(reason, |suppressed| match why {
            Why::Evicted => {
                tracing::warn!(%remote, reason, suppressed, "closed a TCP connection: {why}");
            }
            _ => tracing::debug!(%remote, reason, suppressed, "closed a TCP connection: {why}"),
        });
        tokio::time::sleep(FAREWELL).await;
        why
    }
}

/// How long a client has to read the last bytes of a connection that the server ends.
const FAREWELL: Duration = Duration::from_secs(1);

/// What a connection counts for, until it is dropped: one of its caller's, and one to wait for.
pub(super) struct Permit {
    _admitted: Admitted<EndpointId>,
    _open: TaskTrackerToken,
    pub(super) connection: Arc<OpenConnection>,
}

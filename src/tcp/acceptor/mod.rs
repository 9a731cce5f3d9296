//! The server's side, from a listener.

use std::{
    collections::HashMap,
    fmt,
    net::SocketAddr,
    sync::{Arc, Mutex, atomic::AtomicBool},
    time::Duration,
};

use iroh::{EndpointId, SecretKey};
use rustls::ServerConfig;
use tokio::net::TcpListener;
use tokio_util::{
    sync::CancellationToken,
    task::{TaskTracker, task_tracker::TaskTrackerToken},
};

use super::TcpIncoming;
use crate::lock::lock;
use tower_iroh_layers::ConfigError;

mod builder;

pub use builder::TcpAcceptorBuilder;

/// Takes TCP connections for tonic's `Server`: an [`Acceptor`](crate::Acceptor), for the other transport.
///
/// See [`tcp`](super) for an example. It is a handle; the [`TcpIncoming`] that comes with it does the work.
///
/// **Who is let in.** Whoever proves a key, over TLS 1.3, as a raw public key; a handler finds it in [`PeerInfo::id`](crate::PeerInfo::id), and what it may do is for
/// [`authorize`](crate::authorize()) to say. iroh's endpoint hooks are not asked: they are iroh's. A caller without TLS is told so in HTTP/2 (tonic shows it
/// PERMISSION_DENIED) unless [`plaintext`](TcpAcceptorBuilder::plaintext) lets it in.
///
/// **Shutdown.** tonic drops [`TcpIncoming`] when it begins to shut down and sends GOAWAY on every connection. The port is closed from then on, and handshakes
/// in flight end. A connection ends when its last call has ended, or when the drain time is over; [`drained`](Self::drained) waits for that.
///
/// **Metrics.** `tower_iroh_tcp_connections_total`, `tower_iroh_tcp_refused_total` by `reason` (`handshake`, `timeout`, `plaintext`, `garbage`, `limit`), and
/// `tower_iroh_tcp_accept_errors_total`.
#[derive(Clone, Debug)]
pub struct TcpAcceptor {
    shared: Arc<Shared>,
}

pub(super) struct Shared {
    pub(super) settings: AcceptorConfig,
    pub(super) local_addr: SocketAddr,
    pub(super) tls: Arc<ServerConfig>,
    /// Set when `TcpIncoming` is gone.
    pub(super) draining: CancellationToken,
    /// Of each peer that has connections, how many; of those without an identity together.
    open: Mutex<HashMap<Option<EndpointId>, usize>>,
    connections: TaskTracker,
    pub(super) warned: AtomicBool,
}

#[derive(Clone, Debug)]
pub(super) struct AcceptorConfig {
    pub(super) max_connections: usize,
    pub(super) max_connections_per_peer: usize,
    pub(super) max_plaintext_connections: usize,
    pub(super) max_handshakes: usize,
    pub(super) handshake_timeout: Duration,
    pub(super) drain_timeout: Duration,
    pub(super) keep_alive: Duration,
    pub(super) plaintext: bool,
}

impl TcpAcceptor {
    /// An acceptor with the default settings that proves `key`, and what it accepts.
    ///
    /// # Errors
    /// [`ConfigError`], where the listener has no address.
    pub fn new(listener: TcpListener, key: SecretKey) -> Result<(Self, TcpIncoming), ConfigError> {
        Self::builder(key).build(listener)
    }

    /// An acceptor with other settings.
    pub fn builder(key: SecretKey) -> TcpAcceptorBuilder {
        TcpAcceptorBuilder::new(key)
    }

    fn with(listener: TcpListener, shared: Shared) -> (Self, TcpIncoming) {
        let shared = Arc::new(shared);
        let incoming = TcpIncoming::new(listener, shared.clone());
        (Self { shared }, incoming)
    }

    /// Where it listens.
    pub fn local_addr(&self) -> SocketAddr {
        self.shared.local_addr
    }

    /// How many connections are open, of all peers.
    pub fn connections(&self) -> usize {
        lock(&self.shared.open).values().sum()
    }

    /// Waits until [`TcpIncoming`] is gone and every connection has ended, which it does by the end of the drain time. Cancel safe.
    pub async fn drained(&self) {
        self.shared.draining.cancelled().await;
        self.shared.connections.close();
        self.shared.connections.wait().await;
    }

    /// Ends [`TcpIncoming`], and waits as [`drained`](Self::drained) does.
    ///
    /// Give tonic its signal first: without one it does not tell its clients.
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
    pub(super) fn new(settings: AcceptorConfig, local_addr: SocketAddr, tls: ServerConfig) -> Self {
        Self {
            settings,
            local_addr,
            tls: Arc::new(tls),
            draining: CancellationToken::new(),
            open: Mutex::default(),
            connections: TaskTracker::new(),
            warned: AtomicBool::new(false),
        }
    }
}

/// A connection's part of what is bounded.
pub(super) struct Permit {
    shared: Arc<Shared>,
    who: Option<EndpointId>,
    _open: TaskTrackerToken,
}

impl Permit {
    /// For a peer, or for somebody without an identity; else what the caller is told.
    pub(super) fn take(shared: &Arc<Shared>, who: Option<EndpointId>) -> Result<Self, String> {
        let AcceptorConfig {
            max_connections,
            max_connections_per_peer,
            max_plaintext_connections,
            ..
        } = shared.settings;
        let mut open = lock(&shared.open);
        if shared.connections.len() >= max_connections {
            return Err(format!("{max_connections} connections are accepted"));
        }
        let count = open.entry(who).or_default();
        let full = match who {
            Some(_) if *count >= max_connections_per_peer => {
                format!("{max_connections_per_peer} connections per peer are accepted")
            }
            None if *count >= max_plaintext_connections => {
                format!("{max_plaintext_connections} connections without TLS are accepted")
            }
            _ => {
                *count += 1;
                return Ok(Self {
                    shared: shared.clone(),
                    who,
                    _open: shared.connections.token(),
                });
            }
        };
        Err(full)
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let mut open = lock(&self.shared.open);
        if let Some(count) = open.get_mut(&self.who) {
            *count -= 1;
            if *count == 0 {
                open.remove(&self.who);
            }
        }
    }
}

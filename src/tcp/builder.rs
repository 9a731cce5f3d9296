use std::{
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use iroh::SecretKey;
use tokio::runtime::Handle;

use super::{TcpLinks, dial::DialConfig, dialer::TcpDialer, link::LinkSettings, tls::TlsIdentity};
use crate::{
    http2::Lanes,
    pool::{Bounds, Pool, PoolConfig, Runtime},
};
use tower_iroh_layers::ConfigError;

/// Settings of [`TcpLinks`].
///
/// ```
/// use std::time::Duration;
/// use tower_iroh::tcp::TcpLinks;
///
/// let key = iroh::SecretKey::from_bytes(&[7; 32]);
/// let links = TcpLinks::builder(key.clone()).dial_timeout(Duration::from_secs(3)).build()?;
/// assert_eq!(links.id(), key.public());
/// let refused = TcpLinks::builder(key).max_connections(0).build().unwrap_err();
/// assert_eq!(refused.field(), "links.max_connections");
/// # Ok::<(), tower_iroh::ConfigError>(())
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct TcpLinksBuilder {
    key: SecretKey,
    settings: PoolConfig,
    runtime: Option<Handle>,
    lanes: Lanes,
    keep_alive: Duration,
    insecure_plaintext_fallback: bool,
}

impl TcpLinksBuilder {
    pub(super) fn new(key: SecretKey) -> Self {
        Self {
            key,
            settings: PoolConfig::default(),
            runtime: None,
            lanes: Lanes::default(),
            keep_alive: Duration::from_secs(10),
            insecure_plaintext_fallback: false,
        }
    }

    /// How many peers may be connected, dials included. Default 100.
    pub fn max_connections(mut self, peers: usize) -> Self {
        self.settings.max_connections = peers;
        self
    }

    /// How long a dial may take, names, TCP and TLS together, and how long it may wait for a place before that. Default 10 s.
    pub fn dial_timeout(mut self, timeout: Duration) -> Self {
        self.settings.dial_timeout = timeout;
        self
    }

    /// The wait after the first failed dial, and the longest. Default 100 ms and 30 s; it doubles with each failure and varies by 20 %.
    pub fn backoff(mut self, min: Duration, max: Duration) -> Self {
        self.settings.backoff = Bounds { min, max };
        self
    }

    /// After how long without an open call a peer is let go. Default 300 s.
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.settings.idle_timeout = timeout;
        self
    }

    /// How often each connection of a [`Channel`](crate::Channel)'s is pinged over HTTP/2. Default 30 s. A ping that is not answered for twice that, or 20 s at most, closes all to that peer. What
    /// goes through a [`TcpConnector`](super::TcpConnector) is pinged by whoever speaks HTTP/2 on it.
    pub fn health_interval(mut self, interval: Duration) -> Self {
        self.settings.health_interval = interval;
        self
    }

    /// After how long without a byte the peer's kernel is asked for a sign of life. Default 10 s; a peer that is silent for twice that is given up, also
    /// while it owes an acknowledgement (on Linux; elsewhere the system's own count of probes applies). Seconds at the finest.
    pub fn keep_alive(mut self, interval: Duration) -> Self {
        self.keep_alive = interval;
        self
    }

    /// The lanes to each peer. Default [`Lanes::standard`]. Copies of small writes are QUIC's alone.
    pub fn lanes(mut self, lanes: Lanes) -> Self {
        self.lanes = lanes;
        self
    }

    /// Whether to go on without encryption and without knowing who answers, where the peer's port does not speak TLS. Default false: such a dial fails.
    ///
    /// Exactly: TLS is tried first, with each connection. If the first bytes that come back are none of TLS's, the connection is made again and
    /// used in the clear. A wrong identity, a refusal, a silence or a connection that is closed are never answered so. **Whoever can change what
    /// is on the wire can bring this about**, and then reads, answers and changes every call: it is for the time in which servers are still to be
    /// moved to TLS, on a network that is trusted. The first time it happens a warning is logged.
    pub fn insecure_plaintext_fallback(mut self, fallback: bool) -> Self {
        self.insecure_plaintext_fallback = fallback;
        self
    }

    /// The runtime that dials and connections live on. Default: the one that is current when the links are built; outside of any, that of the first call.
    ///
    /// It has to be one that is driven: a current-thread runtime moves only while somebody blocks on it. When it ends, its connections are gone at
    /// once, and the next call dials on the caller's own runtime.
    pub fn runtime(mut self, runtime: Handle) -> Self {
        self.runtime = Some(runtime);
        self
    }

    /// Checks the settings and makes the links. Nothing is dialled.
    ///
    /// # Errors
    /// [`ConfigError`], naming the setting, its value, and what is accepted.
    pub fn build(self) -> Result<TcpLinks, ConfigError> {
        self.settings.validate()?;
        check_keep_alive(self.keep_alive)?;
        // No window of QUIC's bounds them here.
        self.lanes.validate(u64::MAX)?;
        Ok(self.build_valid())
    }

    /// Makes the links with settings that are known to be valid: the defaults, or checked ones.
    pub(super) fn build_valid(self) -> TcpLinks {
        let runtime = Runtime::new(self.runtime);
        let link = LinkSettings {
            runtime: runtime.clone(),
            dial: DialConfig {
                identity: TlsIdentity::new(self.key),
                keep_alive: self.keep_alive,
                insecure_plaintext_fallback: self.insecure_plaintext_fallback,
                warned: Arc::new(AtomicBool::new(false)),
            },
            dial_timeout: self.settings.dial_timeout,
            lanes: self.lanes,
            health_interval: self.settings.health_interval,
            idle_timeout: self.settings.idle_timeout,
        };
        TcpLinks::on(Pool::new(TcpDialer::new(link), self.settings, runtime))
    }
}

/// What the kernels can count.
pub(super) fn check_keep_alive(interval: Duration) -> Result<(), ConfigError> {
    ConfigError::lasting("tcp.keep_alive", interval)?;
    if interval > Duration::from_secs(3600) {
        let shown = format_args!("{interval:?}");
        return Err(ConfigError::new("tcp.keep_alive", shown, "at most an hour"));
    }
    Ok(())
}

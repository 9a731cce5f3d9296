use std::{
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use iroh::SecretKey;
use tower_iroh_layers::ConfigError;

use super::{TcpDialer, TcpLinks, dial::DialConfig, link::LinkSettings, tls::TlsIdentity};
use crate::{
    http2::Lanes,
    pool::{LinksBuilder, Pool, Runtime},
};

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
pub type TcpLinksBuilder = LinksBuilder<TcpSettings>;

/// What only links over TCP are configured with.
#[derive(Clone, Debug)]
pub struct TcpSettings {
    key: SecretKey,
    lanes: Lanes,
    keep_alive: Duration,
    insecure_plaintext_fallback: bool,
}

impl TcpLinksBuilder {
    pub(super) fn new(key: SecretKey) -> Self {
        Self::with(TcpSettings {
            key,
            lanes: Lanes::default(),
            keep_alive: Duration::from_secs(10),
            insecure_plaintext_fallback: false,
        })
    }

    /// After how long without a byte the peer's kernel is asked for a sign of life. Default 10 s; a peer that is silent for twice that is given up, also
    /// while it owes an acknowledgement (on Linux; elsewhere the system's own count of probes applies). Seconds at the finest.
    pub fn keep_alive(mut self, interval: Duration) -> Self {
        self.own.keep_alive = interval;
        self
    }

    /// The lanes to each peer. Default [`Lanes::standard`]. Copies of small writes are QUIC's alone.
    pub fn lanes(mut self, lanes: Lanes) -> Self {
        self.own.lanes = lanes;
        self
    }

    /// What a channel says of the lanes.
    pub(crate) fn max_header_list_size(mut self, bytes: Option<u32>) -> Self {
        if let Some(bytes) = bytes {
            self.own.lanes = self.own.lanes.max_header_list_size(bytes);
        }
        self
    }

    /// Whether to go on without encryption and without knowing who answers, where the peer's port does not speak TLS. Default false: such a dial fails.
    ///
    /// Exactly: TLS is tried first, with each connection. If the first bytes that come back are none of TLS's, the connection is made again and
    /// used in the clear. A wrong identity, a refusal, a silence or a connection that is closed are never answered so. **Whoever can change what
    /// is on the wire can bring this about**, and then reads, answers and changes every call: it is for the time in which servers are still to be
    /// moved to TLS, on a network that is trusted. The first time it happens a warning is logged.
    pub fn insecure_plaintext_fallback(mut self, fallback: bool) -> Self {
        self.own.insecure_plaintext_fallback = fallback;
        self
    }

    /// Checks the settings and makes the links. Nothing is dialled.
    ///
    /// # Errors
    /// [`ConfigError`], naming the setting, its value, and what is accepted.
    pub fn build(self) -> Result<TcpLinks, ConfigError> {
        self.validate()?;
        check_keep_alive(self.own.keep_alive)?;
        // No window of QUIC's bounds them here.
        self.own.lanes.validate(u64::MAX)?;
        Ok(self.build_valid())
    }

    /// Makes the links with settings that are known to be valid: the defaults, or checked ones.
    pub(super) fn build_valid(self) -> TcpLinks {
        let Self { pool, own } = self;
        let runtime = Runtime::new(pool.runtime());
        let link = LinkSettings {
            dial: DialConfig {
                identity: TlsIdentity::new(own.key),
                keep_alive: own.keep_alive,
                insecure_plaintext_fallback: own.insecure_plaintext_fallback,
                warned: Arc::new(AtomicBool::new(false)),
            },
            dial_timeout: pool.dial_timeout,
            runtime: runtime.clone(),
            lanes: own.lanes,
            health_interval: pool.health_interval,
            idle_timeout: pool.idle_timeout,
        };
        TcpLinks::on(Pool::new(TcpDialer::new(link), pool, runtime))
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

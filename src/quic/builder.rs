use std::time::Duration;

use iroh::Endpoint;
use tokio::runtime::Handle;

use super::{Links, Tuning, dial::IrohDialer, link::LinkSettings};
use crate::{
    http2::Lanes,
    pool::{Bounds, Pool, PoolConfig, Runtime},
};
use tower_iroh_layers::ConfigError;

/// Settings of [`Links`].
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
/// use tower_iroh::{Links, presets};
///
/// let endpoint = iroh::Endpoint::bind(presets::Offline).await?;
/// let links = Links::builder(endpoint)
///     .max_connections(20)
///     .dial_timeout(Duration::from_secs(3))
///     .build()?;
/// assert!(Links::builder(links.endpoint().clone()).max_connections(0).build().is_err());
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct LinksBuilder {
    endpoint: Endpoint,
    settings: PoolConfig,
    runtime: Option<Handle>,
    lanes: Lanes,
    tuning: Tuning,
    early_data: bool,
}

impl LinksBuilder {
    /// The endpoint that will dial.
    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    pub(super) fn new(endpoint: Endpoint) -> Self {
        Self {
            endpoint,
            settings: PoolConfig::default(),
            runtime: None,
            lanes: Lanes::default(),
            tuning: Tuning::default(),
            early_data: false,
        }
    }

    /// How many connections there may be, dials included. Default 100.
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.settings.max_connections = connections;
        self
    }

    /// How long a dial may take, and how long it may wait for a place in the pool before that. Default 10 s.
    pub fn dial_timeout(mut self, timeout: Duration) -> Self {
        self.settings.dial_timeout = timeout;
        self
    }

    /// The wait after the first failed dial, and the longest. Default 100 ms and 30 s; it doubles with each failure and
    /// varies by 20 %.
    pub fn backoff(mut self, min: Duration, max: Duration) -> Self {
        self.settings.backoff = Bounds { min, max };
        self
    }

    /// After how long without an open call a connection is closed. Default 300 s.
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.settings.idle_timeout = timeout;
        self
    }

    /// How often a connection is pinged. Default 30 s. Two pings without an answer close it.
    pub fn health_interval(mut self, interval: Duration) -> Self {
        self.settings.health_interval = interval;
        self
    }

    /// The lanes of each connection. Default [`Lanes::standard`].
    pub fn lanes(mut self, lanes: Lanes) -> Self {
        self.lanes = lanes;
        self
    }

    /// Windows and congestion control of each connection. Default [`Tuning::auto`].
    pub fn tuning(mut self, tuning: Tuning) -> Self {
        self.tuning = tuning;
        self
    }

    /// Whether calls that are declared idempotent leave with a dial's first packets, where the endpoint has a session with the peer to resume: TLS
    /// 1.3's early data, QUIC's 0-RTT. Default off.
    ///
    /// Such a call saves a round trip if the peer's acceptor [answers it early](crate::AcceptorBuilder::early_data) too. Somebody in between may record it
    /// and deliver it again, so only these leave early: calls of a [`Channel`](crate::Channel) that carry [`Idempotent`](crate::layers::Idempotent) or whose method is in its
    /// [`RetryPolicy`](crate::layers::retry::RetryPolicyBuilder::idempotent), with a whole request of at most 64 KiB. All others, and everything that goes through a
    /// [`Connector`](crate::Connector), which sees bytes and not calls, wait for the handshake. What the peer rejects is sent again on the same connection.
    ///
    /// The sessions are the endpoint's, kept in memory: 256 by default (iroh's `max_tls_tickets`), each good for one dial.
    pub fn early_data(mut self, early_data: bool) -> Self {
        self.early_data = early_data;
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
    pub fn build(self) -> Result<Links, ConfigError> {
        if self.endpoint.is_closed() {
            return Err(ConfigError::new(
                "links.endpoint",
                self.endpoint.id().fmt_short(),
                "is closed; an endpoint that is bound is accepted",
            ));
        }
        self.settings.validate()?;
        self.tuning.validate()?;
        self.lanes.validate(self.tuning.send_window_bytes())?;
        Ok(self.build_valid())
    }

    /// Makes the links with settings that are known to be valid: the defaults, or checked ones.
    pub(super) fn build_valid(self) -> Links {
        let runtime = Runtime::new(self.runtime);
        let link = LinkSettings {
            runtime: runtime.clone(),
            lanes: self.lanes,
            tuning: self.tuning,
            health_interval: self.settings.health_interval,
            idle_timeout: self.settings.idle_timeout,
            early_data: self.early_data,
        };
        Links {
            pool: Pool::new(IrohDialer::new(self.endpoint, link), self.settings, runtime),
        }
    }
}

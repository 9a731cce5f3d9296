use iroh::Endpoint;
use tower_iroh_layers::ConfigError;

use super::{Links, QuicDialer, Tuning, link::LinkSettings};
use crate::{
    http2::Lanes,
    pool::{self, Pool, Runtime},
};

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
pub type LinksBuilder = pool::LinksBuilder<QuicSettings>;

/// What only links over iroh are configured with.
#[derive(Clone, Debug)]
pub struct QuicSettings {
    endpoint: Endpoint,
    lanes: Lanes,
    tuning: Tuning,
    early_data: bool,
}

impl LinksBuilder {
    pub(super) fn new(endpoint: Endpoint) -> Self {
        Self::with(QuicSettings {
            endpoint,
            lanes: Lanes::default(),
            tuning: Tuning::default(),
            early_data: false,
        })
    }

    /// The endpoint that will dial.
    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.own.endpoint
    }

    /// The lanes of each connection. Default [`Lanes::standard`].
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

    /// Windows and congestion control of each connection. Default [`Tuning::auto`].
    pub fn tuning(mut self, tuning: Tuning) -> Self {
        self.own.tuning = tuning;
        self
    }

    /// Whether calls that are declared idempotent leave with a dial's first packets, where the endpoint has a session with the peer to resume: TLS
    /// 1.3's early data, QUIC's 0-RTT. Default off.
    ///
    /// Such a call saves a round trip if the peer's acceptor [answers it early](crate::AcceptorBuilder::early_data) too. Somebody in between may record it
    /// and deliver it again, so only these leave early: calls of a [`Channel`](crate::Channel) that carry [`Idempotent`](crate::layers::Idempotent) or whose method its
    /// [table of methods](crate::layers::MethodConfig::idempotent) calls idempotent, with a whole request of at most 64 KiB. All others, and everything that goes through a
    /// [`Connector`](crate::Connector), which sees bytes and not calls, wait for the handshake. What the peer rejects is sent again on the same connection.
    ///
    /// The sessions are the endpoint's, kept in memory: 256 by default (iroh's `max_tls_tickets`), each good for one dial.
    pub fn early_data(mut self, early_data: bool) -> Self {
        self.own.early_data = early_data;
        self
    }

    /// Checks the settings and makes the links. Nothing is dialled.
    ///
    /// # Errors
    /// [`ConfigError`], naming the setting, its value, and what is accepted.
    pub fn build(self) -> Result<Links, ConfigError> {
        let QuicSettings {
            endpoint,
            lanes,
            tuning,
            ..
        } = &self.own;
        if endpoint.is_closed() {
            return Err(ConfigError::new(
                "links.endpoint",
                endpoint.id().fmt_short(),
                "is closed; an endpoint that is bound is accepted",
            ));
        }
        self.validate()?;
        tuning.validate()?;
        lanes.validate(tuning.send_window_bytes())?;
        Ok(self.build_valid())
    }

    /// Makes the links with settings that are known to be valid: the defaults, or checked ones.
    pub(super) fn build_valid(self) -> Links {
        let Self { pool, own } = self;
        let runtime = Runtime::new(pool.runtime());
        let link = LinkSettings {
            runtime: runtime.clone(),
            lanes: own.lanes,
            tuning: own.tuning,
            health_interval: pool.health_interval,
            idle_timeout: pool.idle_timeout,
            early_data: own.early_data,
        };
        Links::on(Pool::new(
            QuicDialer::new(own.endpoint, link),
            pool,
            runtime,
        ))
    }
}

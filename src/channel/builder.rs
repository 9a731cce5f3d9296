use std::time::Duration;

use http::HeaderValue;
use iroh::Endpoint;
use tower::Layer as _;
use tower_iroh_layers::Urgency;

use super::{Arm, Channel, Stack, StackBuilder};
use crate::{ConfigError, Lanes, Links, LinksBuilder, Peer, Tuning};

/// Settings of a [`Channel`].
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// use tower_iroh::{Channel, Peer, Urgency, presets};
///
/// let endpoint = iroh::Endpoint::bind(presets::Offline).await?;
/// let peer = Peer::new(iroh::SecretKey::from_bytes(&[1; 32]).public());
/// let channel = Channel::builder(endpoint.clone())
///     .peer(peer)
///     .user_agent("my-service/1.0")
///     .urgency(Urgency::BULK)
///     .build()?;
/// # drop(channel);
/// let error = Channel::builder(endpoint).build().unwrap_err();
/// assert_eq!(error.field(), "channel.peer");
/// # Ok(())
/// # }
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct ChannelBuilder {
    links: Source,
    peer: Option<Peer>,
    user_agent: Option<String>,
    stack: StackBuilder,
}

#[derive(Clone, Debug)]
enum Source {
    Own(LinksBuilder),
    Shared {
        links: Links,
        /// A setting that only links of the channel's own could have.
        contradiction: Option<&'static str>,
    },
}

impl ChannelBuilder {
    pub(super) fn new(endpoint: Endpoint) -> Self {
        Self::from_source(Source::Own(Links::builder(endpoint)))
    }

    pub(super) fn with_links(links: Links) -> Self {
        Self::from_source(Source::Shared {
            links,
            contradiction: None,
        })
    }

    fn from_source(links: Source) -> Self {
        Self {
            links,
            peer: None,
            user_agent: None,
            stack: Stack::builder().transport("iroh"),
        }
    }

    /// Whom to call, and where the peer is. Required.
    pub fn peer(mut self, peer: impl Into<Peer>) -> Self {
        self.peer = Some(peer.into());
        self
    }

    /// The longest that a call may take, from the call to the end of its response. Default: as long as the call itself says.
    pub fn timeout(self, timeout: Duration) -> Self {
        self.stack(|stack| stack.timeout(timeout))
    }

    /// What stands before `tower-iroh/<version>` in the `user-agent` header. Default: nothing.
    pub fn user_agent(mut self, user_agent: impl Into<String>) -> Self {
        self.user_agent = Some(user_agent.into());
        self
    }

    /// The urgency of calls that say nothing of their own. Default [`Urgency::INTERACTIVE`].
    pub fn urgency(self, urgency: Urgency) -> Self {
        self.stack(|stack| stack.urgency(urgency))
    }

    /// The layers that stand in the channel: see [`Stack`].
    ///
    /// ```
    /// # async fn example(endpoint: iroh::Endpoint, peer: tower_iroh::Peer) -> Result<(), Box<dyn std::error::Error>> {
    /// use tower_iroh::layers::{buffer::BufferConfig, retry::RetryPolicy};
    ///
    /// let retry = RetryPolicy::builder().idempotent(["/shop.v1.Stock/Get"]).try_build()?;
    /// let buffer = BufferConfig::builder().serve(["/shop.v1.Orders/*"]).try_build()?;
    /// let channel = tower_iroh::Channel::builder(endpoint)
    ///     .peer(peer)
    ///     .stack(|stack| stack.retry(retry).buffer(buffer).without_fail_fast())
    ///     .build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn stack(mut self, configure: impl FnOnce(StackBuilder) -> StackBuilder) -> Self {
        self.stack = configure(self.stack);
        self
    }

    /// The lanes of the channel's own links. Default [`Lanes::standard`].
    pub fn lanes(self, lanes: Lanes) -> Self {
        self.own("channel.lanes", |links| links.lanes(lanes))
    }

    /// Windows and congestion control of the channel's own links. Default [`Tuning::auto`].
    pub fn tuning(self, tuning: Tuning) -> Self {
        self.own("channel.tuning", |links| links.tuning(tuning))
    }

    /// Whether calls that are declared idempotent leave with a dial's first packets: see [`LinksBuilder::early_data`]. Default off.
    ///
    /// ```
    /// # async fn example(endpoint: iroh::Endpoint, peer: tower_iroh::Peer) -> Result<(), Box<dyn std::error::Error>> {
    /// use tower_iroh::layers::retry::RetryPolicy;
    ///
    /// let retry = RetryPolicy::builder().idempotent(["/shop.v1.Stock/Get"]).try_build()?;
    /// let channel = tower_iroh::Channel::builder(endpoint)
    ///     .peer(peer)
    ///     .stack(|stack| stack.retry(retry))
    ///     .early_data(true)
    ///     .build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn early_data(self, early_data: bool) -> Self {
        self.own("channel.early_data", |links| links.early_data(early_data))
    }

    /// Any other setting of the channel's own links.
    ///
    /// ```
    /// # async fn example(endpoint: iroh::Endpoint, peer: tower_iroh::Peer) -> Result<(), tower_iroh::ConfigError> {
    /// # use std::time::Duration;
    /// let channel = tower_iroh::Channel::builder(endpoint)
    ///     .peer(peer)
    ///     .links(|links| links.dial_timeout(Duration::from_secs(2)))
    ///     .build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn links(self, configure: impl FnOnce(LinksBuilder) -> LinksBuilder) -> Self {
        self.own("channel.links", configure)
    }

    fn own(
        mut self,
        setting: &'static str,
        configure: impl FnOnce(LinksBuilder) -> LinksBuilder,
    ) -> Self {
        self.links = match self.links {
            Source::Own(links) => Source::Own(configure(links)),
            Source::Shared { links, .. } => Source::Shared {
                links,
                contradiction: Some(setting),
            },
        };
        self
    }

    /// Checks the settings and makes the channel. Nothing is dialled.
    ///
    /// # Errors
    /// [`ConfigError`], naming the setting, its value, and what is accepted.
    pub fn build(self) -> Result<Channel, ConfigError> {
        let Some(peer) = self.peer else {
            return Err(ConfigError::new(
                "channel.peer",
                "nothing",
                "a peer is required: a ticket, an endpoint id or an address",
            ));
        };
        let ours = concat!("tower-iroh/", env!("CARGO_PKG_VERSION"));
        let user_agent = match &self.user_agent {
            Some(theirs) => format!("{theirs} {ours}"),
            None => ours.to_owned(),
        };
        let user_agent = HeaderValue::from_str(&user_agent).map_err(|_| {
            ConfigError::new(
                "channel.user_agent",
                format_args!("{:?}", self.user_agent.unwrap_or_default()),
                "visible ASCII characters and spaces are accepted",
            )
        })?;
        let links = match self.links {
            Source::Own(links) => links.try_build()?,
            Source::Shared {
                links,
                contradiction: None,
            } => links,
            Source::Shared {
                contradiction: Some(setting),
                ..
            } => {
                return Err(ConfigError::new(
                    setting,
                    "set on a channel with shared links",
                    "set it with Links::builder, where all who share the links get the same",
                ));
            }
        };
        let id = peer.id();
        if !peer.addr().is_empty() {
            links.add_peer(peer);
        }
        let (state, known) = (links.state(id), links.clone());
        let stack = self
            .stack
            .connection(state)
            .rtt(move || known.stats(&id)?.rtt)
            .try_build()?;
        let Some(arm) = Arm::new(links.clone(), id, user_agent, stack.retry_policy()) else {
            return Err(ConfigError::new(
                "channel.peer",
                id,
                "an endpoint id that fits a URI",
            ));
        };
        Ok(Channel {
            stacked: stack.layer(arm),
            links,
            peer: id,
        })
    }
}

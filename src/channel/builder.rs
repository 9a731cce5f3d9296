use std::time::Duration;

use http::HeaderValue;
use iroh::{Endpoint, SecretKey};
use tower::Layer as _;
use tower_iroh_layers::Urgency;

use super::{Arm, Channel, Stack, StackBuilder, Way, way};
use crate::{
    ConfigError, Lanes, Links, LinksBuilder, Peer, Tuning,
    tcp::{TcpLinks, TcpLinksBuilder},
};

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
    Iroh(LinksBuilder),
    Tcp(TcpLinksBuilder),
    Shared {
        links: SharedLinks,
        /// A setting that only links of the channel's own could have.
        contradiction: Option<&'static str>,
    },
    /// Links of the channel's own, and a setting of links over the other transport.
    Other(&'static str),
}

#[derive(Clone, Debug)]
enum SharedLinks {
    Iroh(Links),
    Tcp(TcpLinks),
}

impl ChannelBuilder {
    pub(super) fn new(endpoint: Endpoint) -> Self {
        Self::from_source(Source::Iroh(Links::builder(endpoint)), "iroh")
    }

    pub(super) fn tcp(key: SecretKey) -> Self {
        Self::from_source(Source::Tcp(TcpLinks::builder(key)), "tcp")
    }

    pub(super) fn with_tcp_links(links: TcpLinks) -> Self {
        let shared = Source::Shared {
            links: SharedLinks::Tcp(links),
            contradiction: None,
        };
        Self::from_source(shared, "tcp")
    }

    pub(super) fn with_links(links: Links) -> Self {
        let shared = Source::Shared {
            links: SharedLinks::Iroh(links),
            contradiction: None,
        };
        Self::from_source(shared, "iroh")
    }

    fn from_source(links: Source, transport: &'static str) -> Self {
        Self {
            links,
            peer: None,
            user_agent: None,
            stack: Stack::builder().transport(transport),
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
        match &self.links {
            Source::Tcp(_) => self.tcp_links(|links| links.lanes(lanes)),
            _ => self.own("channel.lanes", |links| links.lanes(lanes)),
        }
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

    /// Any other setting of the own links of a channel over [TCP](Channel::tcp).
    ///
    /// ```
    /// # fn example(key: iroh::SecretKey, peer: tower_iroh::Peer) -> Result<(), tower_iroh::ConfigError> {
    /// # use std::time::Duration;
    /// let channel = tower_iroh::Channel::tcp(key)
    ///     .peer(peer)
    ///     .tcp_links(|links| links.dial_timeout(Duration::from_secs(2)))
    ///     .build()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn tcp_links(mut self, configure: impl FnOnce(TcpLinksBuilder) -> TcpLinksBuilder) -> Self {
        self.links = match self.links {
            Source::Tcp(links) => Source::Tcp(configure(links)),
            other => other.contradicted("channel.tcp_links"),
        };
        self
    }

    /// A setting of iroh's links.
    fn own(
        mut self,
        setting: &'static str,
        configure: impl FnOnce(LinksBuilder) -> LinksBuilder,
    ) -> Self {
        self.links = match self.links {
            Source::Iroh(links) => Source::Iroh(configure(links)),
            other => other.contradicted(setting),
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
        let source = self.links.build()?;
        let id = peer.id();
        match &source {
            way::Source::Iroh(links) if !peer.addr().is_empty() => links.add_peer(peer),
            way::Source::Iroh(_) => {}
            way::Source::Tcp(links) => links.add_peer(peer),
        }
        let known = source.clone();
        let stack = self
            .stack
            .connection(source.state(id))
            .rtt(move || known.rtt(&id))
            .try_build()?;
        let policy = stack.retry_policy();
        let arm = match &source {
            way::Source::Iroh(links) => {
                Arm::new(links.pool.clone(), id, user_agent, policy).map(Way::Iroh)
            }
            way::Source::Tcp(links) => {
                Arm::new(links.pool().clone(), id, user_agent, policy).map(Way::Tcp)
            }
        };
        let Some(arm) = arm else {
            return Err(ConfigError::new(
                "channel.peer",
                id,
                "an endpoint id that fits a URI",
            ));
        };
        Ok(Channel {
            stacked: stack.layer(arm),
            source,
            peer: id,
        })
    }
}

impl Source {
    /// Told of a setting that these links cannot have.
    fn contradicted(self, setting: &'static str) -> Self {
        match self {
            Self::Shared { links, .. } => Self::Shared {
                links,
                contradiction: Some(setting),
            },
            Self::Iroh(_) | Self::Tcp(_) | Self::Other(_) => Self::Other(setting),
        }
    }

    fn build(self) -> Result<way::Source, ConfigError> {
        match self {
            Self::Iroh(links) => Ok(way::Source::Iroh(links.try_build()?)),
            Self::Tcp(links) => Ok(way::Source::Tcp(links.try_build()?)),
            Self::Shared {
                links,
                contradiction: None,
            } => Ok(match links {
                SharedLinks::Iroh(links) => way::Source::Iroh(links),
                SharedLinks::Tcp(links) => way::Source::Tcp(links),
            }),
            Self::Shared {
                contradiction: Some(setting),
                ..
            } => Err(ConfigError::new(
                setting,
                "set on a channel with shared links",
                "set it with Links::builder, where all who share the links get the same",
            )),
            Self::Other(setting) => Err(ConfigError::new(
                setting,
                "set on a channel over the other transport",
                "tuning, early_data and links are a channel's over iroh, tcp_links is one's over TCP",
            )),
        }
    }
}

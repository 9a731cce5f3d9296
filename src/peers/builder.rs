use std::{
    fmt,
    sync::{Arc, Mutex},
};

use tower_iroh_layers::{
    breaker::{BreakerConfig, Registry},
    select::{Arm, Choice, SelectConfig, SelectPolicy},
};

use super::{Configure, Peers, Shared, directory::Directory};
use crate::{channel::ChannelBuilder, peer::Peer, quic::Links, tcp::TcpLinks};

/// Settings of [`Peers`]. Without links over at least one transport no channel can be made.
#[must_use]
pub struct PeersBuilder {
    pub(super) iroh: Option<Links>,
    pub(super) tcp: Option<TcpLinks>,
    pub(super) breaker: BreakerConfig,
    pub(super) policy: Option<SelectPolicy>,
    pub(super) select: SelectConfig,
    pub(super) configure: Option<Configure>,
}

impl PeersBuilder {
    /// The links over iroh.
    pub fn iroh(mut self, links: Links) -> Self {
        self.iroh = Some(links);
        self
    }

    /// The links over TCP.
    pub fn tcp(mut self, links: TcpLinks) -> Self {
        self.tcp = Some(links);
        self
    }

    /// Which calls go over which transport. Default: iroh, and TCP while iroh is not ready.
    pub fn policy(mut self, policy: SelectPolicy) -> Self {
        self.policy = Some(policy);
        self
    }

    /// Settings of the choice that hold for every policy. Default: [`SelectConfig`]'s.
    pub fn select(mut self, select: SelectConfig) -> Self {
        self.select = select;
        self
    }

    /// When each peer's circuit breakers open, and for how long. Default: [`BreakerConfig`]'s.
    pub fn breaker(mut self, breaker: BreakerConfig) -> Self {
        self.breaker = breaker;
        self
    }

    /// Configures each channel further, after the functions that were given before. It is called when a peer's channel is first asked for, and once for each
    /// caller where several ask at the same time. It may use the directory.
    ///
    /// ```
    /// # fn example(links: tower_iroh::Links) {
    /// use std::time::Duration;
    /// use tower_iroh::Peers;
    ///
    /// let peers = Peers::builder()
    ///     .iroh(links)
    ///     .channel(|_, channel| channel.timeout(Duration::from_secs(5)).user_agent("cluster/1.0"))
    ///     .build();
    /// # }
    /// ```
    pub fn channel(
        mut self,
        configure: impl Fn(&Peer, ChannelBuilder) -> ChannelBuilder + Send + Sync + 'static,
    ) -> Self {
        self.configure = Some(match self.configure.take() {
            None => Box::new(configure),
            Some(before) => Box::new(move |peer, channel| configure(peer, before(peer, channel))),
        });
        self
    }

    /// Makes the directory.
    pub fn build(self) -> Peers {
        let prefer_iroh = || match SelectPolicy::builder(Choice::Prefer(Arm::First)).build() {
            Ok(policy) => policy,
            // A policy without a rule has none that could be wrong.
            Err(_) => SelectPolicy::from(Arm::First),
        };
        Peers {
            shared: Arc::new(Shared {
                iroh: self.iroh,
                tcp: self.tcp,
                circuits: Registry::new(self.breaker),
                select: self.select,
                configure: self.configure,
                directory: Mutex::new(Directory::new(self.policy.unwrap_or_else(prefer_iroh))),
            }),
        }
    }
}

impl fmt::Debug for PeersBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeersBuilder")
            .field("breaker", &self.breaker)
            .field("policy", &self.policy)
            .finish_non_exhaustive()
    }
}

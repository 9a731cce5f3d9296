//! Peers by name, with a channel to each.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{Arc, Mutex},
};

use iroh::EndpointId;
use tonic::Status;
use tower_iroh_layers::breaker::{BreakerConfig, Circuit, Registry};

use crate::{Channel, ChannelBuilder, ConfigError, Links, Peer, lock::lock};

/// A directory of peers: a name for each, where it is, and one [`Channel`] to it that all who ask share.
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use tower_iroh_proto::echo::echo_client::EchoClient;
/// use tower_iroh::{Links, Peer, Peers, presets};
///
/// let endpoint = iroh::Endpoint::bind(presets::Offline).await?;
/// # let ticket = Peer::new(iroh::SecretKey::from_bytes(&[1; 32]).public()).ticket();
/// let peers = Peers::new(Links::new(endpoint));
/// peers.add("node-1", ticket.parse::<Peer>()?);
///
/// let client = EchoClient::new(peers.channel("node-1")?);
/// # drop(client);
/// assert!(peers.channel("node-2").is_err());
/// # Ok(())
/// # }
/// ```
///
/// Clones are one directory. All channels go over the same [`Links`], so there is one connection per peer.
///
/// **State.** A peer's channel is made when it is first asked for, which dials nothing, and kept while the peer is in the directory. Its circuit
/// breaker is kept longer, [10 minutes](Registry::IDLE) without use: a peer that is removed and added again does not begin with a clean
/// slate. Two names of one identity share a channel.
///
/// **Changes at run time.** A peer that is added again under its name is somewhere else from then on: its channel stays, and dials the new addresses next. One that has another
/// identity is another peer, with a channel of its own. A peer that is removed is found no more; channels that somebody holds go on, and their
/// connection ends when it is idle.
#[derive(Clone)]
pub struct Peers {
    shared: Arc<Shared>,
}

struct Shared {
    links: Links,
    circuits: Registry<EndpointId>,
    configure: Option<Configure>,
    directory: Mutex<Directory>,
}

type Configure = Box<dyn Fn(&Peer, ChannelBuilder) -> ChannelBuilder + Send + Sync>;

#[derive(Default)]
struct Directory {
    peers: BTreeMap<String, Peer>,
    channels: HashMap<EndpointId, Channel>,
}

impl Peers {
    /// An empty directory with the default settings.
    pub fn new(links: Links) -> Self {
        Self::builder(links).build()
    }

    /// An empty directory with other settings.
    pub fn builder(links: Links) -> PeersBuilder {
        PeersBuilder {
            links,
            breaker: BreakerConfig::default(),
            configure: None,
        }
    }

    /// Names a peer, and says where it is. Returns what the name meant before.
    pub fn add(&self, name: impl Into<String>, peer: impl Into<Peer>) -> Option<Peer> {
        let (name, peer) = (name.into(), peer.into());
        let mut directory = lock(&self.shared.directory);
        let before = directory.peers.insert(name, peer.clone());
        directory.forget(before.as_ref());
        drop(directory);
        if !peer.addr().is_empty() {
            self.shared.links.add_peer(peer);
        }
        before
    }

    /// Takes a name out, and returns what it meant.
    pub fn remove(&self, name: &str) -> Option<Peer> {
        let mut directory = lock(&self.shared.directory);
        let before = directory.peers.remove(name);
        directory.forget(before.as_ref());
        before
    }

    /// Who has this name.
    pub fn get(&self, name: &str) -> Option<Peer> {
        lock(&self.shared.directory).peers.get(name).cloned()
    }

    /// All peers, by name.
    pub fn list(&self) -> Vec<(String, Peer)> {
        let directory = lock(&self.shared.directory);
        let peers = directory.peers.iter();
        peers
            .map(|(name, peer)| (name.clone(), peer.clone()))
            .collect()
    }

    /// The channel to a peer. Nothing is dialled.
    ///
    /// # Errors
    /// [`PeersError::Unknown`] for a name that nobody has, [`PeersError::Channel`] where [`PeersBuilder::channel`] made settings that cannot be.
    pub fn channel(&self, name: &str) -> Result<Channel, PeersError> {
        let peer = {
            let directory = lock(&self.shared.directory);
            let Some(peer) = directory.peers.get(name) else {
                return Err(PeersError::Unknown(name.to_owned()));
            };
            if let Some(channel) = directory.channels.get(&peer.id()) {
                return Ok(channel.clone());
            }
            peer.clone()
        };
        // Somebody's own function is called: not with the lock.
        let made = self.make(&peer)?;
        let mut directory = lock(&self.shared.directory);
        if !directory.knows(peer.id()) {
            // Removed meanwhile: it is the caller's alone.
            return Ok(made);
        }
        Ok(directory.channels.entry(peer.id()).or_insert(made).clone())
    }

    /// The circuit breaker to a peer: made with it, and kept for a while after it was removed.
    pub fn circuit(&self, id: EndpointId) -> Circuit {
        let links = self.shared.links.clone();
        self.shared.circuits.circuit_or(&id, |config| {
            let circuit = Circuit::builder(config).transport("iroh");
            circuit.rtt(move || links.stats(&id)?.rtt).build()
        })
    }

    /// The connections beneath.
    pub fn links(&self) -> &Links {
        &self.shared.links
    }

    fn make(&self, peer: &Peer) -> Result<Channel, ConfigError> {
        let circuit = self.circuit(peer.id());
        let builder = Channel::with_links(self.shared.links.clone())
            .peer(peer.clone())
            .stack(|stack| stack.circuit(circuit));
        match &self.shared.configure {
            Some(configure) => configure(peer, builder).build(),
            None => builder.build(),
        }
    }
}

impl Directory {
    fn knows(&self, id: EndpointId) -> bool {
        self.peers.values().any(|peer| peer.id() == id)
    }

    /// Lets go of the channel to a peer that has no name any more.
    fn forget(&mut self, before: Option<&Peer>) {
        if let Some(before) = before
            && !self.knows(before.id())
        {
            self.channels.remove(&before.id());
        }
    }
}

impl fmt::Debug for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let directory = lock(&self.shared.directory);
        f.debug_struct("Peers")
            .field("names", &directory.peers.keys())
            .field("channels", &directory.channels.len())
            .finish_non_exhaustive()
    }
}

/// Settings of [`Peers`].
#[must_use]
pub struct PeersBuilder {
    links: Links,
    breaker: BreakerConfig,
    configure: Option<Configure>,
}

impl PeersBuilder {
    /// When each peer's circuit breaker opens, and for how long. Default: [`BreakerConfig`]'s.
    pub fn breaker(mut self, breaker: BreakerConfig) -> Self {
        self.breaker = breaker;
        self
    }

    /// What each channel is configured with beyond that. It is asked once per channel, and may be asked once too often where several ask for the first one at
    /// a time.
    ///
    /// ```
    /// # fn example(links: tower_iroh::Links) {
    /// use std::time::Duration;
    /// use tower_iroh::Peers;
    ///
    /// let peers = Peers::builder(links)
    ///     .channel(|_, channel| channel.timeout(Duration::from_secs(5)).user_agent("cluster/1.0"))
    ///     .build();
    /// # }
    /// ```
    pub fn channel(
        mut self,
        configure: impl Fn(&Peer, ChannelBuilder) -> ChannelBuilder + Send + Sync + 'static,
    ) -> Self {
        self.configure = Some(Box::new(configure));
        self
    }

    /// Makes the directory.
    pub fn build(self) -> Peers {
        Peers {
            shared: Arc::new(Shared {
                links: self.links,
                circuits: Registry::new(self.breaker),
                configure: self.configure,
                directory: Mutex::default(),
            }),
        }
    }
}

impl fmt::Debug for PeersBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("PeersBuilder")
            .field("breaker", &self.breaker)
            .finish_non_exhaustive()
    }
}

/// Why there is no channel.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PeersError {
    /// Nobody has this name.
    #[error("no peer is called {0:?}")]
    Unknown(String),
    /// The channel cannot be made with its settings.
    #[error("the channel cannot be made")]
    Channel(#[from] ConfigError),
}

impl From<PeersError> for Status {
    /// NOT_FOUND for a name that nobody has, FAILED_PRECONDITION for settings that cannot be.
    fn from(error: PeersError) -> Self {
        match &error {
            PeersError::Unknown(_) => Self::not_found(error.to_string()),
            PeersError::Channel(cause) => Self::failed_precondition(format!("{error}: {cause}")),
        }
    }
}

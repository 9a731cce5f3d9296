//! Peers by name, with a channel to each.

use std::{
    collections::{BTreeMap, HashMap},
    fmt,
    sync::{Arc, Mutex},
};

use iroh::EndpointId;
use tower_iroh_layers::{
    breaker::{BreakerConfig, Circuit, Registry},
    select::{
        Policy, SelectConfig, SelectHandle,
        rollout::{Rollout, RolloutConfig},
    },
};

use crate::{
    Channel, ChannelBuilder, ConfigError, Links, Peer, StackBuilder, TransportKind, lock::lock,
    tcp::TcpLinks,
};

mod builder;
mod error;
mod rollouts;

pub use builder::PeersBuilder;
pub use error::PeersError;
use rollouts::Rollouts;

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
/// Clones are one directory. All channels go over the same links, so there is one connection per peer and transport.
///
/// **State.** A peer's channel is made when it is first asked for, which dials nothing, and kept while the peer is in the directory. Its circuit
/// breakers, one per transport, are kept longer, [10 minutes](Registry::IDLE) without use: a peer that is removed and added again does not begin with a clean
/// slate. Two names of one identity share everything.
///
/// **Changes at run time.** A peer that is added again under its name is somewhere else from then on: its channel stays, and dials the new addresses next. One
/// that has another identity is another peer, with a channel of its own. A peer that is removed is found no more; channels that somebody holds go on, and
/// their connection ends when it is idle. [`set_policy`](Self::set_policy) is in force for all at once.
#[derive(Clone)]
pub struct Peers {
    shared: Arc<Shared>,
}

struct Shared {
    iroh: Option<Links>,
    tcp: Option<TcpLinks>,
    circuits: Registry<(EndpointId, TransportKind)>,
    select: SelectConfig,
    configure: Option<Configure>,
    directory: Mutex<Directory>,
    rollouts: Mutex<Rollouts>,
}

type Configure = Box<dyn Fn(&Peer, ChannelBuilder) -> ChannelBuilder + Send + Sync>;

/// What a channel leads over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Over {
    One(TransportKind),
    /// Both, and the policy chooses.
    Chosen,
}

struct Directory {
    peers: BTreeMap<String, Peer>,
    channels: HashMap<(EndpointId, Over), Channel>,
    selections: HashMap<EndpointId, SelectHandle>,
    policy: Policy,
}

impl Peers {
    /// An empty directory of peers over iroh, with the default settings.
    pub fn new(links: Links) -> Self {
        Self::builder().iroh(links).build()
    }

    /// An empty directory with other settings.
    pub fn builder() -> PeersBuilder {
        PeersBuilder {
            iroh: None,
            tcp: None,
            breaker: BreakerConfig::default(),
            policy: None,
            select: SelectConfig::default(),
            configure: None,
        }
    }

    /// Names a peer, and says where it is. Returns what the name meant before.
    pub fn add(&self, name: impl Into<String>, peer: impl Into<Peer>) -> Option<Peer> {
        let (name, peer) = (name.into(), peer.into());
        let mut directory = lock(&self.shared.directory);
        let before = directory.peers.insert(name, peer.clone());
        let forgotten = directory.forget(before.as_ref());
        drop(directory);
        self.end_rollout(forgotten);
        if let Some(tcp) = &self.shared.tcp {
            tcp.add_peer(peer.clone());
        }
        if let Some(links) = &self.shared.iroh
            && !peer.addr().is_empty()
        {
            links.add_peer(peer);
        }
        before
    }

    /// Takes a name out, and returns what it meant.
    pub fn remove(&self, name: &str) -> Option<Peer> {
        let mut directory = lock(&self.shared.directory);
        let before = directory.peers.remove(name);
        let forgotten = directory.forget(before.as_ref());
        drop(directory);
        self.end_rollout(forgotten);
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

    /// The channel to a peer: over the links that there are, and where there are links over both transports, over whichever the [policy](Self::set_policy) says
    /// for each call. Nothing is dialled.
    ///
    /// # Errors
    /// [`PeersError::Unknown`] for a name that nobody has, [`PeersError::Channel`] where [`PeersBuilder::channel`] made settings that cannot be.
    pub fn channel(&self, name: &str) -> Result<Channel, PeersError> {
        match (&self.shared.iroh, &self.shared.tcp) {
            (Some(_), None) => self.channel_by(name, Over::One(TransportKind::Iroh)),
            (None, _) => self.channel_by(name, Over::One(TransportKind::Tcp)),
            (Some(_), Some(_)) => self.channel_by(name, Over::Chosen),
        }
    }

    /// A channel to a peer over one transport and no other, whatever the policy says: to look at it, or to measure it.
    ///
    /// # Errors
    /// As [`channel`](Self::channel), and [`PeersError::NoTransport`] where the directory has no links over it.
    pub fn channel_over(&self, name: &str, over: TransportKind) -> Result<Channel, PeersError> {
        self.channel_by(name, Over::One(over))
    }

    fn channel_by(&self, name: &str, over: Over) -> Result<Channel, PeersError> {
        let peer = {
            let directory = lock(&self.shared.directory);
            let Some(peer) = directory.peers.get(name) else {
                return Err(PeersError::Unknown(name.to_owned()));
            };
            if let Some(channel) = directory.channels.get(&(peer.id(), over)) {
                return Ok(channel.clone());
            }
            peer.clone()
        };
        let select = match over {
            Over::Chosen => self.select(name),
            Over::One(_) => None,
        };
        // Somebody's own function is called: not with the lock.
        let made = self.make(&peer, over, select)?;
        let mut directory = lock(&self.shared.directory);
        if !directory.knows(peer.id()) {
            // Removed meanwhile: it is the caller's alone.
            return Ok(made);
        }
        let kept = directory.channels.entry((peer.id(), over));
        Ok(kept.or_insert(made).clone())
    }

    /// The choice between the transports to a peer: its statistics and its canaries. `None` for a name that nobody has.
    pub fn select(&self, name: &str) -> Option<SelectHandle> {
        let mut directory = lock(&self.shared.directory);
        let id = directory.peers.get(name)?.id();
        let Directory {
            selections, policy, ..
        } = &mut *directory;
        if let Some(select) = selections.get(&id) {
            return Some(select.clone());
        }
        let select = SelectHandle::with_config(policy.clone(), self.shared.select.clone());
        selections.insert(id, select.clone());
        drop(directory);
        lock(&self.shared.rollouts).start(id, &select);
        Some(select)
    }

    /// The rollout to a peer, to be looked at, paused or taken back. `None` where there is none: no plan, or it could not begin, which is in the log.
    pub fn rollout(&self, name: &str) -> Option<Rollout> {
        self.select(name)?;
        let id = self.get(name)?.id();
        lock(&self.shared.rollouts).running.get(&id).cloned()
    }

    /// Begins a rollout to each peer, also to those that are added later, in place of those that run.
    ///
    /// `plan` is asked for each peer, and needs a file of its own for each that is to survive a restart. A rollout that cannot begin leaves its canary at nothing,
    /// and the reason is in the log: no canary of that name in the [policy](Self::set_policy), a file that cannot be read, or no tokio runtime.
    pub fn begin_rollouts(
        &self,
        plan: impl Fn(EndpointId) -> Result<RolloutConfig, ConfigError> + Send + Sync + 'static,
    ) {
        let mut rollouts = lock(&self.shared.rollouts);
        rollouts.running.clear();
        rollouts.plan = Some(Arc::new(plan));
        let selections = lock(&self.shared.directory).selections.clone();
        for (id, select) in &selections {
            rollouts.start(*id, select);
        }
    }

    /// Ends all rollouts. The canaries' shares stay what they are: to take the calls back, put a policy without canaries in force first.
    pub fn end_rollouts(&self) {
        let mut rollouts = lock(&self.shared.rollouts);
        rollouts.running.clear();
        rollouts.plan = None;
    }

    /// Puts another policy in force for the calls to all peers, those too that are added later.
    pub fn set_policy(&self, policy: Policy) {
        let mut directory = lock(&self.shared.directory);
        for select in directory.selections.values() {
            select.swap(policy.clone());
        }
        directory.policy = policy;
    }

    /// The policy in force. A [rollout](tower_iroh_layers::select) may have set other shares for single peers.
    pub fn policy(&self) -> Policy {
        lock(&self.shared.directory).policy.clone()
    }

    /// The circuit breaker to a peer over a transport: made with it, and kept for a while after it was removed.
    pub fn circuit(&self, id: EndpointId, over: TransportKind) -> Circuit {
        let (links, tcp) = (self.shared.iroh.clone(), self.shared.tcp.clone());
        self.shared.circuits.circuit_or(&(id, over), |config| {
            let circuit = Circuit::builder(config).transport(over.as_str());
            let rtt = move || match over {
                TransportKind::Iroh => links.as_ref()?.stats(&id)?.rtt,
                TransportKind::Tcp => tcp.as_ref()?.rtt(&id),
            };
            circuit.rtt(rtt).build()
        })
    }

    /// The connections over iroh, where there are any.
    pub fn links(&self) -> Option<&Links> {
        self.shared.iroh.as_ref()
    }

    /// The connections over TCP, where there are any.
    pub fn tcp_links(&self) -> Option<&TcpLinks> {
        self.shared.tcp.as_ref()
    }

    fn end_rollout(&self, forgotten: Option<EndpointId>) {
        if let Some(id) = forgotten {
            lock(&self.shared.rollouts).running.remove(&id);
        }
    }

    fn make(
        &self,
        peer: &Peer,
        over: Over,
        select: Option<SelectHandle>,
    ) -> Result<Channel, PeersError> {
        let circuit = |over| self.circuit(peer.id(), over);
        let builder = match (over, &self.shared.iroh, &self.shared.tcp) {
            (Over::One(TransportKind::Iroh), Some(links), _) => {
                let circuit = circuit(TransportKind::Iroh);
                Channel::with_links(links.clone()).stack(|stack| stack.circuit(circuit))
            }
            (Over::One(TransportKind::Tcp), _, Some(links)) => {
                let circuit = circuit(TransportKind::Tcp);
                Channel::with_tcp_links(links.clone()).stack(|stack| stack.circuit(circuit))
            }
            (Over::Chosen, Some(links), Some(tcp)) => {
                let select = select.ok_or_else(|| PeersError::Unknown(peer.id().to_string()))?;
                let circuits = TransportKind::ALL.map(|over| (over, circuit(over)));
                let builder = Channel::with_links(links.clone()).shared_tcp_links(tcp.clone());
                builder.select(select).stack(|stack| {
                    let of = |stack: StackBuilder, (over, circuit)| stack.circuit_of(over, circuit);
                    circuits.into_iter().fold(stack, of)
                })
            }
            (Over::One(over), ..) => return Err(PeersError::NoTransport(over)),
            (Over::Chosen, Some(_), None) => {
                return Err(PeersError::NoTransport(TransportKind::Tcp));
            }
            (Over::Chosen, None, _) => return Err(PeersError::NoTransport(TransportKind::Iroh)),
        };
        let builder = builder.peer(peer.clone());
        let built = match &self.shared.configure {
            Some(configure) => configure(peer, builder).build(),
            None => builder.build(),
        };
        Ok(built?)
    }
}

impl Directory {
    fn knows(&self, id: EndpointId) -> bool {
        self.peers.values().any(|peer| peer.id() == id)
    }

    /// Lets go of what belongs to a peer that has no name any more, and says whose that is.
    fn forget(&mut self, before: Option<&Peer>) -> Option<EndpointId> {
        let id = before?.id();
        if self.knows(id) {
            return None;
        }
        self.channels.retain(|(peer, _), _| *peer != id);
        self.selections.remove(&id).map(|_| id)
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

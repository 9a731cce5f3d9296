//! Peers by name, with a channel to each.

use std::{
    fmt,
    sync::{Arc, Mutex},
};

use iroh::EndpointId;
use tower_iroh_layers::{
    ConfigError,
    breaker::{BreakerConfig, Circuit, Registry},
    select::{
        Policy, SelectConfig, SelectHandle,
        rollout::{Rollout, RolloutConfig},
    },
};

use crate::{
    channel::{Channel, ChannelBuilder, StackBuilder},
    lock::lock,
    peer::{Peer, TransportKind},
    quic::Links,
    tcp::TcpLinks,
};

mod builder;
mod directory;
mod error;
mod rollouts;
#[cfg(test)]
mod tests;

pub use builder::PeersBuilder;
use directory::Directory;
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
/// **Changes at run time.** A peer that is added again under its name is somewhere else from then on: its channel stays, and dials the new addresses next. An
/// address that no name of the peer has any more is not dialled, also where there is no other: a peer that is added again without its
/// [TCP address](Peer::with_tcp) is called over TCP no more, except for the calls in flight. One that has another identity is another peer, with a channel of its
/// own. A peer that is removed is found no more; channels that somebody holds go on, and their connection ends when it is idle.
/// [`set_policy`](Self::set_policy) is in force for all at once.
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
    /// Whoever needs both locks takes this one first.
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
        let moved = vec![(name.into(), peer.into())];
        self.change(Vec::new(), moved).pop()
    }

    /// Takes a name out, and returns what it meant.
    pub fn remove(&self, name: &str) -> Option<Peer> {
        self.change(vec![name.to_owned()], Vec::new()).pop()
    }

    /// Takes names out and gives names, all at once: only who has no name after it all is forgotten. Returns what the names meant before.
    pub(crate) fn change(&self, gone: Vec<String>, moved: Vec<(String, Peer)>) -> Vec<Peer> {
        let mut rollouts = lock(&self.shared.rollouts);
        let mut directory = lock(&self.shared.directory);
        let peers = &mut directory.peers;
        let mut before: Vec<Peer> = gone.iter().filter_map(|name| peers.remove(name)).collect();
        for (name, peer) in &moved {
            before.extend(peers.insert(name.clone(), peer.clone()));
        }
        for peer in &before {
            if directory.knows(peer.id()) {
                self.shared.no_longer_at(peer, &directory);
            } else {
                directory.forget(peer);
                rollouts.running.remove(&peer.id());
            }
        }
        // Under the lock, so that what is said last is what is there last.
        for (_, peer) in &moved {
            for before in directory.departed.remove(&peer.id()).unwrap_or_default() {
                self.shared.no_longer_at(&before, &directory);
            }
            self.shared.is_at(peer);
        }
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
        let unknown = || PeersError::Unknown(name.to_owned());
        let (peer, left) = {
            let directory = lock(&self.shared.directory);
            let peer = directory.peers.get(name).ok_or_else(unknown)?;
            if let Some(channel) = directory.channels.get(&(peer.id(), over)) {
                return Ok(channel.clone());
            }
            (peer.clone(), directory.left)
        };
        let id = peer.id();
        let select = match over {
            // By the identity: the name may have been given to another meanwhile.
            Over::Chosen => {
                let select = self.select_by(|directory| directory.knows(id).then_some(id));
                Some(select.ok_or_else(unknown)?)
            }
            Over::One(_) => None,
        };
        // Somebody's own function is called: not with the lock.
        let made = self.make(&peer, over, select)?;
        let mut directory = lock(&self.shared.directory);
        if directory.knows(id) {
            // Making it said once more where the peer was.
            self.shared.no_longer_at(&peer, &directory);
        }
        if directory.left != left {
            // Perhaps this one, and its choice with it: the channel is the caller's alone.
            return Ok(made);
        }
        let kept = directory.channels.entry((id, over));
        Ok(kept.or_insert(made).clone())
    }

    /// The choice between the transports to a peer: its statistics and its canaries. `None` for a name that nobody has.
    pub fn select(&self, name: &str) -> Option<SelectHandle> {
        self.select_by(|directory| directory.peers.get(name).map(Peer::id))
    }

    fn select_by(&self, find: impl Fn(&Directory) -> Option<EndpointId>) -> Option<SelectHandle> {
        {
            let directory = lock(&self.shared.directory);
            if let Some(select) = directory.selections.get(&find(&directory)?) {
                return Some(select.clone());
            }
        }
        // Held until the rollout has begun: whoever takes the peer out meanwhile finds it then.
        let mut rollouts = lock(&self.shared.rollouts);
        let mut directory = lock(&self.shared.directory);
        let id = find(&directory)?;
        if let Some(select) = directory.selections.get(&id) {
            return Some(select.clone());
        }
        let config = self.shared.select.clone();
        let select = SelectHandle::with_config(directory.policy.clone(), config);
        directory.selections.insert(id, select.clone());
        drop(directory);
        rollouts.start(id, &select);
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
    /// `plan` is asked for each peer, and needs a file of its own for each that is to survive a restart. Until it has answered no peer is added or removed: it must
    /// do neither itself, and ask for no channel. A rollout that cannot begin leaves its canary at nothing, and the reason is in the log: no canary of that name in
    /// the [policy](Self::set_policy), a file that cannot be read, or no tokio runtime.
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
                TransportKind::Iroh => links.as_ref()?.rtt(id),
                TransportKind::Tcp => tcp.as_ref()?.rtt(id),
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

impl fmt::Debug for Peers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let directory = lock(&self.shared.directory);
        f.debug_struct("Peers")
            .field("names", &directory.peers.keys())
            .field("channels", &directory.channels.len())
            .finish_non_exhaustive()
    }
}

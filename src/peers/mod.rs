//! Peers by name, with a channel to each.

use std::{
    fmt,
    sync::{Arc, Mutex},
};

use iroh::EndpointId;
use tower_iroh_layers::{
    ConfigError,
    breaker::{BreakerConfig, Circuit, Registry},
    rollout::{Rollout, RolloutConfig},
    select::{SelectConfig, SelectHandle, SelectPolicy},
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
mod slot;
#[cfg(test)]
mod tests;

pub use builder::PeersBuilder;
use directory::Directory;
pub use error::PeersError;
use slot::{PeerSlot, Plan};

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
/// **State.** A peer's channel is made when it is first asked for, which dials nothing, and kept while the peer is in the directory. A peer's circuit
/// breakers, one per transport, are kept for [10 minutes](Registry::IDLE) without use, also after the peer was removed: added again, it begins with the
/// breakers that it had. Two names of one identity share everything.
///
/// **Changes at run time.** Adding a peer again under its name changes its addresses: its channel stays, and the next dial goes to the new addresses. An
/// address that no name of the peer has any more is not dialled, even if there is no other: a peer that is added again without its
/// [TCP address](Peer::with_tcp) is no longer called over TCP, except for the calls in flight. Another identity under the same name is another peer, with a
/// channel of its own. A removed peer is no longer found. Channels to it that are still held go on, and dial its last known addresses; the directory keeps
/// those of the last 256 removed peers. A connection without calls ends when it is idle. [`set_policy`](Self::set_policy) changes all choices at once.
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
}

type Configure = Box<dyn Fn(&Peer, ChannelBuilder) -> ChannelBuilder + Send + Sync>;

/// The transports of a channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Over {
    One(TransportKind),
    /// Both, and the policy chooses for each call.
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

    /// Names a peer and its addresses. Returns the peer that had the name before.
    pub fn add(&self, name: impl Into<String>, peer: impl Into<Peer>) -> Option<Peer> {
        let moved = vec![(name.into(), peer.into())];
        self.change(Vec::new(), moved).pop()
    }

    /// Removes a name, and returns the peer that had it.
    pub fn remove(&self, name: &str) -> Option<Peer> {
        self.change(vec![name.to_owned()], Vec::new()).pop()
    }

    /// Takes names out and gives names, all at once. Returns what the names meant before.
    pub(crate) fn change(&self, gone: Vec<String>, moved: Vec<(String, Peer)>) -> Vec<Peer> {
        // Under the lock, so that the links are told in the order of the changes.
        let mut directory = lock(&self.shared.directory);
        self.shared.change(&mut directory, &gone, moved)
    }

    /// The peer with this name.
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

    /// The channel to a peer. With links over both transports, the [policy](Self::set_policy) chooses one for each call. Nothing is dialled.
    ///
    /// # Errors
    /// [`PeersError::Unknown`] for a name that no peer has, [`PeersError::Channel`] where [`PeersBuilder::channel`] made settings that are not accepted.
    pub fn channel(&self, name: &str) -> Result<Channel, PeersError> {
        match (&self.shared.iroh, &self.shared.tcp) {
            (Some(_), None) => self.channel_by(name, Over::One(TransportKind::Iroh)),
            (None, _) => self.channel_by(name, Over::One(TransportKind::Tcp)),
            (Some(_), Some(_)) => self.channel_by(name, Over::Chosen),
        }
    }

    /// A channel to a peer over one transport alone, whatever the policy says: for an inspection or a measurement.
    ///
    /// # Errors
    /// As [`channel`](Self::channel), and [`PeersError::NoTransport`] where the directory has no links over the transport.
    pub fn channel_over(&self, name: &str, over: TransportKind) -> Result<Channel, PeersError> {
        self.channel_by(name, Over::One(over))
    }

    fn channel_by(&self, name: &str, over: Over) -> Result<Channel, PeersError> {
        let (peer, slot) = {
            let directory = lock(&self.shared.directory);
            let found = directory.slot(name);
            let (peer, slot) = found.ok_or_else(|| PeersError::Unknown(name.to_owned()))?;
            (peer.clone(), slot.clone())
        };
        let kept = slot.channel(over);
        if let Some(channel) = kept.get() {
            return Ok(channel.clone());
        }
        // The program's own function is called, so nothing is locked: another caller may make a channel too, and the first one is kept.
        let made = self.make(&peer, &slot, over)?;
        Ok(kept.get_or_init(|| made).clone())
    }

    /// The choice between the transports to a peer: its statistics and its canaries. `None` for a name that no peer has.
    pub fn select(&self, name: &str) -> Option<SelectHandle> {
        let (id, slot) = self.slot(name)?;
        Some(self.select_in(id, &slot))
    }

    fn slot(&self, name: &str) -> Option<(EndpointId, Arc<PeerSlot>)> {
        let directory = lock(&self.shared.directory);
        let (peer, slot) = directory.slot(name)?;
        Some((peer.id(), slot.clone()))
    }

    fn select_in(&self, id: EndpointId, slot: &PeerSlot) -> SelectHandle {
        let (select, plan) = {
            // Under the lock, so that no change of the policy or the plan is missed.
            let directory = lock(&self.shared.directory);
            let select = slot.select.get_or_init(|| {
                let config = self.shared.select.clone();
                let select = SelectHandle::with_config(directory.policy.clone(), config);
                select.named(TransportKind::NAMES)
            });
            let plan = directory.plan.as_ref();
            (
                select.clone(),
                plan.filter(|plan| slot.claim(Some(plan))).cloned(),
            )
        };
        if let Some(plan) = plan {
            slot.begin(id, &plan);
        }
        select
    }

    /// The rollout to a peer: its state, to be paused or taken back. `None` where there is no plan, or where the rollout could not begin; the log says why.
    pub fn rollout(&self, name: &str) -> Option<Rollout> {
        let (id, slot) = self.slot(name)?;
        self.select_in(id, &slot);
        slot.rollout()
    }

    /// Begins a rollout to each peer, also to those that are added later, in place of those that run.
    ///
    /// `plan` is called for each peer when the choice of its transport is first needed. Each rollout that is to survive a restart needs a file of its own. The
    /// plan may use the directory: ask for channels, add and remove peers. A rollout that cannot begin leaves its canary's share at zero, and the log says
    /// why: no canary of that name in the [policy](Self::set_policy), one key for all calls in the settings of the choice, a file that cannot be read, or no tokio runtime.
    pub fn begin_rollouts(
        &self,
        plan: impl Fn(EndpointId) -> Result<RolloutConfig, ConfigError> + Send + Sync + 'static,
    ) {
        let plan: Plan = Arc::new(plan);
        let claimed: Vec<_> = {
            let mut directory = lock(&self.shared.directory);
            directory.plan = Some(plan.clone());
            let slots = directory.slots.iter();
            let claimed = slots.filter(|(_, slot)| {
                // The others begin when their choice is first asked for.
                slot.select.get().is_some() && slot.claim(Some(&plan))
            });
            claimed.map(|(id, slot)| (*id, slot.clone())).collect()
        };
        for (id, slot) in claimed {
            slot.begin(id, &plan);
        }
    }

    /// Ends all rollouts. The canaries' shares stay as they are: to take the calls back, put a policy without canaries in force first.
    pub fn end_rollouts(&self) {
        let mut directory = lock(&self.shared.directory);
        directory.plan = None;
        for slot in directory.slots.values() {
            slot.claim(None);
        }
    }

    /// Puts another policy in force for the calls to all peers, also to those that are added later.
    pub fn set_policy(&self, policy: SelectPolicy) {
        let mut directory = lock(&self.shared.directory);
        for select in directory
            .slots
            .values()
            .filter_map(|slot| slot.select.get())
        {
            select.swap(policy.clone());
        }
        directory.policy = policy;
    }

    /// The policy in force. A [rollout](tower_iroh_layers::select) may have set other shares for single peers.
    pub fn policy(&self) -> SelectPolicy {
        lock(&self.shared.directory).policy.clone()
    }

    /// The circuit breaker to a peer over one transport; it is made where there is none yet. `None` for a name that no peer has.
    pub fn circuit(&self, name: &str, over: TransportKind) -> Option<Circuit> {
        Some(self.circuit_to(self.get(name)?.id(), over))
    }

    fn circuit_to(&self, id: EndpointId, over: TransportKind) -> Circuit {
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

    /// The links over iroh, where the directory has them.
    pub fn links(&self) -> Option<&Links> {
        self.shared.iroh.as_ref()
    }

    /// The links over TCP, where the directory has them.
    pub fn tcp_links(&self) -> Option<&TcpLinks> {
        self.shared.tcp.as_ref()
    }

    fn make(&self, peer: &Peer, slot: &PeerSlot, over: Over) -> Result<Channel, PeersError> {
        let id = peer.id();
        let circuit = |over| self.circuit_to(id, over);
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
                let select = self.select_in(id, slot);
                let circuits = TransportKind::ALL.map(|over| (over, circuit(over)));
                let builder = Channel::with_links(links.clone()).shared_tcp_links(tcp.clone());
                builder.select_by(select).stack(|stack| {
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
        // By its identity alone: the directory tells the links where the peer is.
        let builder = builder.peer(id);
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
        let channels = directory.slots.values().map(|slot| slot.channels());
        f.debug_struct("Peers")
            .field("names", &directory.peers.keys())
            .field("channels", &channels.sum::<usize>())
            .finish_non_exhaustive()
    }
}

//! What a directory of peers knows, and what it tells the links of where they are.

use std::collections::{BTreeMap, HashMap};

use iroh::EndpointId;
use tower_iroh_layers::select::{Policy, SelectHandle};

use super::{Over, Shared};
use crate::{channel::Channel, peer::Peer};

pub(super) struct Directory {
    pub(super) peers: BTreeMap<String, Peer>,
    pub(super) channels: HashMap<(EndpointId, Over), Channel>,
    pub(super) selections: HashMap<EndpointId, SelectHandle>,
    pub(super) policy: Policy,
    /// How often an identity has left.
    pub(super) left: u64,
    /// Where those are that have left: channels that somebody holds still dial there, until the peer is added again and says other.
    pub(super) departed: HashMap<EndpointId, Vec<Peer>>,
}

impl Directory {
    pub(super) fn new(policy: Policy) -> Self {
        Self {
            peers: BTreeMap::new(),
            channels: HashMap::new(),
            selections: HashMap::new(),
            policy,
            left: 0,
            departed: HashMap::new(),
        }
    }

    pub(super) fn knows(&self, id: EndpointId) -> bool {
        self.of(id).next().is_some()
    }

    /// Lets go of what belongs to a peer that has no name any more.
    pub(super) fn forget(&mut self, before: &Peer) {
        let id = before.id();
        self.left += 1;
        self.departed.entry(id).or_default().push(before.clone());
        self.channels.retain(|(peer, _), _| *peer != id);
        self.selections.remove(&id);
    }

    /// What the names of an identity say.
    pub(super) fn of(&self, id: EndpointId) -> impl Iterator<Item = &Peer> {
        self.peers.values().filter(move |peer| peer.id() == id)
    }
}

impl Shared {
    /// Says where a peer is; where it has no address nothing is said.
    pub(super) fn is_at(&self, peer: &Peer) {
        if let Some(tcp) = &self.tcp {
            tcp.add_peer(peer.clone());
        }
        if let Some(links) = &self.iroh
            && !peer.addr().is_empty()
        {
            links.add_peer(peer.clone());
        }
    }

    /// Takes back those addresses of a peer that no name of it has any more: somebody else may have them now.
    pub(super) fn no_longer_at(&self, before: &Peer, directory: &Directory) {
        let id = before.id();
        let has_tcp = |peer: &&Peer| peer.tcp().is_some();
        if let Some(tcp) = &self.tcp
            && has_tcp(&before)
            && !directory.of(id).any(|now| now.tcp() == before.tcp())
        {
            match directory.of(id).find(has_tcp) {
                Some(now) => tcp.add_peer(now.clone()),
                None => tcp.forget_addr(id),
            }
        }
        let has_addr = |peer: &&Peer| !peer.addr().is_empty();
        if let Some(links) = &self.iroh
            && has_addr(&before)
            && !directory.of(id).any(|now| now.addr() == before.addr())
        {
            let now = directory.of(id).find(has_addr).cloned();
            links.add_peer(now.unwrap_or_else(|| Peer::new(id)));
        }
    }
}

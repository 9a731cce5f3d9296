//! The names of a directory, the slot of each identity, and where its peers are said to be.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
};

use iroh::EndpointId;
use tower_iroh_layers::select::SelectPolicy;

use super::{
    Shared,
    slot::{PeerSlot, Plan},
};
use crate::peer::Peer;

/// No lock on it is held while a program's own function runs or a file is read.
pub(super) struct Directory {
    pub(super) peers: BTreeMap<String, Peer>,
    /// One for each identity that has a name.
    pub(super) slots: HashMap<EndpointId, Arc<PeerSlot>>,
    pub(super) policy: SelectPolicy,
    /// How rollouts go; `None` while there are none.
    pub(super) plan: Option<Plan>,
    /// The last known addresses of removed peers, the latest last. Channels still held use them until the peer is added again.
    departed: VecDeque<Peer>,
}

/// How many removed peers keep their addresses.
const MOST_DEPARTED: usize = 256;

impl Directory {
    pub(super) fn new(policy: SelectPolicy) -> Self {
        Self {
            peers: BTreeMap::new(),
            slots: HashMap::new(),
            policy,
            plan: None,
            departed: VecDeque::new(),
        }
    }

    /// How many removed peers keep their addresses.
    #[cfg(test)]
    pub(super) fn departed(&self) -> usize {
        self.departed.len()
    }

    /// The slot of the peer with this name.
    pub(super) fn slot(&self, name: &str) -> Option<(&Peer, &Arc<PeerSlot>)> {
        let peer = self.peers.get(name)?;
        Some((peer, self.slots.get(&peer.id())?))
    }

    /// The peers that the names of an identity stand for.
    fn of(&self, id: EndpointId) -> impl Iterator<Item = &Peer> {
        self.peers.values().filter(move |peer| peer.id() == id)
    }
}

impl Shared {
    /// Takes names out and gives names, all at once: only an identity without a name after it all is forgotten. Returns what the names meant before.
    pub(super) fn change(
        &self,
        directory: &mut Directory,
        gone: &[String],
        moved: Vec<(String, Peer)>,
    ) -> Vec<Peer> {
        let peers = &mut directory.peers;
        let mut before: Vec<Peer> = gone.iter().filter_map(|name| peers.remove(name)).collect();
        for (name, peer) in &moved {
            before.extend(peers.insert(name.clone(), peer.clone()));
        }
        for peer in &before {
            if directory.of(peer.id()).next().is_some() {
                self.no_longer_at(peer, directory);
                continue;
            }
            directory.slots.remove(&peer.id());
            directory.departed.push_back(peer.clone());
            if directory.departed.len() > MOST_DEPARTED
                && let Some(longest_gone) = directory.departed.pop_front()
            {
                self.forget_addrs(longest_gone.id());
            }
        }
        for (_, peer) in moved {
            let id = peer.id();
            // Another name of the same change may have taken the peer's place.
            if directory.of(id).next().is_none() {
                continue;
            }
            directory.slots.entry(id).or_default();
            let is_back = |it: &Peer| it.id() == id;
            while let Some(at) = directory.departed.iter().position(is_back) {
                if let Some(before) = directory.departed.remove(at) {
                    self.no_longer_at(&before, directory);
                }
            }
            self.is_at(peer);
        }
        before
    }

    /// Tells the links where a peer is. A peer without an address tells them nothing.
    fn is_at(&self, peer: Peer) {
        if let Some(tcp) = &self.tcp {
            tcp.add_peer(peer.clone());
        }
        if let Some(links) = &self.iroh
            && !peer.addr().is_empty()
        {
            links.add_peer(peer);
        }
    }

    /// Takes back all addresses of a peer, so that the links keep nothing of it. Calls in flight go on.
    fn forget_addrs(&self, id: EndpointId) {
        if let Some(tcp) = &self.tcp {
            tcp.forget_addr(id);
        }
        if let Some(links) = &self.iroh {
            links.forget_addr(id);
        }
    }

    /// Takes back the addresses of a peer that none of its names has any more: another program may have them now.
    fn no_longer_at(&self, before: &Peer, directory: &Directory) {
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

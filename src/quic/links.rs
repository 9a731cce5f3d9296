use std::sync::Arc;

use iroh::{Endpoint, EndpointId};
use tokio::sync::watch;

use crate::{error::Error, peer::Peer};

use super::{builder::LinksBuilder, dial::IrohDialer, link::Link};
use crate::pool::{PeerStats, Pool, State, Use};

/// The connections of one endpoint to its peers: one each, shared by every [`Connector`](crate::Connector) and
/// [`Channel`](crate::Channel) made from these links.
///
/// Cloning shares. When the last clone is gone and no call is in flight, the connections close. Where the links hold the
/// last handle of the endpoint too, it is dropped with them before its peers can be told; keep one, and
/// [`close`](Endpoint::close) it at the end.
///
/// - A dial is one shared future: whoever needs the peer meanwhile waits for the same, and it ends with its last waiter.
/// - After a failed dial calls fail at once until the next is due: 100 ms, then exponentially up to 30 s, with jitter.
/// - At 100 connections the least recently used one that nobody uses makes room; where all are in use, a dial waits, and
///   gives up with RESOURCE_EXHAUSTED.
/// - A connection that nobody used for 300 s is closed.
///
/// **Metrics** of all connections together: the counters `tower_iroh_client_packets_sent_total` and
/// `tower_iroh_client_packets_lost_total`, up to a second old while nothing moves; [`Links::stats`] has them per peer, and of this moment.
#[derive(Clone, Debug)]
pub struct Links {
    pub(crate) pool: Pool<IrohDialer>,
}

impl Links {
    /// Links with the default settings.
    pub fn new(endpoint: Endpoint) -> Self {
        LinksBuilder::new(endpoint).build_valid()
    }

    /// Links with other settings.
    pub fn builder(endpoint: Endpoint) -> LinksBuilder {
        LinksBuilder::new(endpoint)
    }

    /// Says where a peer is. What is said last counts, and a dial that waits for its turn may start at once.
    pub fn add_peer(&self, peer: impl Into<Peer>) {
        let peer = peer.into();
        self.pool.dialer().know(peer.addr().clone());
        self.pool.forgive(peer.id());
    }

    /// The endpoint that dials.
    pub fn endpoint(&self) -> &Endpoint {
        self.pool.dialer().endpoint()
    }

    /// What is known of the connection to a peer; `None` while there is none.
    pub fn stats(&self, id: &EndpointId) -> Option<PeerStats> {
        self.pool.peek(id)?.stats()
    }

    /// How many connections there are, dials included.
    pub fn connections(&self) -> usize {
        self.pool.slots_taken()
    }

    /// The state of the connection to a peer, to be watched.
    pub fn state(&self, id: EndpointId) -> watch::Receiver<State> {
        self.pool.watch(id)
    }

    /// Closes the connection to a peer. Calls in flight on it end with UNAVAILABLE; the next call dials again.
    pub fn close(&self, id: &EndpointId) {
        self.pool.close(id);
    }

    /// The connection to a peer, dialled where there is none.
    pub(crate) async fn get(&self, id: EndpointId) -> Result<Use<Link>, Error> {
        self.pool.get(id).await.map_err(|error| error.at(id))
    }

    /// Takes a connection out of use that is still good for the calls that it has.
    pub(crate) fn retire(&self, id: EndpointId, link: &Arc<Link>) {
        link.retire();
        self.pool.gone(id, link, None);
    }
}

use std::{fmt, sync::Weak, time::Duration};

use iroh::EndpointId;
use tokio::sync::watch;

use super::{Dialer, Known, PeerStats, Pool, Pooled, State, Use};
use crate::{error::Error, peer::Peer};

/// The connections of one identity to its peers over one transport: one each, shared by every connector and
/// [`Channel`](crate::Channel) made from these links. Over iroh they are [`Links`](crate::Links), over TCP [`TcpLinks`](crate::tcp::TcpLinks).
///
/// Cloning shares. When the last clone is gone and no call is in flight, the connections close, and dials under way end.
///
/// - A dial is a task of the links. Callers wait for its outcome and may leave at any moment: the next caller finds the connection.
/// - A dial makes a further attempt every 1.25 s while a caller waits, and takes the first connection.
/// - After a failed dial, calls fail at once until the next dial is due: 100 ms, then exponentially up to 30 s, with jitter. A call that asks dials after 1.25 s
///   all the same, 50 such dials a second for all peers together.
/// - At 100 connections, the least recently used one without an open call makes room. Where all are in use, a dial waits as long as it may take, and then
///   fails with RESOURCE_EXHAUSTED.
/// - A connection without an open call for 300 s is closed.
pub struct Links<D: Dialer> {
    pool: Pool<D>,
}

impl<D: Dialer> Links<D> {
    pub(crate) fn on(pool: Pool<D>) -> Self {
        Self { pool }
    }

    /// Sets where a peer is, replacing what was set before; a dial that waits for its turn may start at once. A peer without an address for this transport
    /// changes nothing.
    pub fn add_peer(&self, peer: impl Into<Peer>) {
        let peer = peer.into();
        let known = self.pool.dialer().know(&peer);
        if known == Known::Moved
            && let Some(connection) = self.pool.peek(peer.id())
        {
            self.pool.retire(peer.id(), &connection);
        }
        if known != Known::Nothing {
            self.pool.forgive(peer.id());
        }
    }

    /// Forgets a peer: its address, and how dials to it fared. Its connection is closed, and calls in flight on it end with UNAVAILABLE.
    pub fn remove_peer(&self, id: EndpointId) {
        self.pool.dialer().forget(id);
        self.pool.remove(id);
    }

    /// Forgets where a peer answers: nobody is dialled there any more, and calls in flight go on.
    pub(crate) fn forget_addr(&self, id: EndpointId) {
        self.pool.dialer().forget(id);
        if let Some(connection) = self.pool.peek(id) {
            self.pool.retire(id, &connection);
        }
        // The next call is told why there is no connection, and not how the last dial failed.
        self.pool.forgive(id);
    }

    /// What is known of the connection to a peer; `None` while there is none.
    pub fn stats(&self, id: EndpointId) -> Option<PeerStats> {
        self.pool.peek(id)?.stats()
    }

    /// The peers with a connection, and what is known of each, in no order.
    pub fn peers(&self) -> Vec<(EndpointId, PeerStats)> {
        let there = self.pool.connections().into_iter();
        there
            .filter_map(|(id, connection)| Some((id, connection.stats()?)))
            .collect()
    }

    /// The smoothed round-trip time to a peer; `None` while there is no connection.
    pub fn rtt(&self, id: EndpointId) -> Option<Duration> {
        self.pool.peek(id)?.rtt()
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
    pub fn close(&self, id: EndpointId) {
        self.pool.close(id);
    }

    /// Drains: refuses further calls with UNAVAILABLE, ends dials, waits until the calls in flight have ended, and closes each connection then.
    ///
    /// It waits as long as the calls last. Bound it with a timeout, and [`close`](Self::close) what is left, or drop the links.
    ///
    /// **Cancel safety.** Dropped, it leaves the links refusing calls, and the connections that are in use open. Call it again to go on.
    pub async fn shutdown(&self) {
        self.pool.shut_down().await;
    }

    pub(crate) fn pool(&self) -> &Pool<D> {
        &self.pool
    }

    /// The connection to a peer, dialled where there is none.
    pub(crate) async fn get(&self, id: EndpointId) -> Result<Use<D::Connection>, Error> {
        self.pool.get(id).await.map_err(|error| error.at(id))
    }

    /// These links, for a holder that must not keep them alive.
    pub(crate) fn downgrade(&self) -> WeakLinks<D> {
        WeakLinks(self.pool.downgrade())
    }
}

/// Links that last as long as others hold them.
pub(crate) struct WeakLinks<D: Dialer>(Weak<super::Shared<D>>);

impl<D: Dialer> WeakLinks<D> {
    pub(crate) fn upgrade(&self) -> Option<Links<D>> {
        let shared = self.0.upgrade()?;
        Some(Links::on(Pool { shared }))
    }
}

impl<D: Dialer> Clone for Links<D> {
    fn clone(&self) -> Self {
        Self::on(self.pool.clone())
    }
}

impl<D: Dialer> fmt::Debug for Links<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Links").field(&self.pool).finish()
    }
}

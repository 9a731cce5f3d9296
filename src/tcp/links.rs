use std::time::Duration;

use iroh::{EndpointId, SecretKey};
use tokio::sync::watch;

use super::{builder::TcpLinksBuilder, dialer::TcpDialer, link::TcpLink};
use crate::{
    error::Error,
    http2::Carries,
    peer::Peer,
    pool::{PeerStats, Pool, State, Use},
};

/// The connections of one identity to its peers over TCP: [`Links`](crate::Links), for the other transport, with the same rules.
///
/// Cloning shares. When the last clone is gone and no call is in flight, the connections close.
///
/// - One dial per peer at a time, which ends with its last waiter; after a failed one calls fail at once until the next is due: 100 ms, then
///   exponentially up to 30 s, with jitter.
/// - 100 peers at most; then the least recently used one that nobody uses makes room.
/// - Each stream of each [lane](crate::Lanes) is a TCP connection of its own with a handshake of its own, made when it is needed: so a heavy lane does
///   not stand in the way of another. Up to 8 to a peer, with the default lanes.
/// - A peer that nobody used for 300 s is let go.
///
/// A [`PeerStats`] counts bytes within TLS here, knows no packets, and its round trip is that of HTTP/2 pings to the peer's server and back,
/// smoothed; before the first ping it is what the TCP connection took.
#[derive(Clone, Debug)]
pub struct TcpLinks {
    pool: Pool<TcpDialer>,
}

impl TcpLinks {
    /// Links with the default settings, that prove `key`: the endpoint's, where there is one.
    pub fn new(key: SecretKey) -> Self {
        Self::builder(key).build_valid()
    }

    /// Links with other settings.
    pub fn builder(key: SecretKey) -> TcpLinksBuilder {
        TcpLinksBuilder::new(key)
    }

    pub(super) fn on(pool: Pool<TcpDialer>) -> Self {
        Self { pool }
    }

    /// The identity that these links prove.
    pub fn id(&self) -> EndpointId {
        self.pool.dialer().id()
    }

    /// Says where a peer [answers over TCP](Peer::with_tcp); a peer without says nothing. What is said last counts, and a dial that waits for its turn may start at
    /// once.
    pub fn add_peer(&self, peer: impl Into<Peer>) {
        let peer = peer.into();
        if let Some(addr) = peer.tcp() {
            if self.pool.dialer().know(peer.id(), addr.clone()) {
                self.retire(peer.id());
            }
            self.pool.forgive(peer.id());
        }
    }

    /// Takes back where a peer answers: nobody is dialled there any more. Calls in flight go on.
    pub(crate) fn forget_addr(&self, id: EndpointId) {
        self.pool.dialer().forget(id);
        self.retire(id);
        // The next call is told why there is no connection, and not how the last dial failed.
        self.pool.forgive(id);
    }

    /// A link dials for each further stream, to where it was made: it takes no further call once its peer is elsewhere.
    fn retire(&self, id: EndpointId) {
        if let Some(link) = self.pool.peek(&id) {
            Carries::retire(&*link);
            self.pool.gone(id, &link, None);
        }
    }

    /// What is known of the connections to a peer; `None` while there is none.
    pub fn stats(&self, id: &EndpointId) -> Option<PeerStats> {
        Some(self.pool.peek(id)?.stats())
    }

    /// The smoothed round-trip time to a peer; `None` while there is no connection.
    pub fn rtt(&self, id: &EndpointId) -> Option<Duration> {
        Some(self.pool.peek(id)?.rtt())
    }

    /// How many peers are connected, dials included.
    pub fn connections(&self) -> usize {
        self.pool.slots_taken()
    }

    /// The state of the connection to a peer, to be watched.
    pub fn state(&self, id: EndpointId) -> watch::Receiver<State> {
        self.pool.watch(id)
    }

    /// Closes the connections to a peer. Calls in flight on them end with UNAVAILABLE; the next call dials again.
    pub fn close(&self, id: &EndpointId) {
        self.pool.close(id);
    }

    pub(crate) fn pool(&self) -> &Pool<TcpDialer> {
        &self.pool
    }

    pub(super) async fn get(&self, id: EndpointId) -> Result<Use<TcpLink>, Error> {
        self.pool.get(id).await.map_err(|error| error.at(id))
    }
}

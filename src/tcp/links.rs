use iroh::{EndpointId, SecretKey};

use super::{TcpDialer, TcpLinksBuilder};
use crate::pool::Links;

/// The connections of one identity to its peers over TCP: [`Links`](crate::Links), for the other transport, with the same rules.
///
/// Each stream of each [lane](crate::Lanes) is a TCP connection of its own with a handshake of its own, made when it is needed: so a heavy lane does
/// not stand in the way of another. There are up to 8 to a peer with the default lanes, and they count as one.
///
/// [`PeerStats`](crate::PeerStats) counts bytes within TLS here and knows no packets. Its round trip is that of HTTP/2 pings to the peer's server and back,
/// smoothed; before the first ping it is what the TCP connection took.
pub type TcpLinks = Links<TcpDialer>;

impl TcpLinks {
    /// Links with the default settings, that prove `key`: the endpoint's, where there is one.
    pub fn new(key: SecretKey) -> Self {
        Self::builder(key).build_valid()
    }

    /// Links with other settings.
    pub fn builder(key: SecretKey) -> TcpLinksBuilder {
        TcpLinksBuilder::new(key)
    }

    /// The identity that these links prove.
    pub fn id(&self) -> EndpointId {
        self.pool().dialer().id()
    }
}

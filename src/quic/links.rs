use iroh::Endpoint;

use super::QuicDialer;
use crate::pool;

/// The connections of one endpoint to its peers over iroh.
///
/// Where the links hold the last handle of the endpoint too, it is dropped with them before its peers can be told: keep one, and
/// [`close`](Endpoint::close) it at the end.
///
/// **Metrics** of all connections together: the counters `tower_iroh_client_packets_sent_total` and
/// `tower_iroh_client_packets_lost_total`, without the keep-alives of the last minute while no call is open; [`Links::stats`] has the current ones of a peer.
pub type Links = pool::Links<QuicDialer>;

impl Links {
    /// Links with the default settings.
    pub fn new(endpoint: Endpoint) -> Self {
        Self::builder(endpoint).build_valid()
    }

    /// Links with other settings.
    pub fn builder(endpoint: Endpoint) -> super::LinksBuilder {
        super::LinksBuilder::new(endpoint)
    }

    /// The endpoint that dials.
    pub fn endpoint(&self) -> &Endpoint {
        self.pool().dialer().endpoint()
    }
}

use iroh::Endpoint;

use super::QuicDialer;
use crate::{http2::Carries, pool};

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

    /// Says that the network may have changed: another interface, another address, or it is back. For programs that are told so, as on Android; elsewhere iroh
    /// notices most changes by itself.
    ///
    /// It passes the news on to the [endpoint](Endpoint::network_change), pings every peer at once, makes the next dial to each peer due, and has new calls of a
    /// [`Channel`](crate::Channel) go on new streams. Calls that are open go on. Nothing breaks if nothing has changed. Cancel safe.
    pub async fn network_changed(&self) {
        self.endpoint().network_change().await;
        self.pool().forgive_all();
        for (_, link) in self.pool().connections() {
            link.knock();
            // What was in flight on an old path is sent again once QUIC has given that path up, up to seconds later. New calls go on streams that do not wait for it.
            link.lanes().renew();
        }
    }
}

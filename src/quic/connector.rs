use std::sync::Arc;

use iroh::Endpoint;
use tower_iroh_layers::Urgency;

use super::{
    Links, QuicDialer, QuicIo,
    io::{Activity, OnGoaway},
    link::Link,
};
use crate::{
    error::Error,
    http2::{self, Carries as _, Streams},
    wire::{Kind, Preamble},
};

/// Connects [`tonic::transport::Endpoint`] to an iroh peer: `iroh://<endpoint id>` or `http://<endpoint id>`.
///
/// ```no_run
/// # async fn example(endpoint: iroh::Endpoint, ticket: &str) -> Result<(), Box<dyn std::error::Error>> {
/// use tower_iroh::{Connector, Peer};
///
/// let peer: Peer = ticket.parse()?;
/// let connector = Connector::new(endpoint);
/// connector.add_peer(peer.clone());
/// let channel: tonic::transport::Channel = tonic::transport::Endpoint::from(peer.uri())
///     .connect_with_connector(connector)
///     .await?;
/// # drop(channel);
/// # Ok(())
/// # }
/// ```
///
/// All channels of one connector to one peer share one QUIC connection. Each channel is a lane of its own on it, of the connector's urgency, and keeps the
/// connection as long as it lives: a connector sees bytes, not calls. The peer's acceptor takes
/// [64 lanes](crate::AcceptorBuilder::max_lanes_per_connection) on a connection by default, and refuses the next channel with RESOURCE_EXHAUSTED.
///
/// A connector waits for the handshake, also on links that [send early data](crate::LinksBuilder::early_data): that is for
/// [`Channel`](crate::Channel).
///
/// **Errors.** Each is an [`Error`](crate::Error) with a [`tonic::Status`] in its source chain. tonic shows a caller UNAVAILABLE for every
/// failed dial, Unknown for a lost connection, and Cancelled for an expired timeout; put
/// [`ExactCodesLayer`](crate::ExactCodesLayer) on the channel to have the exact codes.
///
/// **Readiness.** Always ready. What waits, waits in the future. **Cancel safety.** A dropped future leaves nothing behind but the dial, which goes on.
pub type Connector = http2::Connector<QuicDialer>;

/// A lane for hyper. It counts as a use of its connection until it is dropped.
pub type ConnectorIo = http2::ConnectorIo<QuicDialer>;

impl Connector {
    /// A connector with links of its own, with default settings.
    pub fn new(endpoint: Endpoint) -> Self {
        Self::with_links(Links::new(endpoint))
    }

    /// The urgency of the lanes that this connector opens. Default [`Urgency::INTERACTIVE`].
    pub fn urgency(self, urgency: Urgency) -> Self {
        self.with_urgency(urgency)
    }
}

impl Streams for Link {
    type Stream = QuicIo;
    type Ending = Arc<Activity>;

    async fn stream(&self, urgency: Urgency) -> Result<(QuicIo, Arc<Activity>), Error> {
        let preamble = Preamble {
            kind: Kind::Http2,
            urgency,
        };
        let gate = self.lanes().gate().clone();
        // The next stream is to be one of another connection.
        let on_goaway = OnGoaway::new(move || gate.close());
        let stream = self.open_stream(preamble).await?;
        let stream = stream.corked().on_goaway(on_goaway);
        let activity = stream.activity();
        Ok((stream, activity))
    }

    fn why_ended(&self, activity: &Arc<Activity>) -> Error {
        self.meaning(activity.code())
    }
}

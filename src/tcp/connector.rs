use std::sync::Arc;

use iroh::SecretKey;
use tower_iroh_layers::Urgency;

use super::{TcpDialer, TcpIo, TcpLinks, health::ConnectionHealth, link::TcpLink};
use crate::{
    error::Error,
    http2::{Connector, ConnectorIo, Streams},
};

/// Connects [`tonic::transport::Endpoint`] to a peer over TCP, encrypted, both sides proving their iroh identities: `iroh://<endpoint id>` or
/// `http://<endpoint id>`.
///
/// ```no_run
/// # async fn example(key: iroh::SecretKey, ticket: &str) -> Result<(), Box<dyn std::error::Error>> {
/// use tower_iroh::{Peer, TcpAddr, tcp::TcpConnector};
///
/// let peer = ticket.parse::<Peer>()?.with_tcp("db.example:7001".parse::<TcpAddr>()?);
/// let connector = TcpConnector::new(key);
/// connector.add_peer(peer.clone());
/// let channel: tonic::transport::Channel = tonic::transport::Endpoint::from(peer.uri())
///     .connect_with_connector(connector)
///     .await?;
/// # drop(channel);
/// # Ok(())
/// # }
/// ```
///
/// Each tonic channel has a TCP connection of its own: one that is refused or lost fails its own calls alone. Dials are paced as [`TcpLinks`] says; errors,
/// readiness and cancel safety are those of [`Connector`](crate::Connector).
pub type TcpConnector = Connector<TcpDialer>;

/// A connection for hyper. It counts as a use of its peer's link until it is dropped.
pub type TcpConnectorIo = ConnectorIo<TcpDialer>;

impl TcpConnector {
    /// A connector with links of its own, with default settings, that prove `key`.
    pub fn new(key: SecretKey) -> Self {
        Self::with_links(TcpLinks::new(key))
    }
}

impl Streams for TcpLink {
    type Stream = TcpIo;
    type Ending = Arc<ConnectionHealth>;

    /// TCP knows no priorities: the calls themselves say how urgent they are.
    async fn stream(&self, _: Urgency) -> Result<(TcpIo, Arc<ConnectionHealth>), Error> {
        self.connect().await
    }

    fn why_ended(&self, connection: &Arc<ConnectionHealth>) -> Error {
        self.why_lost(connection)
    }

    fn is_refused(connection: &Arc<ConnectionHealth>) -> bool {
        connection.refused()
    }
}

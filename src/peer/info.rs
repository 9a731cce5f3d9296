use std::{net::SocketAddr, time::Duration};

use iroh::{
    EndpointId,
    endpoint::{Connection, WeakConnectionHandle},
};
use tower_iroh_layers::Urgency;

use super::Path;

/// Who called: in the extensions of every request that came through an [`Acceptor`](crate::Acceptor).
///
/// It is a live handle: identity and lane stay what they are, the path is the one of the moment that it is asked for.
/// It does not keep the connection alive.
///
/// ```
/// use tower_iroh::PeerInfo;
///
/// fn caller<T>(request: &tonic::Request<T>) -> Result<iroh::EndpointId, tonic::Status> {
///     request
///         .extensions()
///         .get::<PeerInfo>()
///         .map(PeerInfo::id)
///         .ok_or_else(|| tonic::Status::unauthenticated("not over iroh"))
/// }
/// ```
#[derive(Clone, Debug)]
pub struct PeerInfo {
    id: EndpointId,
    urgency: Urgency,
    connection: WeakConnectionHandle,
}

impl PeerInfo {
    pub(crate) fn new(connection: &Connection, urgency: Urgency) -> Self {
        Self {
            id: connection.remote_id(),
            urgency,
            connection: connection.weak_handle(),
        }
    }

    /// The identity that the peer proved in the handshake.
    pub fn id(&self) -> EndpointId {
        self.id
    }

    /// The urgency of the lane that the call came on.
    pub fn urgency(&self) -> Urgency {
        self.urgency
    }

    /// The path of this moment; `None` once the connection is gone.
    pub fn path(&self) -> Option<Path> {
        Path::of(&self.connection.upgrade()?).map(|(path, _)| path)
    }

    /// The smoothed round-trip time of the path of this moment; `None` once the connection is gone.
    pub fn rtt(&self) -> Option<Duration> {
        Path::of(&self.connection.upgrade()?).map(|(_, rtt)| rtt)
    }

    /// The peer's socket address, where the path of this moment has one: not through a relay.
    pub fn remote_addr(&self) -> Option<SocketAddr> {
        match self.path()? {
            Path::Direct(addr) => Some(addr),
            Path::Relay(_) | Path::Other(_) => None,
        }
    }
}

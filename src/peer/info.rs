use std::{net::SocketAddr, time::Duration};

use iroh::EndpointId;
use tower_iroh_layers::Urgency;

use super::{Path, Proof};

/// Who called: in the extensions of every request that came through an [`Acceptor`](crate::Acceptor).
///
/// It is a live handle: the lane stays what it is, the path is the one of the moment that it is asked for.
/// It does not keep the connection alive.
///
/// ```
/// use tower_iroh::PeerInfo;
///
/// fn caller<T>(request: &tonic::Request<T>) -> Result<iroh::EndpointId, tonic::Status> {
///     request
///         .extensions()
///         .get::<PeerInfo>()
///         .and_then(PeerInfo::id)
///         .ok_or_else(|| tonic::Status::unauthenticated("not over iroh, or not proved yet"))
/// }
/// ```
#[derive(Clone, Debug)]
pub struct PeerInfo {
    proof: Proof,
    urgency: Urgency,
}

impl PeerInfo {
    pub(crate) fn new(proof: Proof, urgency: Urgency) -> Self {
        Self { proof, urgency }
    }

    /// The identity that the peer proved in the handshake; it never becomes another.
    ///
    /// `None` while nothing is proved, which only a method meets that [`AcceptorBuilder::early_data`](crate::AcceptorBuilder::early_data) lists: such a call
    /// may be somebody's replay of it. With the handshake's end the same handle has the identity.
    pub fn id(&self) -> Option<EndpointId> {
        self.proof.id()
    }

    /// The urgency of the lane that the call came on.
    pub fn urgency(&self) -> Urgency {
        self.urgency
    }

    /// The path of this moment; `None` before the handshake is complete, and once the connection is gone.
    pub fn path(&self) -> Option<Path> {
        Path::of(&self.proof.connection()?).map(|(path, _)| path)
    }

    /// The smoothed round-trip time of the path of this moment; `None` where there is no [`path`](Self::path).
    pub fn rtt(&self) -> Option<Duration> {
        Path::of(&self.proof.connection()?).map(|(_, rtt)| rtt)
    }

    /// How many packets this side has sent on the connection; `None` where there is no [`path`](Self::path).
    pub fn sent_packets(&self) -> Option<u64> {
        Some(self.proof.connection()?.stats().sent_packets)
    }

    /// How many of them the peer did not acknowledge in time, path probes included; `None` where there is no [`path`](Self::path).
    ///
    /// Not all of them were lost in the network: see [`PeerStats::lost_packets`](crate::PeerStats::lost_packets).
    pub fn lost_packets(&self) -> Option<u64> {
        Some(self.proof.connection()?.stats().lost_packets)
    }

    /// The peer's socket address, where the path of this moment has one: not through a relay.
    pub fn remote_addr(&self) -> Option<SocketAddr> {
        match self.path()? {
            Path::Direct(addr) => Some(addr),
            Path::Relay(_) | Path::Other(_) => None,
        }
    }
}

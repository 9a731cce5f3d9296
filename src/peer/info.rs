use std::{net::SocketAddr, time::Duration};

use iroh::EndpointId;
use tower_iroh_layers::Urgency;

use super::{Path, Proof, TransportKind};

/// Who called: in the extensions of every request that came through an [`Acceptor`](crate::Acceptor) or a
/// [`TcpAcceptor`](crate::tcp::TcpAcceptor).
///
/// It is a live handle: the lane stays what it is, the path is the one of the moment that it is asked for.
/// It does not keep the connection alive.
///
/// Over both transports the same peer has the same [`id`](Self::id). What only one of them knows is `None` over the other.
///
/// ```
/// use tower_iroh::PeerInfo;
///
/// fn caller<T>(request: &tonic::Request<T>) -> Result<iroh::EndpointId, tonic::Status> {
///     request
///         .extensions()
///         .get::<PeerInfo>()
///         .and_then(PeerInfo::id)
///         .ok_or_else(|| tonic::Status::unauthenticated("no identity, or not proved yet"))
/// }
/// ```
#[derive(Clone, Debug)]
pub struct PeerInfo {
    via: Via,
    urgency: Urgency,
}

#[derive(Clone, Debug)]
enum Via {
    Iroh(Proof),
    Tcp {
        id: Option<EndpointId>,
        remote: SocketAddr,
    },
}

impl PeerInfo {
    pub(crate) fn new(proof: Proof, urgency: Urgency) -> Self {
        Self {
            via: Via::Iroh(proof),
            urgency,
        }
    }

    /// Of a TCP connection; without an id nothing was proved and nothing will be.
    pub(crate) fn tcp(id: Option<EndpointId>, remote: SocketAddr) -> Self {
        Self {
            via: Via::Tcp { id, remote },
            urgency: Urgency::default(),
        }
    }

    /// The identity that the peer proved in the handshake; it never becomes another.
    ///
    /// `None` while nothing is proved, which over iroh only a method meets that
    /// [`AcceptorBuilder::early_data`](crate::AcceptorBuilder::early_data) lists: such a call may be a replay. With the handshake's end
    /// the same handle has the identity. Over TCP it is `None` for a caller without TLS, where
    /// [`plaintext`](crate::tcp::TcpAcceptorBuilder::plaintext) lets those in, and stays so.
    pub fn id(&self) -> Option<EndpointId> {
        match &self.via {
            Via::Iroh(proof) => proof.id(),
            Via::Tcp { id, .. } => *id,
        }
    }

    /// What the call came over.
    pub fn transport(&self) -> TransportKind {
        match &self.via {
            Via::Iroh(_) => TransportKind::Iroh,
            Via::Tcp { .. } => TransportKind::Tcp,
        }
    }

    /// The urgency of the lane that the call came on. TCP has no such lanes: the default there, and the call's own is in its `priority` header.
    pub fn urgency(&self) -> Urgency {
        self.urgency
    }

    fn connection(&self) -> Option<iroh::endpoint::Connection> {
        match &self.via {
            Via::Iroh(proof) => proof.connection(),
            Via::Tcp { .. } => None,
        }
    }

    /// The path of this moment; `None` before the handshake is complete, and once the connection is gone. Over TCP it is always
    /// [`Path::Direct`], from the address that the connection came from.
    pub fn path(&self) -> Option<Path> {
        match &self.via {
            Via::Iroh(_) => Path::of(&self.connection()?).map(|(path, _)| path),
            Via::Tcp { remote, .. } => Some(Path::Direct(*remote)),
        }
    }

    /// The smoothed round-trip time of the path of this moment; `None` where there is no [`path`](Self::path), and over TCP.
    pub fn rtt(&self) -> Option<Duration> {
        Path::of(&self.connection()?).map(|(_, rtt)| rtt)
    }

    /// How many packets this side has sent on the connection; `None` where there is no [`path`](Self::path), and over TCP.
    pub fn sent_packets(&self) -> Option<u64> {
        Some(self.connection()?.stats().sent_packets)
    }

    /// How many of them the peer did not acknowledge in time, path probes included; `None` where there is no [`path`](Self::path), and over TCP.
    ///
    /// Not all of them were lost in the network: see [`PeerStats::lost_packets`](crate::PeerStats::lost_packets).
    pub fn lost_packets(&self) -> Option<u64> {
        Some(self.connection()?.stats().lost_packets)
    }

    /// The peer's socket address, where the path of this moment has one: not through a relay.
    pub fn remote_addr(&self) -> Option<SocketAddr> {
        match self.path()? {
            Path::Direct(addr) => Some(addr),
            Path::Relay(_) | Path::Other(_) => None,
        }
    }
}

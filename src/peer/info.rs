use std::{net::SocketAddr, time::Duration};

use iroh::EndpointId;
use tower_iroh_layers::Urgency;

use super::{Path, Proof, TransportKind};

/// The caller's identity and path, in the extensions of every request that came through an [`Acceptor`](crate::Acceptor) or a
/// [`TcpAcceptor`](crate::tcp::TcpAcceptor).
///
/// It is a live handle: path and round trip are read when they are asked for. It does not keep the connection alive.
///
/// A peer has the same [`id`](Self::id) over both transports. Values that one transport does not have are `None`.
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
        local: Option<SocketAddr>,
    },
}

impl PeerInfo {
    pub(crate) fn new(proof: Proof, urgency: Urgency) -> Self {
        Self {
            via: Via::Iroh(proof),
            urgency,
        }
    }

    /// A TCP connection; without an id the caller never proves one.
    pub(crate) fn tcp(
        id: Option<EndpointId>,
        remote: SocketAddr,
        local: Option<SocketAddr>,
    ) -> Self {
        Self {
            via: Via::Tcp { id, remote, local },
            urgency: Urgency::default(),
        }
    }

    /// The identity that the peer proved in the handshake. It never changes.
    ///
    /// Over iroh it is `None` until the handshake is complete. Only methods that
    /// [`AcceptorBuilder::early_data`](crate::AcceptorBuilder::early_data) lists are called that early, and such a call may be a replay. Once the handshake
    /// is complete, the same handle has the identity. Over TCP it stays `None` for a caller without TLS, which
    /// [`plaintext`](crate::tcp::TcpAcceptorBuilder::plaintext) admits.
    pub fn id(&self) -> Option<EndpointId> {
        match &self.via {
            Via::Iroh(proof) => proof.id(),
            Via::Tcp { id, .. } => *id,
        }
    }

    /// The transport of the call.
    pub fn transport(&self) -> TransportKind {
        match &self.via {
            Via::Iroh(_) => TransportKind::Iroh,
            Via::Tcp { .. } => TransportKind::Tcp,
        }
    }

    /// The urgency of the call's lane. Over TCP it is the default; the call's own urgency is in its `priority` header.
    pub fn urgency(&self) -> Urgency {
        self.urgency
    }

    pub(crate) fn connection(&self) -> Option<iroh::endpoint::Connection> {
        match &self.via {
            Via::Iroh(proof) => proof.connection(),
            Via::Tcp { .. } => None,
        }
    }

    /// The path in use; `None` before the handshake is complete and after the connection has ended. Over TCP it is always
    /// [`Path::Direct`] with the caller's address.
    pub fn path(&self) -> Option<Path> {
        match &self.via {
            Via::Iroh(_) => Path::of(&self.connection()?).map(|(path, _)| path),
            Via::Tcp { remote, .. } => Some(Path::Direct(*remote)),
        }
    }

    /// The smoothed round-trip time of the [path](Self::path) in use; `None` without a path, and over TCP.
    pub fn rtt(&self) -> Option<Duration> {
        Path::of(&self.connection()?).map(|(_, rtt)| rtt)
    }

    /// How many packets this side has sent on the connection; `None` without a [path](Self::path), and over TCP.
    pub fn sent_packets(&self) -> Option<u64> {
        Some(self.connection()?.stats().sent_packets)
    }

    /// How many of these packets the peer did not acknowledge in time, path probes included; `None` without a [path](Self::path), and over TCP.
    ///
    /// Not all of them were lost in the network: see [`PeerStats::lost_packets`](crate::PeerStats::lost_packets).
    pub fn lost_packets(&self) -> Option<u64> {
        Some(self.connection()?.stats().lost_packets)
    }

    /// The peer's socket address; `None` if the path goes through a relay.
    pub fn remote_addr(&self) -> Option<SocketAddr> {
        match self.path()? {
            Path::Direct(addr) => Some(addr),
            Path::Relay(_) | Path::Other(_) => None,
        }
    }

    /// The address at which this side accepted the connection, over TCP. `None` over iroh, whose connections may change it.
    pub fn local_addr(&self) -> Option<SocketAddr> {
        match &self.via {
            Via::Iroh(_) => None,
            Via::Tcp { local, .. } => *local,
        }
    }
}

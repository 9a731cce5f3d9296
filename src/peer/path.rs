use std::{fmt, net::SocketAddr};

use iroh::{RelayUrl, TransportAddr, endpoint::PathId};

/// The network path that packets to a peer take now.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub enum Path {
    /// Straight to this address.
    Direct(SocketAddr),
    /// Through this relay, which sees encrypted packets only.
    Relay(RelayUrl),
    /// A transport of the application's own.
    Other(String),
}

impl Path {
    /// Whether the path uses no relay.
    pub fn is_direct(&self) -> bool {
        matches!(self, Self::Direct(_))
    }

    /// The path over which `connection` sends, once iroh has selected one.
    pub(crate) fn of(
        connection: &iroh::endpoint::Connection,
    ) -> Option<(Self, std::time::Duration)> {
        with_path(connection, |path| (path.remote_addr().into(), path.rtt()))
    }

    /// Which path that is, and how many datagrams were sent and received on it.
    pub(crate) fn datagrams(connection: &iroh::endpoint::Connection) -> (PathId, u64, u64) {
        let stats = with_path(connection, |path| (path.id(), path.stats()));
        stats.map_or((PathId::ZERO, 0, 0), |(id, stats)| {
            (id, stats.udp_tx.datagrams, stats.udp_rx.datagrams)
        })
    }
}

/// A new connection has no selected path for a moment; then it uses the handshake's path.
fn with_path<T>(
    connection: &iroh::endpoint::Connection,
    read: impl FnOnce(iroh::endpoint::Path<'_>) -> T,
) -> Option<T> {
    let paths = connection.paths();
    let selected = paths.iter().find(|path| path.is_selected());
    selected.or_else(|| paths.iter().next()).map(read)
}

impl From<&TransportAddr> for Path {
    fn from(addr: &TransportAddr) -> Self {
        match addr {
            TransportAddr::Ip(addr) => Self::Direct(*addr),
            TransportAddr::Relay(url) => Self::Relay(url.clone()),
            other => Self::Other(format!("{other:?}")),
        }
    }
}

impl fmt::Display for Path {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Direct(addr) => write!(f, "direct {addr}"),
            Self::Relay(url) => write!(f, "relay {url}"),
            Self::Other(addr) => f.write_str(addr),
        }
    }
}

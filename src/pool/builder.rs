use std::time::Duration;

use tokio::runtime::Handle;
use tower_iroh_layers::ConfigError;
#[cfg(feature = "authorize")]
use tower_iroh_layers::authorize::PolicyHandle;

#[cfg(feature = "authorize")]
use super::Allowed;
use super::{PoolConfig, backoff::Bounds};

/// Settings of the links of one transport: what a pool of connections needs to know, and in `S` what only that transport does.
///
/// Over iroh it is [`LinksBuilder`](crate::LinksBuilder), over TCP [`TcpLinksBuilder`](crate::tcp::TcpLinksBuilder).
#[derive(Clone, Debug)]
#[must_use]
pub struct LinksBuilder<S> {
    pub(crate) pool: PoolConfig,
    pub(crate) own: S,
}

impl<S> LinksBuilder<S> {
    pub(crate) fn with(own: S) -> Self {
        Self {
            pool: PoolConfig::default(),
            own,
        }
    }

    /// How many peers may be connected at a time, dials included. Default 100.
    pub fn max_connections(mut self, connections: usize) -> Self {
        self.pool.max_connections = connections;
        self
    }

    /// How long a dial may take, and how long it may wait for a place in the pool before that. Default 10 s. While a caller waits, a dial makes a further
    /// attempt every 1.25 s beside those under way; the first that ends decides.
    pub fn dial_timeout(mut self, timeout: Duration) -> Self {
        self.pool.dial_timeout = timeout;
        self
    }

    /// The wait after the first failed dial, and the longest. Default 100 ms and 30 s; it doubles with each failure and varies by 20 %.
    ///
    /// While calls ask for the peer, the next dial is due after 1.25 s at most, or after `min` if that is longer, so that a peer that is back is found at once. All
    /// dials of these links that come early in this way, or accompany another, are at most 50 a second; beyond that the full wait holds.
    pub fn backoff(mut self, min: Duration, max: Duration) -> Self {
        self.pool.backoff = Bounds { min, max };
        self
    }

    /// After how long without an open call a connection is closed. Default 300 s.
    pub fn idle_timeout(mut self, timeout: Duration) -> Self {
        self.pool.idle_timeout = timeout;
        self
    }

    /// How often a connection is pinged. Default 30 s. Over iroh, two pings in a row without an answer close the connection. Over TCP, one ping that is not
    /// answered for twice the interval does, or for 20 s where that is shorter; what goes through a [`TcpConnector`](crate::tcp::TcpConnector) is pinged by
    /// the client that speaks HTTP/2 on it.
    pub fn health_interval(mut self, interval: Duration) -> Self {
        self.pool.health_interval = interval;
        self
    }

    /// The runtime that dials and connections live on. Default: the current one when the links are built; outside of any, that of the first call.
    ///
    /// It has to be one that is driven: a current-thread runtime moves only while a thread blocks on it. When it ends, its connections are gone at
    /// once, and the next call dials on the caller's own runtime. Over iroh it should be the runtime that the endpoint was bound on: QUIC's own tasks live where the dial
    /// does, and an endpoint's `close` waits for them.
    pub fn runtime(mut self, runtime: Handle) -> Self {
        self.pool.runtime = Some(runtime);
        self
    }

    /// Dials only peers to which this policy permits a call at all, by name or by its entry for authenticated peers. A call to another peer fails with
    /// [`ErrorKind::NotAllowed`](crate::ErrorKind::NotAllowed), PERMISSION_DENIED, and nothing is sent. Default: every peer is dialled.
    ///
    /// A reload that shuts a peer out closes the connection to it within a second, with the calls on it. Over iroh the peer is told
    /// [`FORBIDDEN`](crate::wire::close::FORBIDDEN).
    #[cfg(feature = "authorize")]
    pub fn allow_list(mut self, policy: &PolicyHandle) -> Self {
        self.pool.allowed = Allowed::by(policy);
        self
    }

    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        self.pool.validate()
    }
}

//! What the pool asks of a transport and of a connection, and what a connection tells the pool.

use std::{fmt, sync::Arc, time::Duration};

use futures_util::future::BoxFuture;
use iroh::EndpointId;

use super::{Allowed, Announce, PeerStats, State, Used, Uses};
use crate::{error::Error, peer::Peer};

/// Makes the connections of one transport: [`QuicDialer`](crate::links::QuicDialer) or [`TcpDialer`](crate::links::TcpDialer). A bound, and
/// nothing to call or to implement.
pub trait Dialer: Send + Sync + 'static {
    /// What it makes.
    #[doc(hidden)]
    type Connection: Pooled;

    /// Whether it may tell of connections that are not complete yet.
    #[doc(hidden)]
    fn sends_early_data(&self) -> bool {
        false
    }

    /// Takes note of where a peer is. Whether the peer says so for this transport, and whether its connection leads elsewhere now.
    #[doc(hidden)]
    fn know(&self, peer: &Peer) -> Known;

    /// Forgets where a peer is.
    #[doc(hidden)]
    fn forget(&self, id: EndpointId);

    /// Dials. The pool bounds its time, and drops it with the pool. Where calls that may be done twice can leave on a connection before it is
    /// complete, `early` is told of it.
    #[doc(hidden)]
    fn dial(
        &self,
        id: EndpointId,
        uses: Uses,
        early: Announce<Self::Connection>,
    ) -> BoxFuture<'static, Result<Arc<Self::Connection>, Error>>;
}

/// What a [`Dialer`] has learned of a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Known {
    /// Nothing that concerns this transport.
    Nothing,
    /// Where it is.
    Addr,
    /// That it is elsewhere than its connection leads to.
    Moved,
}

/// A connection as the pool sees it.
pub trait Pooled: Used + fmt::Debug + Send + Sync + Sized + 'static {
    /// Whether it takes another call.
    fn usable(&self) -> bool;
    /// What became of a connection that takes no further call.
    fn fate(&self) -> End;
    /// It takes no further call, and is good for those that it has.
    fn retire(&self);
    /// Another connection has reached the peer, which does not answer on this one. It takes no further call, and ends soon unless the peer answers on it after all.
    fn supersede(&self) {
        self.retire();
    }
    /// Ends it, because its place is needed.
    fn evict(&self);
    /// Ends it, because its user says so.
    fn close(&self);
    /// What is known of it; nothing while it is not complete.
    fn stats(&self) -> Option<PeerStats>;
    /// The smoothed round trip to the peer; `None` while it is not known.
    fn rtt(&self) -> Option<Duration>;
    /// It is in the pool now; `pool` is how it says that it is good for nothing any more.
    fn installed(self: &Arc<Self>, pool: PoolHandle<Self>);
}

/// How a connection tells its pool of its end, and whether its peer is heard.
pub struct PoolHandle<C: Pooled> {
    pub(super) peer: EndpointId,
    pub(super) allowed: Allowed,
    pub(super) report: Box<Report<C>>,
    pub(super) state: Box<ReportState<C>>,
}

type Report<C> = dyn Fn(&Arc<C>, End) -> bool + Send + Sync;
type ReportState<C> = dyn Fn(&Arc<C>, State) + Send + Sync;

impl<C: Pooled> fmt::Debug for PoolHandle<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("PoolHandle")
    }
}

/// How a connection ended.
#[derive(Debug)]
pub enum End {
    /// It was good and is over.
    Closed,
    /// It never came to life; counts as a failed dial.
    Failed(Error),
    /// It thinks that nobody has used it for long enough.
    Idle,
}

impl<C: Pooled> PoolHandle<C> {
    /// Whether the connection is out of the pool now. Only an idle one that has found a new user stays.
    pub(crate) fn report(&self, connection: &Arc<C>, end: End) -> bool {
        (self.report)(connection, end)
    }

    /// Waits until the peer may have no connection any more.
    pub(crate) fn revoked(&self) -> impl Future<Output = ()> + Send + use<C> {
        self.allowed.clone().revoked(Some(self.peer))
    }

    /// The peer does not answer, while calls wait.
    pub(crate) fn silent(&self, connection: &Arc<C>) {
        (self.state)(connection, State::Silent);
    }

    /// The peer did not answer, and has been heard again.
    pub(crate) fn heard(&self, connection: &Arc<C>) {
        (self.state)(connection, State::Ready);
    }
}

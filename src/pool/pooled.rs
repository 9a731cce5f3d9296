//! What the pool asks of whoever dials and of a connection, and what a connection tells the pool.

use std::{fmt, sync::Arc};

use futures_util::future::BoxFuture;
use iroh::EndpointId;

use super::{
    Announce, State,
    uses::{Used, Uses},
};
use crate::error::Error;

/// Makes connections.
pub(crate) trait Dialer: Send + Sync + 'static {
    type Connection: Pooled;

    /// Whether it may tell of connections that are not complete yet.
    fn sends_early_data(&self) -> bool {
        false
    }

    /// Dials. The future is dropped when nobody waits for it any more, or when its time is over. Where calls that may be done twice can leave on a
    /// connection before it is complete, `early` is told of it.
    fn dial(
        &self,
        id: EndpointId,
        uses: Uses,
        early: Announce<Self::Connection>,
    ) -> BoxFuture<'static, Result<Arc<Self::Connection>, Error>>;
}

/// A connection as the pool sees it.
pub(crate) trait Pooled: Used + fmt::Debug + Send + Sync + Sized + 'static {
    /// Whether it takes another call.
    fn usable(&self) -> bool;
    /// What became of a connection that takes no further call.
    fn fate(&self) -> End;
    /// Ends it, because its place is needed.
    fn evict(&self);
    /// Ends it, because its user says so.
    fn close(&self);
    /// It is in the pool now; `gone` is how it says that it is good for nothing any more.
    fn installed(self: &Arc<Self>, gone: PoolHandle<Self>);
}

/// How a connection tells its pool of its end, and whether its peer is heard.
pub(crate) struct PoolHandle<C: Pooled> {
    pub(super) report: Box<Tell<C>>,
    pub(super) state: Box<TellState<C>>,
}

type Tell<C> = dyn Fn(&Arc<C>, End) -> bool + Send + Sync;
type TellState<C> = dyn Fn(&Arc<C>, State) + Send + Sync;

/// What a connection has to tell.
pub(crate) enum End {
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

    /// The peer does not answer, while calls wait.
    pub(crate) fn silent(&self, connection: &Arc<C>) {
        (self.state)(connection, State::Silent);
    }

    /// It did not, and has been heard again.
    pub(crate) fn heard(&self, connection: &Arc<C>) {
        (self.state)(connection, State::Ready);
    }
}

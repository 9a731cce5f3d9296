//! What the pool knows of one peer.

use std::{
    fmt,
    sync::{Arc, Mutex, MutexGuard},
};

use tokio::{
    sync::{OwnedSemaphorePermit, watch},
    time::Instant,
};
use tokio_util::task::AbortOnDropHandle;
use tower_iroh_layers::Incident;

use super::{
    End, Pooled, State, Use,
    backoff::{Backoff, Bounds},
};
use crate::{error::Error, lock::lock};

pub(super) struct Entry<C> {
    inner: Mutex<Inner<C>>,
    pub(super) state: watch::Sender<State>,
    /// The connection of a dial under way, if calls may leave on it already.
    pub(super) early: watch::Sender<Option<Arc<C>>>,
}

pub(super) struct Inner<C> {
    pub(super) connection: Option<(Arc<C>, OwnedSemaphorePermit)>,
    pub(super) dial: Option<Dial>,
    pub(super) backoff: Backoff,
    pub(super) last_error: Option<Error>,
}

/// A dial under way. It goes on without callers, and ends with the pool.
pub(super) struct Dial {
    /// How the dial ended. Closed without a word when the dial's runtime has ended.
    pub(super) outcome: watch::Receiver<Option<Result<(), Error>>>,
    /// Since when the peer has been dialled. `None` while the dial waits for a slot.
    pub(super) since: Option<Instant>,
    /// The event that all callers are told of if the dial comes to nothing.
    pub(super) incident: Incident,
    /// Set once the task has been spawned, which happens outside the entry's lock.
    pub(super) task: Option<AbortOnDropHandle<()>>,
}

/// How a dialer tells of a connection that is not complete yet.
pub struct Announce<C>(Arc<Entry<C>>);

impl<C: Pooled> Announce<C> {
    pub(super) fn new(entry: &Arc<Entry<C>>) -> Self {
        Self(entry.clone())
    }

    pub(crate) fn tell(&self, connection: &Arc<C>) {
        self.0.early.send_replace(Some(connection.clone()));
    }
}

impl<C> fmt::Debug for Announce<C> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Announce")
    }
}

impl<C: Pooled> Entry<C> {
    pub(super) fn new(backoff: Bounds) -> Self {
        Self {
            inner: Mutex::new(Inner {
                connection: None,
                dial: None,
                backoff: Backoff::new(backoff),
                last_error: None,
            }),
            state: watch::Sender::new(State::Idle),
            early: watch::Sender::new(None),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Inner<C>> {
        lock(&self.inner)
    }

    /// A use of the connection, if there is one that takes a call. One that takes none is let go, and the backoff learns how it ended.
    pub(super) fn using(&self, inner: &mut Inner<C>) -> Option<Use<C>> {
        let (connection, _) = inner.connection.as_ref()?;
        if connection.usable() {
            // Counted under the lock, so that nobody evicts it in between.
            return Some(Use::new(connection.clone()));
        }
        // Its own driver may be about to say the same, and will find it gone.
        let fate = connection.fate();
        inner.connection = None;
        self.settle(inner, fate);
        None
    }

    pub(super) fn connection(&self) -> Option<Arc<C>> {
        let inner = self.lock();
        let (connection, _) = inner.connection.as_ref()?;
        Some(connection.clone())
    }

    /// Removes the connection if `which` accepts it, and updates the backoff from how it ended. Frees its slot.
    pub(super) fn take(
        &self,
        which: impl FnOnce(&Arc<C>) -> bool,
        end: impl FnOnce(&C) -> End,
    ) -> Option<Arc<C>> {
        let mut inner = self.lock();
        let (connection, _) = inner.connection.as_ref()?;
        if !which(connection) {
            return None;
        }
        let (connection, _slot) = inner.connection.take()?;
        self.state.send_replace(State::Idle);
        self.settle(&mut inner, end(&connection));
        Some(connection)
    }

    pub(super) fn unused_since(&self) -> Option<Instant> {
        let inner = self.lock();
        let (connection, _) = inner.connection.as_ref()?;
        (connection.uses().open() == 0).then(|| connection.uses().last())
    }

    /// Updates the backoff from how a connection ended that is out of the pool.
    fn settle(&self, inner: &mut Inner<C>, end: End) {
        match end {
            End::Failed(error) => self.failed(inner, &error),
            // It was alive: whatever failed before it is forgotten.
            End::Closed | End::Idle => inner.backoff.reset(),
        }
    }

    pub(super) fn failed(&self, inner: &mut Inner<C>, error: &Error) {
        inner.backoff.failed(Instant::now(), rand::random());
        inner.last_error = Some(error.clone());
        self.state.send_replace(State::TransientFailure);
    }

    pub(super) fn is_worth_keeping(&self, now: Instant) -> bool {
        let inner = self.lock();
        // A watcher would watch nothing from then on.
        let is_watched = self.state.receiver_count() > 0;
        let is_busy = inner.connection.is_some() || inner.dial.is_some();
        is_busy || inner.backoff.wait(now).is_some() || is_watched
    }
}

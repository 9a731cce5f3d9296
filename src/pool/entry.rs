//! What the pool knows of one peer.

use std::sync::{Arc, Mutex, MutexGuard};

use futures_util::future::{BoxFuture, WeakShared};
use tokio::{
    sync::{OwnedSemaphorePermit, watch},
    time::Instant,
};

use super::{
    End, Pooled, State,
    backoff::{Backoff, Bounds},
};
use crate::{error::Error, lock::lock};

pub(super) type Dial = BoxFuture<'static, Result<(), Error>>;

pub(super) struct Entry<C> {
    pub(super) inner: Mutex<Inner<C>>,
    pub(super) state: watch::Sender<State>,
    /// The connection of a dial that goes on, if calls may leave on it already.
    pub(super) early: watch::Sender<Option<Arc<C>>>,
}

/// How a dialer tells of a connection that is not complete yet.
pub(crate) struct Announce<C>(Arc<Entry<C>>);

impl<C: Pooled> Announce<C> {
    pub(super) fn new(entry: &Arc<Entry<C>>) -> Self {
        Self(entry.clone())
    }

    pub(crate) fn tell(&self, connection: &Arc<C>) {
        self.0.early.send_replace(Some(connection.clone()));
    }
}

pub(super) struct Inner<C> {
    pub(super) connection: Option<(Arc<C>, OwnedSemaphorePermit)>,
    pub(super) dial: Option<WeakShared<Dial>>,
    /// Tells an abandoned dial that cleans up from the one after it.
    pub(super) dials: u64,
    pub(super) last_dial: Option<Instant>,
    pub(super) waiting_for_slot: bool,
    pub(super) backoff: Backoff,
    pub(super) last_error: Option<Error>,
}

impl<C: Pooled> Entry<C> {
    pub(super) fn new(backoff: Bounds) -> Self {
        Self {
            inner: Mutex::new(Inner {
                connection: None,
                dial: None,
                dials: 0,
                last_dial: None,
                waiting_for_slot: false,
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

    /// Takes the connection out, where `which` says so, and draws the conclusion from how it ended, which nobody finds here later. Its slot is free from then on.
    pub(super) fn take(
        &self,
        which: impl FnOnce(&Arc<C>) -> bool,
        end: impl FnOnce(&C) -> End,
    ) -> Option<Arc<C>> {
        let mut inner = self.lock();
        if !inner
            .connection
            .as_ref()
            .is_some_and(|(connection, _)| which(connection))
        {
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

    /// Draws the conclusion from a connection that is out of the pool.
    pub(super) fn settle(&self, inner: &mut Inner<C>, end: End) {
        match end {
            End::Failed(error) => self.failed(inner, &error),
            // It was alive: whatever failed before it is forgotten.
            End::Closed | End::Idle => inner.backoff.reset(),
        }
    }

    fn failed(&self, inner: &mut Inner<C>, error: &Error) {
        inner.backoff.failed(Instant::now(), rand::random());
        inner.last_error = Some(error.clone());
        self.state.send_replace(State::TransientFailure);
    }

    pub(super) fn is_worth_keeping(&self, now: Instant) -> bool {
        let inner = self.lock();
        // Whoever watches would watch nothing from then on.
        let is_watched = self.state.receiver_count() > 0;
        inner.connection.is_some() || inner.backoff.wait(now).is_some() || is_watched
    }
}

/// A dial's hold on its entry; dropped unsettled, it leaves the entry as if the dial had never been.
pub(super) struct Dialling<C: Pooled> {
    pub(super) entry: Arc<Entry<C>>,
    pub(super) number: u64,
    pub(super) settled: bool,
}

impl<C: Pooled> Dialling<C> {
    pub(super) fn new(entry: Arc<Entry<C>>, number: u64) -> Self {
        Self {
            entry,
            number,
            settled: false,
        }
    }

    pub(super) fn succeeded(mut self, connection: Arc<C>, slot: OwnedSemaphorePermit) {
        self.settled = true;
        let mut inner = self.entry.lock();
        self.entry.early.send_replace(None);
        inner.dial = None;
        inner.last_error = None;
        inner.last_dial = None;
        // The backoff is not reset: a peer that takes the connection and refuses it at once has not recovered. The
        // connection's end resets it, if it ever showed a sign of life.
        inner.connection = Some((connection, slot));
        self.entry.state.send_replace(State::Ready);
    }

    pub(super) fn failed(mut self, error: &Error) {
        self.settled = true;
        let mut inner = self.entry.lock();
        self.entry.early.send_replace(None);
        inner.dial = None;
        self.entry.failed(&mut inner, error);
    }

    /// There was no slot: that is a failure, and says nothing of the peer.
    pub(super) fn crowded(mut self) {
        self.settled = true;
        self.entry.lock().dial = None;
        self.entry.state.send_replace(State::Idle);
    }
}

impl<C: Pooled> Drop for Dialling<C> {
    fn drop(&mut self) {
        if self.settled {
            return;
        }
        let mut inner = self.entry.lock();
        if inner.dials == self.number {
            self.entry.early.send_replace(None);
            inner.dial = None;
            inner.waiting_for_slot = false;
            self.entry.state.send_replace(State::Idle);
        }
    }
}

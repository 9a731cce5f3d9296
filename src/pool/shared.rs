//! What the clones of a pool share: its peers, and how a caller finds a connection or a dial.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard, Weak,
        atomic::{AtomicBool, Ordering},
    },
};

use iroh::EndpointId;
use tokio::{
    sync::{Semaphore, watch},
    time::Instant,
};

use super::{
    Dialer, End, PoolConfig, PoolHandle, Pooled, Runtime, State, Use, Used,
    budget::Budget,
    dial::Dialling,
    entry::{Dial, Entry, Inner},
    uses::Freed,
};
use crate::{
    error::{Error, ErrorKind},
    lock::lock,
};

/// How many peers without a connection are remembered beside those with one.
pub(super) const REMEMBERED: usize = 1024;

pub(super) struct Shared<D: Dialer> {
    pub(super) dialer: D,
    pub(super) config: PoolConfig,
    pub(super) runtime: Runtime,
    pub(super) slots: Arc<Semaphore>,
    pub(super) freed: Arc<Freed>,
    pub(super) budget: Mutex<Budget>,
    pub(super) peers: Mutex<HashMap<EndpointId, Arc<Entry<D::Connection>>>>,
    /// Takes no further call.
    pub(super) is_shut_down: AtomicBool,
}

/// What there is for a caller.
pub(super) enum Found<C> {
    Connection(Use<C>),
    /// The outcome of a dial, to be waited for.
    Dial(watch::Receiver<Option<Result<(), Error>>>),
    /// The peer does not answer on its connection. A call that is sent there may be lost: it waits for the peer to be heard, or for the dial beside.
    Silent(
        watch::Receiver<Option<Result<(), Error>>>,
        watch::Receiver<State>,
    ),
}

impl<D: Dialer> Shared<D> {
    pub(super) fn known(&self, id: EndpointId) -> Option<Arc<Entry<D::Connection>>> {
        lock(&self.peers).get(&id).cloned()
    }

    pub(super) fn entry(&self, id: EndpointId) -> Arc<Entry<D::Connection>> {
        let mut peers = lock(&self.peers);
        if let Some(entry) = peers.get(&id) {
            return entry.clone();
        }
        // Names come from callers, so they are bounded: what says nothing any more goes first.
        if peers.len() >= self.config.max_connections.saturating_add(REMEMBERED) {
            let now = Instant::now();
            peers.retain(|_, entry| Arc::strong_count(entry) > 1 || entry.is_worth_keeping(now));
        }
        let entry = Arc::new(Entry::new(self.config.backoff));
        peers.insert(id, entry.clone());
        entry
    }

    /// The connection that answers, if there is one.
    pub(super) fn connected(&self, entry: &Entry<D::Connection>) -> Option<Use<D::Connection>> {
        if self.is_shut_down.load(Ordering::SeqCst) || *entry.state.borrow() == State::Silent {
            return None;
        }
        entry.using(&mut entry.lock())
    }

    /// The peer's connection, or the dial to it: the one under way, or another where that is due.
    pub(super) fn find(
        self: &Arc<Self>,
        id: EndpointId,
        entry: &Arc<Entry<D::Connection>>,
    ) -> Result<Found<D::Connection>, Error> {
        if self.is_shut_down.load(Ordering::SeqCst) {
            return Err(Error::new(ErrorKind::Closed, "the links are shut down"));
        }
        let mut inner = entry.lock();
        if let Some(used) = entry.using(&mut inner) {
            drop(inner);
            if *entry.state.borrow() == State::Silent {
                self.dial_beside(id, entry, used.connection());
                if let Some(dial) = &entry.lock().dial {
                    let outcome = dial.outcome.clone();
                    return Ok(Found::Silent(outcome, entry.state.subscribe()));
                }
            }
            return Ok(Found::Connection(used));
        }
        if let Some(dial) = &inner.dial {
            return Ok(Found::Dial(dial.outcome.clone()));
        }
        self.config.allowed.check(id)?;
        let now = Instant::now();
        if let (Some(wait), Some(last)) = (inner.backoff.wait(now), &inner.last_error) {
            match inner.backoff.wait_when_asked(now) {
                None if self.may_repeat(now) => {}
                asked => return Err(Error::backoff(asked.unwrap_or(wait), last)),
            }
        }
        Ok(Found::Dial(self.begin_dial(id, entry, inner, None)?))
    }

    /// Spawns a dial. Returns its outcome, to be waited for.
    fn begin_dial(
        self: &Arc<Self>,
        id: EndpointId,
        entry: &Arc<Entry<D::Connection>>,
        mut inner: MutexGuard<'_, Inner<D::Connection>>,
        beside: Option<Arc<D::Connection>>,
    ) -> Result<watch::Receiver<Option<Result<(), Error>>>, Error> {
        let (dialling, dial) = Dialling::begin(entry, beside);
        let outcome = dial.outcome.clone();
        inner.dial = Some(dial);
        // A runtime that has ended drops the dial at once, which takes this lock.
        drop(inner);
        let task = Self::dial(Arc::downgrade(self), id, dialling);
        let task = self.runtime.spawn(task)?;
        let mut inner = entry.lock();
        let same = |dial: &&mut Dial| dial.outcome.same_channel(&outcome);
        if let Some(dial) = inner.dial.as_mut().filter(same) {
            dial.task = Some(task);
        }
        Ok(outcome)
    }

    /// Dials a peer that does not answer on its connection, which tells a peer that was started again from a path that is cut: if the new connection comes
    /// up while the old one stays silent, it takes its place.
    fn dial_beside(
        self: &Arc<Self>,
        id: EndpointId,
        entry: &Arc<Entry<D::Connection>>,
        silent: &Arc<D::Connection>,
    ) {
        let inner = entry.lock();
        let current = inner.connection.as_ref();
        let is_current = current.is_some_and(|(current, _)| Arc::ptr_eq(current, silent));
        let now = Instant::now();
        let is_due = inner.dial.is_none() && inner.backoff.wait_when_asked(now).is_none();
        if is_current && is_due && self.may_repeat(now) {
            // Without a runtime the connection has ended too.
            let _ = self.begin_dial(id, entry, inner, Some(silent.clone()));
        }
    }

    /// Whether there is a dial left for a peer that has not answered one.
    pub(super) fn may_repeat(&self, now: Instant) -> bool {
        lock(&self.budget).take(now)
    }

    /// Ends the least recently used connection that nobody uses.
    pub(super) fn evict_one(&self) {
        let entries: Vec<_> = lock(&self.peers).values().cloned().collect();
        let mut unused: Vec<_> = entries
            .into_iter()
            .filter_map(|entry| {
                let last = entry.unused_since()?;
                Some((last, entry))
            })
            .collect();
        unused.sort_by_key(|(last, _)| *last);
        for (_, entry) in unused {
            // It may have found a user since.
            let is_unused = |connection: &Arc<D::Connection>| connection.uses().open() == 0;
            if let Some(connection) = entry.take(is_unused, D::Connection::fate) {
                connection.evict();
                return;
            }
        }
    }

    pub(super) fn handle_of(self: &Arc<Self>, id: EndpointId) -> PoolHandle<D::Connection> {
        let pool: Weak<Self> = Arc::downgrade(self);
        let same = pool.clone();
        PoolHandle {
            peer: id,
            allowed: self.config.allowed.clone(),
            state: Box::new(move |connection, state| {
                if let Some(pool) = same.upgrade() {
                    pool.stands(id, connection, state);
                }
            }),
            report: Box::new(move |connection, end| match pool.upgrade() {
                Some(pool) => pool.ended(id, connection, end),
                None => true,
            }),
        }
    }

    /// Tells watchers how a connection does that is there.
    fn stands(self: &Arc<Self>, id: EndpointId, connection: &Arc<D::Connection>, state: State) {
        let Some(entry) = self.known(id) else {
            return;
        };
        let inner = entry.lock();
        let current = inner.connection.as_ref();
        if current.is_some_and(|(current, _)| Arc::ptr_eq(current, connection)) {
            entry.state.send_replace(state);
        }
        drop(inner);
        if state == State::Silent {
            self.dial_beside(id, &entry, connection);
        }
    }

    pub(super) fn ended(&self, id: EndpointId, connection: &Arc<D::Connection>, end: End) -> bool {
        let Some(entry) = self.known(id) else {
            return true;
        };
        let unused_only = matches!(end, End::Idle);
        let mut is_other = true;
        let which = |current: &Arc<D::Connection>| {
            is_other = !Arc::ptr_eq(current, connection);
            !is_other && (!unused_only || current.uses().open() == 0)
        };
        let taken = entry.take(which, |_| end);
        taken.is_some() || is_other
    }
}

impl<D: Dialer> Drop for Shared<D> {
    fn drop(&mut self) {
        // A dial holds its entry, and the entry the dial's task.
        let peers = std::mem::take(&mut *lock(&self.peers));
        for entry in peers.into_values() {
            let dial = entry.lock().dial.take();
            drop(dial);
        }
    }
}

pub(super) fn pool_full(most: usize) -> Error {
    Error::new(
        ErrorKind::Exhausted,
        format!("all {most} connections are in use"),
    )
}

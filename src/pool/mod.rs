//! One connection per peer, over any transport.
//!
//! [`Pool::get`] finds a peer's connection, or begins a dial and waits for it. The pool owns its dials: each is a task with a bound on its time, which
//! goes on when its callers leave and ends with the last handle to the pool. A [`Dialer`] makes connections, a [`Pooled`] is one, and [`Links`] is what a program
//! holds of all this. The pool knows no transport and is tested under virtual time.
//!
//! Readiness: a caller waits inside the future of `get`. A dropped future leaves nothing behind but the dial, whose outcome is there for the next caller.

use std::{
    collections::HashMap,
    fmt,
    sync::{
        Arc, Mutex, MutexGuard, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use iroh::EndpointId;
use tokio::{
    sync::{Semaphore, watch},
    time::Instant,
};
use tower_iroh_layers::Incident;

use crate::{
    error::{Error, ErrorKind},
    lock::lock,
};

mod address_book;
mod admission;
mod backoff;
mod budget;
mod builder;
mod config;
mod dial;
mod entry;
mod links;
mod pooled;
mod runtime;
mod state;
mod stats;
mod uses;

pub use builder::LinksBuilder;
pub use links::Links;
pub use pooled::Dialer;
pub use state::State;
pub use stats::{EarlyData, PeerStats};

pub(crate) use address_book::AddressBook;
pub(crate) use admission::{Admission, Admitted, Full, Limits, Refusals};
pub(crate) use backoff::{Backoff, Bounds};
pub(crate) use config::PoolConfig;
pub(crate) use entry::Announce;
pub(crate) use pooled::{End, Known, PoolHandle, Pooled};
pub(crate) use runtime::Runtime;
pub(crate) use uses::{AnyUse, Use, Used, Uses};

use budget::Budget;
use dial::Dialling;
use entry::{Dial, Entry, Inner};
use uses::Freed;

/// How many peers without a connection are remembered beside those with one.
const REMEMBERED: usize = 1024;
/// How long an attempt to reach a peer has before another begins beside it. QUIC and TCP repeat their first packet after a second, which may still be answered,
/// and then at ever longer intervals; a new attempt finds a peer that is back.
const ANOTHER_ATTEMPT: Duration = Duration::from_millis(1250);
/// How many dials of one call may be lost with the runtime that they ran on.
const LOST_DIALS: usize = 3;

/// The connections of one dialer. Clones share.
pub(crate) struct Pool<D: Dialer> {
    shared: Arc<Shared<D>>,
}

struct Shared<D: Dialer> {
    dialer: D,
    config: PoolConfig,
    runtime: Runtime,
    slots: Arc<Semaphore>,
    freed: Arc<Freed>,
    budget: Mutex<Budget>,
    peers: Mutex<HashMap<EndpointId, Arc<Entry<D::Connection>>>>,
    /// Takes no further call.
    is_shut_down: AtomicBool,
}

impl<D: Dialer> Pool<D> {
    pub(crate) fn new(dialer: D, config: PoolConfig, runtime: Runtime) -> Self {
        Self {
            shared: Arc::new(Shared {
                dialer,
                slots: Arc::new(Semaphore::new(config.max_connections)),
                freed: Arc::default(),
                budget: Mutex::new(Budget::new(Instant::now())),
                peers: Mutex::default(),
                config,
                runtime,
                is_shut_down: AtomicBool::new(false),
            }),
        }
    }

    pub(crate) fn dialer(&self) -> &D {
        &self.shared.dialer
    }

    /// The connection to a peer, dialled where there is none. Cancel safe: the dial goes on.
    pub(crate) async fn get(&self, id: EndpointId) -> Result<Use<D::Connection>, Error> {
        let entry = self.shared.entry(id);
        let mut lost = 0;
        loop {
            let mut outcome = match self.shared.find(id, &entry)? {
                Found::Connection(used) => return Ok(used),
                Found::Dial(outcome) => outcome,
                Found::Silent(mut outcome, mut state) => {
                    tokio::select! {
                        _ = outcome.wait_for(Option::is_some) => {}
                        _ = state.wait_for(|state| *state != State::Silent) => {}
                    }
                    continue;
                }
            };
            let ended = match outcome.wait_for(Option::is_some).await {
                Ok(ended) => ended.clone(),
                Err(_) => None,
            };
            match ended {
                Some(outcome) => outcome?,
                // The dial's runtime has ended; the next dial is on this one.
                None if lost < LOST_DIALS => {
                    lost += 1;
                    tokio::task::yield_now().await;
                }
                None => {
                    let message = "the runtime that the dial ran on has ended";
                    return Err(Error::new(ErrorKind::Internal, message));
                }
            }
        }
    }

    /// The connection of a dial under way, as soon as calls that may be done twice may leave on it: before its handshake is complete, and only
    /// where the dialer tells of one. Using it is not counted as a use. Discard anything it returns unless [`get`](Self::get) later yields the same
    /// connection.
    pub(crate) async fn early(&self, id: EndpointId) -> Arc<D::Connection> {
        // Held, so that the entry is not forgotten meanwhile.
        let entry = self.shared.entry(id);
        let mut early = entry.early.subscribe();
        let told = early.wait_for(Option::is_some).await;
        let connection = told.ok().and_then(|told| told.clone());
        match connection {
            Some(connection) => connection,
            // The sender is in the entry, so it does not come to this.
            None => std::future::pending().await,
        }
    }

    /// The error for a caller whose deadline passed while [`get`](Self::get) was still at work.
    pub(crate) fn late(&self, id: EndpointId) -> Error {
        let entry = self.shared.entry(id);
        let waits = entry.lock().dial.as_ref().map(|dial| dial.since.is_none());
        match waits {
            Some(true) => pool_full(self.shared.config.max_connections),
            _ => Error::new(
                ErrorKind::Deadline,
                "the deadline passed while the peer was being dialled",
            ),
        }
    }

    /// The dial that the peer has not answered yet: since when it has been under way, and what its failure will be known by. Beside a silent connection there
    /// is none: after a short cut the peer is heard again.
    pub(crate) fn unanswered(&self, id: EndpointId) -> Option<(Instant, Incident)> {
        let entry = self.shared.known(id)?;
        let inner = entry.lock();
        let dial = inner.dial.as_ref().filter(|_| inner.connection.is_none())?;
        Some((dial.since?, dial.incident))
    }

    pub(crate) fn peek(&self, id: EndpointId) -> Option<Arc<D::Connection>> {
        self.shared.known(id)?.connection()
    }

    pub(crate) fn watch(&self, id: EndpointId) -> watch::Receiver<State> {
        self.shared.entry(id).state.subscribe()
    }

    pub(crate) fn slots_taken(&self) -> usize {
        let free = self.shared.slots.available_permits();
        self.shared.config.max_connections.saturating_sub(free)
    }

    /// Something new is known of the peer: the next dial is due. Where there is no connection and no dial, watchers of the state are told of
    /// [`State::Idle`], also where it was that before.
    pub(crate) fn forgive(&self, id: EndpointId) {
        let Some(entry) = self.shared.known(id) else {
            return;
        };
        entry.lock().backoff.reset();
        entry.state.send_if_modified(|state| {
            let waits = matches!(state, State::Idle | State::TransientFailure);
            if waits {
                *state = State::Idle;
            }
            waits
        });
    }

    /// The next dial to every peer is due.
    pub(crate) fn forgive_all(&self) {
        let peers: Vec<_> = lock(&self.shared.peers).keys().copied().collect();
        for id in peers {
            self.forgive(id);
        }
    }

    /// A caller asks that paces itself: the next dial is due, however often the last ones failed.
    pub(crate) fn hurry(&self, id: EndpointId) {
        if let Some(entry) = self.shared.known(id) {
            entry.lock().backoff.hurry();
        }
    }

    pub(crate) fn close(&self, id: EndpointId) {
        let known = self.shared.known(id);
        if let Some(connection) = known.and_then(|entry| entry.take(|_| true, D::Connection::fate))
        {
            connection.close();
        }
    }

    /// The connection takes no further call, and the calls that it has go on.
    pub(crate) fn retire(&self, id: EndpointId, connection: &Arc<D::Connection>) {
        connection.retire();
        self.shared.ended(id, connection, End::Closed);
    }

    /// Closes the connection to a peer, ends a dial to it, and forgets how dials fared.
    pub(crate) fn remove(&self, id: EndpointId) {
        self.close(id);
        let Some(entry) = self.shared.known(id) else {
            return;
        };
        let mut inner = entry.lock();
        let dial = inner.dial.take();
        inner.last_error = None;
        inner.backoff.reset();
        drop(inner);
        drop(dial);
        let mut peers = lock(&self.shared.peers);
        // A watcher, and a caller that waits, keep theirs.
        if Arc::strong_count(&entry) == 2 && !entry.is_worth_keeping(Instant::now()) {
            peers.remove(&id);
        }
    }

    fn downgrade(&self) -> Weak<Shared<D>> {
        Arc::downgrade(&self.shared)
    }

    /// All connections that there are.
    pub(crate) fn connections(&self) -> Vec<(EndpointId, Arc<D::Connection>)> {
        let peers = lock(&self.shared.peers);
        let there = peers
            .iter()
            .filter_map(|(id, entry)| Some((*id, entry.connection()?)));
        there.collect()
    }

    /// Refuses further calls, waits until the connections have no user any more, and closes each then. Cancel safe; asked again, it goes on.
    pub(crate) async fn shut_down(&self) {
        self.shared.is_shut_down.store(true, Ordering::SeqCst);
        let entries: Vec<_> = lock(&self.shared.peers).values().cloned().collect();
        for entry in entries {
            let dial = entry.lock().dial.take();
            drop(dial);
            if let Some(connection) = entry.connection() {
                connection.uses().unused().await;
                let same = |current: &Arc<_>| Arc::ptr_eq(current, &connection);
                entry.take(same, D::Connection::fate);
                connection.close();
            }
        }
    }
}

/// What there is for a caller.
enum Found<C> {
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
    fn known(&self, id: EndpointId) -> Option<Arc<Entry<D::Connection>>> {
        lock(&self.peers).get(&id).cloned()
    }

    fn entry(&self, id: EndpointId) -> Arc<Entry<D::Connection>> {
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

    /// The peer's connection, or the dial to it: the one under way, or another where that is due.
    fn find(
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
    fn may_repeat(&self, now: Instant) -> bool {
        lock(&self.budget).take(now)
    }

    /// Ends the least recently used connection that nobody uses.
    fn evict_one(&self) {
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

    fn handle_of(self: &Arc<Self>, id: EndpointId) -> PoolHandle<D::Connection> {
        let pool: Weak<Self> = Arc::downgrade(self);
        let same = pool.clone();
        PoolHandle {
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

    fn ended(&self, id: EndpointId, connection: &Arc<D::Connection>, end: End) -> bool {
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

fn pool_full(most: usize) -> Error {
    Error::new(
        ErrorKind::Exhausted,
        format!("all {most} connections are in use"),
    )
}

impl<D: Dialer> Clone for Pool<D> {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
        }
    }
}

impl<D: Dialer> fmt::Debug for Pool<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Pool")
            .field("connections", &self.slots_taken())
            .field("config", &self.shared.config)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;

//! Which connection a call gets: the peer's own, dialled once for everybody who asks, within a bounded number.
//!
//! Who owns readiness: nobody before a call; [`Pool::get`] waits inside the caller's future. What a dropped future
//! leaves behind: a dial ends with its last waiter, its slot and its entry are free again. Who wakes whom: the dial wakes its
//! waiters; whoever frees a slot wakes the first dial that waits for one.

use std::{
    collections::HashMap,
    fmt,
    panic::AssertUnwindSafe,
    pin::pin,
    sync::{Arc, Mutex, Weak},
};

use futures_util::{
    FutureExt,
    future::{Shared as SharedFuture, WeakShared},
};
use iroh::EndpointId;
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore, watch},
    time::{Instant, sleep_until, timeout},
};

use crate::{
    error::{Error, ErrorKind},
    lock::lock,
};
use uses::{Freed, Waiting};

mod backoff;
mod config;
mod entry;
mod pooled;
mod runtime;
mod state;
mod stats;
mod uses;

pub use state::State;
pub use stats::{EarlyData, PeerStats};

pub(crate) use backoff::Bounds;
pub(crate) use config::PoolConfig;
pub(crate) use entry::Announce;
use entry::{Dial, Dialling, Entry, Inner};
pub(crate) use pooled::{Dialer, End, PoolHandle, Pooled};
pub(crate) use runtime::Runtime;
pub(crate) use uses::{AnyUse, Use, Used, Uses};

pub(crate) struct Pool<D: Dialer> {
    shared: Arc<Shared<D>>,
}

struct Shared<D: Dialer> {
    dialer: D,
    settings: PoolConfig,
    runtime: Runtime,
    slots: Arc<Semaphore>,
    freed: Arc<Freed>,
    peers: Mutex<HashMap<EndpointId, Arc<Entry<D::Connection>>>>,
}

/// How many peers without a connection are remembered beside those with one.
const REMEMBERED: usize = 1024;

impl<D: Dialer> Pool<D> {
    pub(crate) fn new(dialer: D, settings: PoolConfig, runtime: Runtime) -> Self {
        Self {
            shared: Arc::new(Shared {
                dialer,
                slots: Arc::new(Semaphore::new(settings.max_connections)),
                freed: Arc::default(),
                peers: Mutex::default(),
                settings,
                runtime,
            }),
        }
    }

    pub(crate) fn dialer(&self) -> &D {
        &self.shared.dialer
    }

    pub(crate) async fn get(&self, id: EndpointId) -> Result<Use<D::Connection>, Error> {
        let entry = self.shared.entry(id);
        loop {
            let dial = {
                let mut inner = entry.lock();
                if let Some((connection, _)) = &inner.connection {
                    if connection.usable() {
                        // Counted under the lock, so that nobody evicts it in between.
                        return Ok(Use::new(connection.clone()));
                    }
                    // Its own driver may be about to say the same, and will find it gone.
                    let fate = connection.fate();
                    inner.connection = None;
                    entry.settle(&mut inner, fate);
                }
                match inner.dial.as_ref().and_then(WeakShared::upgrade) {
                    Some(dial) => dial,
                    None => self.shared.begin(id, &entry, &mut inner)?,
                }
            };
            dial.await?;
        }
    }

    /// The connection of a dial that goes on, as soon as calls that may be done twice may leave on it: before its handshake is complete. It comes only
    /// while somebody polls [`get`](Self::get), and only where the dialer tells of one. Whoever uses it does not count as a use, and believes nothing that it
    /// says before `get` has given the same connection.
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

    /// What somebody is told whose time was over while [`get`](Self::get) was still at work.
    pub(crate) fn late(&self, id: EndpointId) -> Error {
        let waiting = self.shared.entry(id).lock().waiting_for_slot;
        if waiting {
            pool_full(self.shared.settings.max_connections)
        } else {
            Error::new(
                ErrorKind::Deadline,
                "the deadline passed while the peer was being dialled",
            )
        }
    }

    pub(crate) fn peek(&self, id: &EndpointId) -> Option<Arc<D::Connection>> {
        let entry = lock(&self.shared.peers).get(id).cloned()?;
        let inner = entry.lock();
        inner
            .connection
            .as_ref()
            .map(|(connection, _)| connection.clone())
    }

    pub(crate) fn watch(&self, id: EndpointId) -> watch::Receiver<State> {
        self.shared.entry(id).state.subscribe()
    }

    pub(crate) fn slots_taken(&self) -> usize {
        self.shared
            .settings
            .max_connections
            .saturating_sub(self.shared.slots.available_permits())
    }

    /// Something new is known of the peer: the next dial is due. Where there is no connection and no dial, whoever watches the state is told of
    /// [`State::Idle`], also where it was that before.
    pub(crate) fn forgive(&self, id: EndpointId) {
        let known = lock(&self.shared.peers).get(&id).cloned();
        if let Some(entry) = known {
            entry.lock().backoff.reset();
            entry.state.send_if_modified(|state| {
                let waits = matches!(state, State::Idle | State::TransientFailure);
                if waits {
                    *state = State::Idle;
                }
                waits
            });
        }
    }

    /// Somebody asks who paces himself: the next dial is due, however often the last ones failed.
    pub(crate) fn hurry(&self, id: EndpointId) {
        let known = lock(&self.shared.peers).get(&id).cloned();
        if let Some(entry) = known {
            entry.lock().backoff.hurry();
        }
    }

    pub(crate) fn close(&self, id: &EndpointId) {
        let known = lock(&self.shared.peers).get(id).cloned();
        if let Some(connection) = known.and_then(|entry| entry.take(|_| true, D::Connection::fate))
        {
            connection.close();
        }
    }

    /// A connection is of no use for new calls.
    pub(crate) fn gone(
        &self,
        id: EndpointId,
        connection: &Arc<D::Connection>,
        error: Option<Error>,
    ) {
        let end = error.map_or(End::Closed, End::Failed);
        self.shared.ended(id, connection, end);
    }
}

impl<D: Dialer> Shared<D> {
    fn entry(&self, id: EndpointId) -> Arc<Entry<D::Connection>> {
        let mut peers = lock(&self.peers);
        if let Some(entry) = peers.get(&id) {
            return entry.clone();
        }
        // Names come from callers, so they are bounded: what says nothing any more goes first.
        if peers.len() >= self.settings.max_connections.saturating_add(REMEMBERED) {
            let now = Instant::now();
            peers.retain(|_, entry| Arc::strong_count(entry) > 1 || entry.is_worth_keeping(now));
        }
        let entry = Arc::new(Entry::new(self.settings.backoff));
        peers.insert(id, entry.clone());
        entry
    }

    /// Begins a dial, where one is due.
    fn begin(
        self: &Arc<Self>,
        id: EndpointId,
        entry: &Arc<Entry<D::Connection>>,
        inner: &mut Inner<D::Connection>,
    ) -> Result<SharedFuture<Dial>, Error> {
        let now = Instant::now();
        if let (Some(wait), Some(last)) = (inner.backoff.wait(now), &inner.last_error) {
            return Err(Error::backoff(wait, last));
        }
        // A dial that nobody waited for to its end has not failed, but dials do not follow each other faster than failed ones.
        let earliest = match inner.last_dial {
            Some(last) => last + self.settings.backoff.min,
            None => now,
        };
        inner.dials += 1;
        entry.early.send_replace(None);
        let dialling = Dialling::new(entry.clone(), inner.dials);
        let dial = self.clone().dial(id, dialling, earliest).boxed().shared();
        inner.dial = dial.downgrade();
        entry.state.send_replace(State::Connecting);
        Ok(dial)
    }

    async fn dial(
        self: Arc<Self>,
        id: EndpointId,
        dialling: Dialling<D::Connection>,
        earliest: Instant,
    ) -> Result<(), Error> {
        // Even a sleep that is over takes up to a millisecond of tokio's timer.
        if earliest > Instant::now() {
            sleep_until(earliest).await;
        }
        let Some(slot) = self.place(&dialling).await else {
            dialling.crowded();
            return Err(pool_full(self.settings.max_connections));
        };
        match self.dial_once(id, &dialling).await {
            Ok(connection) => {
                let gone = self.handle_of(id);
                dialling.succeeded(connection.clone(), slot);
                connection.installed(gone);
                Ok(())
            }
            Err(error) => {
                dialling.failed(&error);
                Err(error)
            }
        }
    }

    /// A slot, waited for as long as a dial may take.
    async fn place(&self, dialling: &Dialling<D::Connection>) -> Option<OwnedSemaphorePermit> {
        dialling.entry.lock().waiting_for_slot = true;
        let slot = timeout(self.settings.dial_timeout, self.slot()).await;
        dialling.entry.lock().waiting_for_slot = false;
        slot.ok()?.ok()
    }

    async fn dial_once(
        &self,
        id: EndpointId,
        dialling: &Dialling<D::Connection>,
    ) -> Result<Arc<D::Connection>, Error> {
        dialling.entry.lock().last_dial = Some(Instant::now());
        let uses = Uses::new(self.freed.clone());
        // A panic must not poison everybody who waits for this dial.
        let early = Announce::new(&dialling.entry);
        let dial = AssertUnwindSafe(self.dialer.dial(id, uses, early)).catch_unwind();
        match timeout(self.settings.dial_timeout, dial).await {
            Ok(Ok(result)) => result,
            Ok(Err(_)) => Err(Error::new(ErrorKind::Internal, "the dial panicked")),
            Err(_) => Err(Error::new(
                ErrorKind::DialTimeout,
                format!(
                    "the peer did not answer within {:?}",
                    self.settings.dial_timeout
                ),
            )),
        }
    }

    /// A place for one more connection, taken from whoever uses one least where there is none.
    async fn slot(&self) -> Result<OwnedSemaphorePermit, tokio::sync::AcquireError> {
        if let Ok(slot) = self.slots.clone().try_acquire_owned() {
            return Ok(slot);
        }
        let _waiting = Waiting::new(&self.freed);
        // Kept through all turns of the loop: it holds the place in the queue.
        let mut acquire = pin!(self.slots.clone().acquire_owned());
        loop {
            let mut freed = pin!(self.freed.notify.notified());
            // Registered before the look around, so that whoever is freed in between is not missed.
            freed.as_mut().enable();
            self.evict_one();
            tokio::select! {
                slot = &mut acquire => return slot,
                () = freed => {}
            }
        }
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

    /// Tells whoever watches how a connection does that is there.
    fn stands(&self, id: EndpointId, connection: &Arc<D::Connection>, state: State) {
        let Some(entry) = lock(&self.peers).get(&id).cloned() else {
            return;
        };
        let inner = entry.lock();
        let current = inner.connection.as_ref();
        if current.is_some_and(|(current, _)| Arc::ptr_eq(current, connection)) {
            entry.state.send_replace(state);
        }
    }

    fn ended(&self, id: EndpointId, connection: &Arc<D::Connection>, end: End) -> bool {
        let Some(entry) = lock(&self.peers).get(&id).cloned() else {
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
            .field("settings", &self.shared.settings)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;

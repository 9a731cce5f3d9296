//! One connection per peer, over any transport.
//!
//! [`Pool::get`] finds a peer's connection, or begins a dial and waits for it. The pool owns its dials: each is a task with a bound on its time, which
//! goes on when its callers leave and ends with the last handle to the pool. A [`Dialer`] makes connections, a [`Pooled`] is one, and [`Links`] is what a program
//! holds of all this. The pool knows no transport and is tested under virtual time.
//!
//! Readiness: a caller waits inside the future of `get`. A dropped future leaves nothing behind but the dial, whose outcome is there for the next caller.

use std::{
    fmt,
    sync::{
        Arc, Mutex, Weak,
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
pub(crate) mod admission;
mod backoff;
mod budget;
mod builder;
mod config;
mod dial;
mod entry;
mod links;
mod pooled;
mod runtime;
mod shared;
mod silence;
mod state;
mod stats;
mod uses;

pub use builder::LinksBuilder;
pub use links::Links;
pub use pooled::Dialer;
pub use state::State;
pub use stats::{EarlyData, PeerStats};

pub(crate) use address_book::AddressBook;
pub(crate) use admission::{
    Admission, Admitted, Allowed, Busy, Full, HandshakePermit, Handshakes, Lifetime, Limits,
    OpenConnection, Probe, Refusals, Source, Stage, Why,
};
pub(crate) use backoff::{Backoff, Bounds};
pub(crate) use config::PoolConfig;
pub(crate) use entry::Announce;
pub(crate) use pooled::{End, Known, PoolHandle, Pooled};
pub(crate) use runtime::Runtime;
pub(crate) use silence::{Look, Patience, Sign, Silence};
pub(crate) use uses::{AnyUse, Use, Used, Uses};

use budget::Budget;
use shared::{Found, Shared, pool_full};

/// How long an attempt to reach a peer has before another begins beside it. QUIC and TCP repeat their first packet after a second, which may still be answered,
/// and then at ever longer intervals; a new attempt finds a peer that is back.
const ANOTHER_ATTEMPT: Duration = Duration::from_millis(1250);
/// How many dials of one call may be lost with the runtime that they ran on.
const LOST_DIALS: usize = 3;

/// The connections of one dialer. Clones share.
pub(crate) struct Pool<D: Dialer> {
    shared: Arc<Shared<D>>,
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

    /// The connection that [`get`](Self::get) returns, if there is one that answers. It dials nothing: the caller that begins a dial is to learn how
    /// that dial ended, and the dial could end before the caller asks again.
    pub(crate) fn get_now(&self, id: EndpointId) -> Option<Use<D::Connection>> {
        self.shared.connected(&*self.shared.known(id)?)
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

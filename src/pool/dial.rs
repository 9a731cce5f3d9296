//! A dial: a task of the pool, that nobody has to wait for.

use std::{
    panic::AssertUnwindSafe,
    pin::pin,
    sync::{Arc, Weak},
};

use futures_util::{
    FutureExt,
    stream::{FuturesUnordered, StreamExt},
};
use iroh::EndpointId;
use tokio::{
    sync::{OwnedSemaphorePermit, watch},
    time::{Instant, sleep, timeout},
};
use tower_iroh_layers::Incident;

use super::{
    ANOTHER_ATTEMPT, Announce, Dialer, Pooled, Shared, State, Uses,
    entry::{Dial, Entry},
    pool_full,
    uses::Waiting,
};
use crate::error::{Error, ErrorKind};

/// The side of a dial that the task has. Dropped before the dial has ended, it leaves the entry as if the dial had never been.
pub(super) struct Dialling<C: Pooled> {
    entry: Arc<Entry<C>>,
    outcome: watch::Sender<Option<Result<(), Error>>>,
    /// The silent connection beside which it dials, if there is one.
    beside: Option<Arc<C>>,
    incident: Incident,
    has_ended: bool,
}

impl<C: Pooled> Dialling<C> {
    /// The two sides of a dial to an entry's peer, which may have a connection that is silent.
    pub(super) fn begin(entry: &Arc<Entry<C>>, beside: Option<Arc<C>>) -> (Self, Dial) {
        let (outcome, waits) = watch::channel(None);
        entry.early.send_replace(None);
        let incident = Incident::new();
        if beside.is_none() {
            entry.state.send_replace(State::Connecting);
        }
        let dialling = Self {
            entry: entry.clone(),
            outcome,
            incident,
            beside,
            has_ended: false,
        };
        let dial = Dial {
            outcome: waits,
            since: Some(Instant::now()),
            incident,
            task: None,
        };
        (dialling, dial)
    }

    /// Whether somebody waits for the outcome, beside the entry, or for an answer on the silent connection.
    fn is_waited_for(&self) -> bool {
        let waits = |silent: &Arc<C>| silent.uses().open() > 0;
        self.outcome.receiver_count() > 1 || self.beside.as_ref().is_some_and(waits)
    }

    /// Whether the silent connection is still silent, or gone. Without one, it is.
    fn is_needed(&self) -> bool {
        let inner = self.entry.lock();
        match (&self.beside, &inner.connection) {
            (Some(silent), Some((current, _))) => {
                Arc::ptr_eq(silent, current) && *self.entry.state.borrow() == State::Silent
            }
            _ => true,
        }
    }

    fn waits_for_slot(&self, waits: bool) {
        if let Some(dial) = &mut self.entry.lock().dial {
            dial.since = (!waits).then(Instant::now);
        }
    }

    fn succeeded(mut self, connection: Arc<C>, slot: OwnedSemaphorePermit) {
        let mut inner = self.entry.lock();
        inner.last_error = None;
        // The backoff is not reset: a peer that takes the connection and refuses it at once has not recovered. The
        // connection's end resets it, if it ever showed a sign of life.
        let before = inner.connection.replace((connection, slot));
        self.entry.state.send_replace(State::Ready);
        drop(inner);
        if let Some((silent, _slot)) = before {
            silent.supersede();
        }
        self.end(Ok(()));
    }

    fn failed(mut self, error: Error) {
        let error = error.of(self.incident);
        match &self.beside {
            None => self.entry.failed(&mut self.entry.lock(), &error),
            // It says nothing that the silence does not. The next one waits.
            Some(_) => self
                .entry
                .lock()
                .backoff
                .failed(Instant::now(), rand::random()),
        }
        self.end(Err(error));
    }

    /// There was no slot: that is a failure, and says nothing of the peer.
    fn crowded(mut self, error: Error) {
        if self.beside.is_none() {
            self.entry.state.send_replace(State::Idle);
        }
        self.end(Err(error));
    }

    fn end(&mut self, outcome: Result<(), Error>) {
        self.has_ended = true;
        self.entry.early.send_replace(None);
        // The task ends here anyway; without the dial the next caller may begin another.
        let dial = self.entry.lock().dial.take();
        self.outcome.send_replace(Some(outcome));
        drop(dial);
    }
}

impl<C: Pooled> Drop for Dialling<C> {
    fn drop(&mut self) {
        if self.has_ended {
            return;
        }
        self.entry.early.send_replace(None);
        if self.beside.is_none() {
            // Before the dial is gone, so that it is not the next dial's state that this overwrites.
            self.entry.state.send_replace(State::Idle);
        }
        let dial = self.entry.lock().dial.take();
        drop(dial);
    }
}

impl<D: Dialer> Shared<D> {
    /// Dials, and puts what comes of it into the entry. It holds the pool weakly: the pool owns the task.
    pub(super) async fn dial(
        pool: Weak<Self>,
        id: EndpointId,
        mut dialling: Dialling<D::Connection>,
    ) {
        dialling.waits_for_slot(true);
        let slot = Self::slot(&pool).await;
        dialling.waits_for_slot(false);
        let Some(Ok(slot)) = slot else {
            if let Some(Err(full)) = slot {
                dialling.crowded(full);
            }
            return;
        };
        let Some((limit, handle)) = pool
            .upgrade()
            .map(|pool| (pool.config.dial_timeout, pool.handle_of(id)))
        else {
            return;
        };
        let dialled = match timeout(limit, Self::attempts(&pool, id, &dialling)).await {
            Ok(Some(dialled)) => dialled,
            Ok(None) => return,
            Err(_) => {
                let message = format!("the peer did not answer within {limit:?}");
                Err(Error::new(ErrorKind::DialTimeout, message))
            }
        };
        match dialled {
            // The silent connection has been heard meanwhile.
            Ok(connection) if !dialling.is_needed() => {
                connection.close();
                dialling.end(Ok(()));
            }
            Ok(connection) => {
                dialling.succeeded(connection.clone(), slot);
                connection.installed(handle);
            }
            Err(error) => {
                // A caller that hears of the failure finds the slot free.
                drop(slot);
                dialling.failed(error);
            }
        }
    }

    /// Attempts to reach the peer, a further one every [`ANOTHER_ATTEMPT`] while somebody waits. The first that ends decides. Nothing, once the pool is gone.
    async fn attempts(
        pool: &Weak<Self>,
        id: EndpointId,
        dialling: &Dialling<D::Connection>,
    ) -> Option<Result<Arc<D::Connection>, Error>> {
        let mut under_way = FuturesUnordered::new();
        loop {
            let pool = pool.upgrade()?;
            let repeats = || dialling.is_waited_for() && pool.may_repeat(Instant::now());
            if under_way.is_empty() || repeats() {
                let uses = Uses::new(pool.freed.clone());
                let early = Announce::new(&dialling.entry);
                let attempt = pool.dialer.dial(id, uses, early);
                // A panic must not leave the waiting callers without an answer.
                under_way.push(AssertUnwindSafe(attempt).catch_unwind());
            }
            drop(pool);
            tokio::select! {
                Some(ended) = under_way.next() => return Some(ended.unwrap_or_else(|_| {
                    Err(Error::new(ErrorKind::Internal, "the dial panicked"))
                })),
                () = sleep(ANOTHER_ATTEMPT) => {}
            }
        }
    }

    /// A place for one more connection, taken from the least recently used connection without a user where there is none; waited for as long as a dial
    /// may take. Nothing, once the pool is gone.
    async fn slot(pool: &Weak<Self>) -> Option<Result<OwnedSemaphorePermit, Error>> {
        let (slots, freed, limit, full) = {
            let pool = pool.upgrade()?;
            let full = pool_full(pool.config.max_connections);
            let limit = pool.config.dial_timeout;
            (pool.slots.clone(), pool.freed.clone(), limit, full)
        };
        let slot = async {
            let mut slot = pin!(slots.acquire_owned());
            // In the queue before the first look around: a place that this dial frees goes to the first in the queue, and to no dial that comes later.
            if let Some(slot) = slot.as_mut().now_or_never() {
                return slot.ok();
            }
            let _waiting = Waiting::new(&freed);
            loop {
                let mut unused = pin!(freed.notify.notified());
                // Registered before the look, so that a connection that falls unused in between is not missed.
                unused.as_mut().enable();
                pool.upgrade()?.evict_one();
                tokio::select! {
                    slot = &mut slot => return slot.ok(),
                    () = unused => {}
                }
            }
        };
        match timeout(limit, slot).await {
            Ok(slot) => slot.map(Ok),
            Err(_) => Some(Err(full)),
        }
    }
}

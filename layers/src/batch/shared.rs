//! What the clones of a batching service share with their worker and their callers: one mutex, never held across an await or while foreign
//! code runs.

use std::sync::Arc;

use tokio::{
    sync::{Notify, OwnedSemaphorePermit, oneshot},
    time::Instant,
};

use super::{BatchConfig, error::BatchError, pending::Pending};
use crate::mutex::Mutex;

pub(super) type Answer<R> = Result<R, BatchError>;

/// An item, its caller, and its leave to wait.
pub(super) struct Waiting<T, R> {
    pub(super) item: T,
    pub(super) caller: oneshot::Sender<Answer<R>>,
    pub(super) permit: OwnedSemaphorePermit,
}

pub(super) struct Shared<T, R> {
    pub(super) config: BatchConfig,
    state: Mutex<State<T, R>>,
    /// Wakes the worker, the only one that waits here.
    pub(super) changed: Notify,
    pub(super) meter: super::meter::Meter,
}

struct State<T, R> {
    pending: Pending<Waiting<T, R>>,
    running: bool,
    flight: Option<Flight>,
}

/// The batch in flight: its numbers from first to last, and how many of its callers are there.
struct Flight {
    first: u64,
    last: u64,
    callers: usize,
}

/// What the worker does next.
pub(super) enum Step {
    Done,
    /// Waits for company until then.
    Gather(Instant),
    Send,
}

impl<T, R> Shared<T, R> {
    pub(super) fn new(config: BatchConfig) -> Self {
        Self {
            state: Mutex::new(State {
                pending: Pending::new(config),
                running: false,
                flight: None,
            }),
            config,
            changed: Notify::new(),
            meter: super::meter::Meter::new(),
        }
    }

    fn with<U>(&self, change: impl FnOnce(&mut State<T, R>) -> U) -> U {
        change(&mut self.state.lock())
    }

    /// Adds an item. Its number, and whether the caller of this has to start the worker.
    pub(super) fn push(&self, bytes: usize, waiting: Waiting<T, R>) -> (u64, bool) {
        let now = Instant::now();
        let (seq, start, filled) = self.with(|state| {
            let was_full = state.pending.is_full();
            let seq = state.pending.push(now, bytes, waiting);
            let start = !std::mem::replace(&mut state.running, true);
            (seq, start, state.pending.is_full() && !was_full)
        });
        if filled && !start {
            self.changed.notify_one();
        }
        (seq, start)
    }

    pub(super) fn step(&self) -> Step {
        let window = !self.config.window.is_zero();
        self.with(|state| {
            let Some(due) = state.pending.due() else {
                state.running = false;
                return Step::Done;
            };
            if window && !state.pending.is_full() && Instant::now() < due {
                return Step::Gather(due);
            }
            Step::Send
        })
    }

    /// Takes the next batch, which is in flight then.
    pub(super) fn take(&self) -> Vec<Waiting<T, R>> {
        let batch = self.with(|state| {
            let batch = state.pending.take();
            state.flight = match (batch.first(), batch.last()) {
                (Some((first, _)), Some((last, _))) => Some(Flight {
                    first: *first,
                    last: *last,
                    callers: batch.len(),
                }),
                _ => None,
            };
            batch
        });
        batch.into_iter().map(|(_, waiting)| waiting).collect()
    }

    /// Whether all callers of the batch in flight have left.
    pub(super) fn is_abandoned(&self) -> bool {
        self.with(|state| {
            let flight = state.flight.as_ref();
            flight.is_some_and(|flight| flight.callers == 0)
        })
    }

    pub(super) fn landed(&self) {
        self.with(|state| state.flight = None);
    }

    /// The worker has ended before its time, or has not come to be.
    pub(super) fn stopped(&self) {
        let left = self.with(|state| {
            state.running = false;
            state.flight = None;
            let mut left = Vec::new();
            while !state.pending.is_empty() {
                left.append(&mut state.pending.take());
            }
            left
        });
        for (_, waiting) in left {
            // Whoever has left needs no answer.
            let _ = waiting.caller.send(Err(BatchError::stopped(false)));
        }
    }
}

/// A caller's hold on its item: dropped with the caller's future, it takes the item out if it still waits.
pub(super) struct Place<T, R> {
    pub(super) shared: Arc<Shared<T, R>>,
    pub(super) seq: u64,
}

impl<T, R> Drop for Place<T, R> {
    fn drop(&mut self) {
        let (left, wake) = self.shared.with(|state| {
            let left = state.pending.remove(self.seq);
            let wake = match &mut state.flight {
                _ if left.is_some() => state.pending.is_empty(),
                Some(flight) if (flight.first..=flight.last).contains(&self.seq) => {
                    flight.callers = flight.callers.saturating_sub(1);
                    flight.callers == 0
                }
                _ => false,
            };
            (left, wake)
        });
        drop(left);
        if wake {
            self.shared.changed.notify_one();
        }
    }
}

//! What the clones of a batching service share with their worker and their callers: one mutex, never held across an await or while foreign
//! code runs.

use std::sync::{Arc, LazyLock};

use tokio::{
    sync::{Notify, OwnedSemaphorePermit, oneshot},
    time::Instant,
};

use super::{BatchConfig, error::BatchError, meter::Meter, pending::Pending};
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
    pub(super) meter: LazyLock<Meter>,
}

struct State<T, R> {
    pending: Pending<Waiting<T, R>>,
    running: bool,
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
            }),
            config,
            changed: Notify::new(),
            meter: Meter::new(),
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

    /// Takes the next batch.
    pub(super) fn take(&self) -> Vec<Waiting<T, R>> {
        self.with(|state| state.pending.take())
    }

    /// The worker has ended before its time, or has not come to be.
    pub(super) fn stopped(&self) {
        let left = self.with(|state| {
            state.running = false;
            let mut left = Vec::new();
            while !state.pending.is_empty() {
                left.append(&mut state.pending.take());
            }
            left
        });
        for waiting in left {
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
        let (left, is_empty) = self.shared.with(|state| {
            let left = state.pending.remove(self.seq);
            (left, state.pending.is_empty())
        });
        if left.is_some() && is_empty {
            self.shared.changed.notify_one();
        }
    }
}

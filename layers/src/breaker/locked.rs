//! The gate, locked, and what is told of it once it is not.

use std::{
    ops::{Deref, DerefMut},
    sync::atomic::{AtomicU64, Ordering},
};

use tokio::sync::watch;

use super::{
    gate::{Held, Phase},
    inner::Inner,
    meter::Meter,
    state::CircuitState,
};

/// Who is told of a change: watchers and the metrics' recorder, which are foreign code.
pub(super) struct Listeners {
    changes: watch::Sender<CircuitState>,
    /// The number of the change that the watchers see.
    seen: AtomicU64,
    meter: Meter,
}

impl Listeners {
    pub(super) fn new(transport: &'static str) -> Self {
        Self {
            changes: watch::Sender::new(CircuitState::Closed),
            seen: AtomicU64::new(0),
            meter: Meter::new(transport),
        }
    }

    pub(super) fn changes(&self) -> &watch::Sender<CircuitState> {
        &self.changes
    }

    fn tell(&self, from: &CircuitState, to: CircuitState, number: u64) {
        self.meter.changed(from, &to);
        self.changes.send_if_modified(|now| {
            // Two who change it at once may come here in either order.
            let newer = self.seen.fetch_max(number, Ordering::Relaxed) < number;
            if newer {
                *now = to;
            }
            newer
        });
    }

    pub(super) fn gone(&self, state: &CircuitState) {
        self.meter.gone(state);
    }
}

/// The gate, locked. When it is dropped a change of state is told, after the lock is released and before those who wait are woken.
pub(super) struct Locked<'a> {
    held: Held<'a, Inner>,
    told: &'a Listeners,
}

impl<'a> Locked<'a> {
    pub(super) fn new(held: Held<'a, Inner>, told: &'a Listeners) -> Self {
        Self { held, told }
    }

    pub(super) fn state(&self) -> CircuitState {
        let held = &self.held;
        match (held.word().phase(), &held.reason, held.until) {
            (Phase::ForcedOpen, ..) => CircuitState::ForcedOpen,
            (Phase::ForcedClosed, ..) => CircuitState::ForcedClosed,
            (Phase::Open, Some(reason), Some(until)) => CircuitState::Open {
                until,
                reason: reason.clone(),
            },
            (Phase::Free | Phase::Taken, Some(reason), _) => CircuitState::HalfOpen {
                reason: reason.clone(),
            },
            // What is not closed has a reason, and what is open an end.
            _ => CircuitState::Closed,
        }
    }
}

impl<'a> Deref for Locked<'a> {
    type Target = Held<'a, Inner>;

    fn deref(&self) -> &Held<'a, Inner> {
        &self.held
    }
}

impl<'a> DerefMut for Locked<'a> {
    fn deref_mut(&mut self) -> &mut Held<'a, Inner> {
        &mut self.held
    }
}

impl Drop for Locked<'_> {
    fn drop(&mut self) {
        let state = self.state();
        if self.held.told != state {
            let from = std::mem::replace(&mut self.held.told, state.clone());
            self.held.changes += 1;
            let number = self.held.changes;
            self.held.unlock();
            self.told.tell(&from, state, number);
        }
    }
}

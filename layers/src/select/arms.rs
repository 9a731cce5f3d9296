//! How both arms stand, shared by all who look.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU8, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, watch},
    time::Instant,
};

use super::{
    Arm,
    arm_health::{ArmHealth, ArmState, Trust},
};

/// The state of a selection: see [`SelectHandle::subscribe`](super::SelectHandle::subscribe).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SelectState {
    /// The number of policies so far: 1 for the first.
    pub generation: u64,
    /// The state of the first arm.
    pub first: ArmState,
    /// The state of the second arm.
    pub second: ArmState,
}

impl SelectState {
    /// The state of `arm`.
    pub fn arm(&self, arm: Arm) -> ArmState {
        match arm {
            Arm::First => self.first,
            Arm::Second => self.second,
        }
    }
}

/// What is known of the arms, for a look that costs a load: which are not simply ready, and of which the task will tell.
#[derive(Clone, Copy)]
pub(super) struct Word(u8);

impl Word {
    const WATCHED: u8 = 2;

    /// Away, or returning.
    #[inline]
    pub(super) fn is_troubled(self, arm: Arm) -> bool {
        self.0 & arm.bit() != 0
    }

    /// Away, and the task waits for it.
    #[inline]
    pub(super) fn is_watched(self, arm: Arm) -> bool {
        self.0 & arm.bit() << Self::WATCHED != 0
    }

    pub(super) fn is_any_watched(self) -> bool {
        self.0 >> Self::WATCHED != 0
    }
}

pub(super) struct Arms {
    /// Written under the lock only.
    word: AtomicU8,
    inside: Mutex<Inside>,
    state: watch::Sender<SelectState>,
    /// Wakes the task: there is another arm to wait for.
    pub(super) more: Notify,
}

#[derive(Clone, Copy)]
struct Inside {
    health: [ArmHealth; 2],
    watched: u8,
}

impl Inside {
    fn of(&mut self, arm: Arm) -> &mut ArmHealth {
        &mut self.health[arm.index()]
    }
}

impl Arms {
    pub(super) fn new() -> Self {
        Self {
            word: AtomicU8::new(0),
            inside: Mutex::new(Inside {
                health: [ArmHealth::new(); 2],
                watched: 0,
            }),
            state: watch::Sender::new(SelectState {
                generation: 1,
                first: ArmState::Ready,
                second: ArmState::Ready,
            }),
            more: Notify::new(),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Inside> {
        self.inside.lock().unwrap_or_else(PoisonError::into_inner)
    }

    #[inline]
    pub(super) fn word(&self) -> Word {
        Word(self.word.load(Ordering::Acquire))
    }

    /// Changes how an arm stands, and tells of it.
    fn change<R>(&self, arm: Arm, change: impl FnOnce(&mut ArmHealth) -> R) -> R {
        let mut inside = self.lock();
        let before = inside.of(arm).state();
        let result = change(inside.of(arm));
        let after = inside.of(arm).state();
        if inside.of(arm).away_since().is_none() && inside.watched & arm.bit() != 0 {
            inside.watched &= !arm.bit();
            // It may have been a caller who found out; the task need not wait any longer.
            self.more.notify_one();
        }
        self.settle(&inside);
        // Under the lock, so that who is told last is told the latest.
        if before != after {
            self.state.send_modify(|state| match arm {
                Arm::First => state.first = after,
                Arm::Second => state.second = after,
            });
        }
        drop(inside);
        let name = |state| match state {
            ArmState::Ready => "ready",
            ArmState::Away { .. } => "away",
            ArmState::Returning { .. } => "returning",
        };
        if name(before) != name(after) {
            tracing::info!(target: "tower_iroh::select", %arm, from = name(before), to = name(after), "an arm stands otherwise");
        }
        result
    }

    fn settle(&self, inside: &Inside) {
        let troubled =
            Arm::ALL
                .into_iter()
                .fold(0, |bits, arm| match inside.health[arm.index()].state() {
                    ArmState::Ready => bits,
                    _ => bits | arm.bit(),
                });
        let word = troubled | inside.watched << Word::WATCHED;
        self.word.store(word, Ordering::Release);
    }

    pub(super) fn not_ready(&self, arm: Arm, now: Instant) {
        self.change(arm, |health| health.not_ready(now));
    }

    pub(super) fn ready(&self, arm: Arm, now: Instant) {
        self.change(arm, |health| health.ready(now));
    }

    pub(super) fn divert(&self, arm: Arm) {
        self.change(arm, ArmHealth::divert);
    }

    /// One load where the arm is simply ready.
    #[inline]
    pub(super) fn failed(&self, arm: Arm, now: Instant) {
        if self.word().is_troubled(arm) {
            self.change(arm, |health| health.failed(now));
        }
    }

    pub(super) fn trust(&self, arm: Arm, now: Instant, dwell: Duration, every: Duration) -> Trust {
        self.change(arm, |health| health.trust(now, dwell, every))
    }

    /// Whoever has been back for the dwell is simply ready.
    pub(super) fn settle_returned(&self, now: Instant, dwell: Duration) {
        for arm in Arm::ALL {
            if self.word().is_troubled(arm) {
                self.change(arm, |health| health.settle(now, dwell));
            }
        }
    }

    pub(super) fn away_since(&self, arm: Arm) -> Option<Instant> {
        self.lock().of(arm).away_since()
    }

    /// The task waits for those that are away, if there are any. Nobody else has to look at them.
    pub(super) fn watch(&self) -> bool {
        let mut inside = self.lock();
        inside.watched = Arm::ALL.into_iter().fold(0, |bits, arm| {
            match inside.health[arm.index()].away_since() {
                Some(_) => bits | arm.bit(),
                None => bits,
            }
        });
        self.settle(&inside);
        inside.watched != 0
    }

    /// Nobody waits for any: who calls has to look.
    pub(super) fn unwatch(&self) {
        let mut inside = self.lock();
        inside.watched = 0;
        self.settle(&inside);
    }

    pub(super) fn state(&self) -> &watch::Sender<SelectState> {
        &self.state
    }
}

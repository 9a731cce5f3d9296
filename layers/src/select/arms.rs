//! How both arms stand, shared by all who look.

use std::{
    sync::atomic::{AtomicU8, Ordering},
    time::Duration,
};

use tokio::{sync::watch, time::Instant};

use super::{
    Arm,
    arm_health::{ArmHealth, ArmState, Trust},
};
use crate::{clock, mutex::Mutex, watcher::Watcher};

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

/// What is known of the arms, for a look that costs a load: which are not simply ready, and of which a task will tell.
#[derive(Clone, Copy)]
pub(super) struct Word(u8);

impl Word {
    const WATCHED: u8 = 2;
    const NEW: u8 = 4;

    /// Away, or returning.
    #[inline]
    pub(super) fn is_troubled(self, arm: Arm) -> bool {
        self.0 & arm.bit() != 0
    }

    /// Troubled, or never seen ready: there is something to learn from a look that finds it ready.
    #[inline]
    fn is_doubtful(self, arm: Arm) -> bool {
        self.0 & (arm.bit() | arm.bit() << Self::NEW) != 0
    }

    /// Away, and a task waits for it.
    #[inline]
    pub(super) fn is_watched(self, arm: Arm) -> bool {
        self.0 & arm.bit() << Self::WATCHED != 0
    }
}

pub(super) struct Arms {
    /// Written under the lock only.
    word: AtomicU8,
    inside: Mutex<[Inside; 2]>,
    state: watch::Sender<SelectState>,
}

struct Inside {
    health: ArmHealth,
    /// Whether a task waits for the arm; it may be about to begin.
    is_watched: bool,
    /// How many watches there were: a task of an earlier one has no say.
    watches: u64,
    task: Option<Watcher>,
}

impl Inside {
    /// The task, to be dropped when the lock is released.
    fn unwatch(&mut self) -> Option<Watcher> {
        self.is_watched = false;
        self.task.take()
    }
}

fn word(inside: &[Inside; 2]) -> u8 {
    Arm::ALL.into_iter().fold(0, |word, arm| {
        let own = &inside[arm.index()];
        let troubled = u8::from(own.health.state() != ArmState::Ready);
        let watched = u8::from(own.is_watched) << Word::WATCHED;
        let new = u8::from(own.health.is_new()) << Word::NEW;
        word | (arm.bit() * (troubled | watched | new))
    })
}

impl Arms {
    pub(super) fn new() -> Self {
        let inside = [(); 2].map(|()| Inside {
            health: ArmHealth::new(),
            is_watched: false,
            watches: 0,
            task: None,
        });
        Self {
            word: AtomicU8::new(word(&inside)),
            inside: Mutex::new(inside),
            state: watch::Sender::new(SelectState {
                generation: 1,
                first: ArmState::Ready,
                second: ArmState::Ready,
            }),
        }
    }

    #[inline]
    pub(super) fn word(&self) -> Word {
        Word(self.word.load(Ordering::Acquire))
    }

    /// Changes how an arm stands, and tells of it.
    fn change<R>(&self, arm: Arm, change: impl FnOnce(&mut Inside) -> R) -> R {
        let mut inside = self.inside.lock();
        let own = &mut inside[arm.index()];
        let before = own.health.state();
        let result = change(own);
        let after = own.health.state();
        // It may have been a caller who found out; the task need not wait any longer.
        let task = match own.health.away_since() {
            None => own.unwatch(),
            Some(_) => None,
        };
        self.word.store(word(&inside), Ordering::Release);
        // Under the lock, so that who is told last is told the latest.
        if before != after {
            self.state.send_modify(|state| match arm {
                Arm::First => state.first = after,
                Arm::Second => state.second = after,
            });
        }
        drop(inside);
        drop(task);
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

    /// An arm is not ready. With `watch`, returns the number of the watch that begins, unless a task waits for it already.
    pub(super) fn not_ready(&self, arm: Arm, now: Instant, watch: bool) -> Option<u64> {
        self.change(arm, |own| {
            own.health.not_ready(now);
            let begins = watch && !own.is_watched;
            own.is_watched |= begins;
            own.watches += u64::from(begins);
            begins.then_some(own.watches)
        })
    }

    /// The task of this watch runs. It ends at once if the arm is no longer away.
    pub(super) fn watch_began(&self, arm: Arm, number: u64, task: Watcher) {
        let unneeded = self.change(arm, |own| match own.is_watched && own.watches == number {
            true => own.task.replace(task),
            false => Some(task),
        });
        drop(unneeded);
    }

    /// The task of this watch has ended. Either the arm is ready, or the next call has to poll it.
    pub(super) fn watch_ended(&self, arm: Arm, number: u64, is_ready: bool) {
        let task = self.change(arm, |own| {
            if own.watches != number {
                return None;
            }
            if is_ready {
                own.health.ready(Instant::now());
            }
            own.unwatch()
        });
        drop(task);
    }

    pub(super) fn ready(&self, arm: Arm, now: Instant) {
        self.change(arm, |own| own.health.ready(now));
    }

    /// A caller found it ready. One load where that is known.
    pub(super) fn found_ready(&self, arm: Arm) {
        if self.word().is_doubtful(arm) {
            self.ready(arm, clock::now());
        }
    }

    /// A call went elsewhere, because the arm was not ready. Returns whether that counts against it.
    pub(super) fn divert(&self, arm: Arm, now: Instant) -> bool {
        self.change(arm, |own| own.health.divert(now))
    }

    /// One load where the arm is simply ready.
    #[inline]
    pub(super) fn failed(&self, arm: Arm, now: Instant) {
        if self.word().is_troubled(arm) {
            self.change(arm, |own| own.health.failed(now));
        }
    }

    pub(super) fn trust(&self, arm: Arm, now: Instant, dwell: Duration, every: Duration) -> Trust {
        self.change(arm, |own| own.health.trust(now, dwell, every))
    }

    /// Whoever has been back for the dwell is simply ready.
    pub(super) fn settle_returned(&self, now: Instant, dwell: Duration) {
        for arm in Arm::ALL {
            if self.word().is_troubled(arm) {
                self.change(arm, |own| own.health.settle(now, dwell));
            }
        }
    }

    pub(super) fn away_since(&self, arm: Arm) -> Option<Instant> {
        self.inside.lock()[arm.index()].health.away_since()
    }

    /// No task waits for any: who calls has to look.
    pub(super) fn unwatch(&self) {
        for arm in Arm::ALL {
            drop(self.change(arm, Inside::unwatch));
        }
    }

    pub(super) fn state(&self) -> &watch::Sender<SelectState> {
        &self.state
    }
}

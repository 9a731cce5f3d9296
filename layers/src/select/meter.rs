//! What the selection counts: for its handle, and as metrics.

use std::sync::{
    OnceLock,
    atomic::{AtomicU64, Ordering},
};

use super::{Arm, SelectReason, Selected};
use crate::meter::{Counter, counter};

/// How many calls went over each arm, and why. Each is counted when it is decided, so a call that fell back after it had failed unsent
/// counts twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Decisions([[u64; SelectReason::ALL.len()]; 2]);

impl Decisions {
    /// How many went over `arm` for this reason.
    pub fn count(&self, arm: Arm, reason: SelectReason) -> u64 {
        self.0[arm.index()][reason.index()]
    }

    /// How many went over `arm`.
    pub fn arm(&self, arm: Arm) -> u64 {
        self.0[arm.index()].iter().sum()
    }

    /// How many went over an arm that was not their first choice.
    pub fn fallbacks(&self) -> u64 {
        let reasons = SelectReason::ALL
            .into_iter()
            .filter(|reason| reason.is_fallback());
        let each = reasons.flat_map(|reason| Arm::ALL.map(|arm| self.count(arm, reason)));
        each.sum()
    }
}

type PerArmAndReason<T> = [[T; SelectReason::ALL.len()]; 2];

pub(super) struct Meter {
    counts: PerArmAndReason<AtomicU64>,
    /// Looked up one by one: most reasons never come up.
    decisions: PerArmAndReason<OnceLock<Counter>>,
    fallbacks: PerArmAndReason<OnceLock<Counter>>,
}

impl Meter {
    pub(super) fn new() -> Self {
        Self {
            counts: Default::default(),
            decisions: Default::default(),
            fallbacks: Default::default(),
        }
    }

    #[inline]
    pub(super) fn decided(&self, selected: Selected, other: &'static str) {
        let Selected { arm, name, reason } = selected;
        let (i, j) = (arm.index(), reason.index());
        self.counts[i][j].fetch_add(1, Ordering::Relaxed);
        let decisions = self.decisions[i][j].get_or_init(|| {
            let labels = [("arm", name), ("reason", reason.as_str())];
            counter("tower_iroh_select_decisions_total", &labels)
        });
        decisions.increment(1);
        if reason.is_fallback() {
            let fallbacks = self.fallbacks[i][j].get_or_init(|| {
                let labels = [("from", other), ("to", name), ("reason", reason.as_str())];
                counter("tower_iroh_select_fallbacks_total", &labels)
            });
            fallbacks.increment(1);
        }
    }

    pub(super) fn read(&self) -> Decisions {
        let of = |counts: &[AtomicU64; SelectReason::ALL.len()]| {
            std::array::from_fn(|n| counts[n].load(Ordering::Relaxed))
        };
        Decisions([of(&self.counts[0]), of(&self.counts[1])])
    }

    pub(super) fn switched(&self, to: &'static str, why: &'static str) {
        let labels = [("to", to), ("reason", why)];
        counter("tower_iroh_select_switches_total", &labels).increment(1);
    }

    pub(super) fn failed_fast(&self, arm: &'static str) {
        counter("tower_iroh_select_not_ready_total", &[("arm", arm)]).increment(1);
    }
}

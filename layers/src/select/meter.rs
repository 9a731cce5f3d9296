//! The room's counts: its own, and the metrics where the feature is on.

use std::sync::atomic::{AtomicU64, Ordering};

use super::{Arm, Reason, Selected};

/// How many calls went over which arm, and why: each is counted when it is decided, so one that fell back after it had failed unsent is
/// counted twice.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Decisions([[u64; Reason::ALL.len()]; 2]);

impl Decisions {
    /// How many went over `arm` for this reason.
    pub fn count(&self, arm: Arm, reason: Reason) -> u64 {
        self.0[arm.index()][reason.index()]
    }

    /// How many went over `arm`.
    pub fn arm(&self, arm: Arm) -> u64 {
        self.0[arm.index()].iter().sum()
    }

    /// How many went over an arm that did not come first for them.
    pub fn fallbacks(&self) -> u64 {
        let reasons = Reason::ALL
            .into_iter()
            .filter(|reason| reason.is_fallback());
        let each = reasons.flat_map(|reason| Arm::ALL.map(|arm| self.count(arm, reason)));
        each.sum()
    }
}

pub(super) struct Meter {
    counts: [[AtomicU64; Reason::ALL.len()]; 2],
    #[cfg(feature = "metrics")]
    metrics: on::Metrics,
}

impl Meter {
    pub(super) fn new() -> Self {
        Self {
            counts: Default::default(),
            #[cfg(feature = "metrics")]
            metrics: on::Metrics::default(),
        }
    }

    #[inline]
    pub(super) fn decided(&self, selected: Selected) {
        let Selected { arm, reason } = selected;
        self.counts[arm.index()][reason.index()].fetch_add(1, Ordering::Relaxed);
        #[cfg(feature = "metrics")]
        self.metrics.decided(selected);
    }

    pub(super) fn read(&self) -> Decisions {
        let of = |counts: &[AtomicU64; Reason::ALL.len()]| {
            std::array::from_fn(|n| counts[n].load(Ordering::Relaxed))
        };
        Decisions([of(&self.counts[0]), of(&self.counts[1])])
    }

    pub(super) fn switched(&self, to: Arm, why: &'static str) {
        #[cfg(feature = "metrics")]
        metrics::counter!("tower_iroh_select_switches_total", "to" => to.as_str(), "reason" => why)
            .increment(1);
        #[cfg(not(feature = "metrics"))]
        let _ = (to, why);
    }

    pub(super) fn failed_fast(&self, arm: Arm) {
        #[cfg(feature = "metrics")]
        metrics::counter!("tower_iroh_select_not_ready_total", "arm" => arm.as_str()).increment(1);
        #[cfg(not(feature = "metrics"))]
        let _ = arm;
    }
}

#[cfg(feature = "metrics")]
mod on {
    use std::sync::OnceLock;

    use metrics::{Counter, counter};

    use super::{Arm, Reason, Selected};

    /// Asked for when they are needed first: by then the recorder is there.
    #[derive(Default)]
    pub(super) struct Metrics {
        decisions: [[OnceLock<Counter>; Reason::ALL.len()]; 2],
        fallbacks: [[OnceLock<Counter>; Reason::ALL.len()]; 2],
    }

    fn of(
        counters: &[[OnceLock<Counter>; Reason::ALL.len()]; 2],
        arm: Arm,
        reason: Reason,
    ) -> &OnceLock<Counter> {
        &counters[arm.index()][reason.index()]
    }

    impl Metrics {
        #[inline]
        pub(super) fn decided(&self, Selected { arm, reason }: Selected) {
            let decisions = of(&self.decisions, arm, reason).get_or_init(|| {
                counter!("tower_iroh_select_decisions_total", "arm" => arm.as_str(), "reason" => reason.as_str())
            });
            decisions.increment(1);
            if reason.is_fallback() {
                let fallbacks = of(&self.fallbacks, arm, reason).get_or_init(|| {
                    let from = arm.other().as_str();
                    counter!(
                        "tower_iroh_select_fallbacks_total",
                        "from" => from, "to" => arm.as_str(), "reason" => reason.as_str()
                    )
                });
                fallbacks.increment(1);
            }
        }
    }
}

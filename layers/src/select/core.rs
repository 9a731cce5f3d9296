//! What all parts of a selection share but its policy.

use std::sync::{
    OnceLock,
    atomic::{AtomicU64, Ordering},
};

use tokio::time::Instant;
use tracing::{Span, level_filters::LevelFilter};

use super::{
    Arm, NotReady, SelectConfig, SelectReason, Selected, StickyKey, arms::Arms, meter::Meter,
};

pub(super) struct Core {
    pub(super) config: SelectConfig,
    pub(super) arms: Arms,
    pub(super) meter: Meter,
    pub(super) names: OnceLock<[&'static str; 2]>,
    /// For the keys of calls that have none.
    seed: u64,
    calls: AtomicU64,
}

impl Core {
    pub(super) fn new(config: SelectConfig) -> Self {
        Self {
            config,
            arms: Arms::new(),
            meter: Meter::new(),
            names: OnceLock::new(),
            seed: rand::random(),
            calls: AtomicU64::new(0),
        }
    }

    #[inline]
    pub(super) fn name(&self, arm: Arm) -> &'static str {
        match self.names.get() {
            Some(names) => names[arm.index()],
            None => arm.as_str(),
        }
    }

    #[inline]
    pub(super) fn selected(&self, arm: Arm, reason: SelectReason) -> Selected {
        let name = self.name(arm);
        Selected { arm, name, reason }
    }

    #[inline]
    pub(super) fn key_of_call(&self) -> StickyKey {
        match self.config.sticky_key {
            Some(key) => key,
            None => StickyKey::of_call(self.seed, self.calls.fetch_add(1, Ordering::Relaxed)),
        }
    }

    /// A call goes over an arm: it is counted, and its span says so.
    #[inline]
    pub(super) fn decided(&self, selected: Selected) {
        self.meter
            .decided(selected, self.name(selected.arm.other()));
        if LevelFilter::current() >= LevelFilter::INFO {
            let span = Span::current();
            span.record("tower_iroh.arm", selected.name);
            span.record("tower_iroh.select.reason", selected.reason.as_str());
        }
    }

    /// When a call that waits for these has waited long enough: an arm's wait begins when it was found not ready, not with the call.
    pub(super) fn until(&self, arm: Arm, either: bool, now: Instant) -> Option<Instant> {
        let wait = self.config.wait?;
        let since = |arm| self.arms.away_since(arm).unwrap_or(now);
        let since = match either {
            true => since(arm).max(since(arm.other())),
            false => since(arm),
        };
        Some(since + wait)
    }

    /// The error of a call that has waited long enough.
    pub(super) fn not_ready(&self, arm: Arm, either: bool, now: Instant) -> NotReady {
        self.meter.failed_fast(self.name(arm));
        let since = self.arms.away_since(arm).unwrap_or(now);
        let waited = now.saturating_duration_since(since);
        let names = [arm, arm.other()].map(|arm| self.name(arm));
        NotReady::new(
            arm,
            names,
            either,
            waited,
            self.config.why.as_ref().map(|why| &*why.0),
        )
    }
}

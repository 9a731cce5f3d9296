//! What a handle and the services that it was given to share.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicU8, AtomicU64, Ordering},
};

use arc_swap::ArcSwap;
use tokio::time::Instant;
use tracing::{Span, level_filters::LevelFilter};

use super::{
    Arm, Choice, NotReady, Policy, SelectConfig, Selected, StickyKey, arms::Arms, group::Active,
    meter::Meter,
};
use crate::ConfigError;

pub(super) struct Shared {
    pub(super) config: SelectConfig,
    pub(super) active: ArcSwap<Active>,
    /// The arms that the policy may use.
    used: AtomicU8,
    swapping: Mutex<()>,
    pub(super) arms: Arc<Arms>,
    pub(super) meter: Meter,
    /// For the keys of calls that have none.
    seed: u64,
    calls: AtomicU64,
}

impl Shared {
    pub(super) fn new(policy: Policy, config: SelectConfig) -> Self {
        let arms = Arc::new(Arms::new());
        Self {
            config,
            used: AtomicU8::new(policy.arms()),
            active: ArcSwap::from_pointee(Active::new(policy, None, &arms)),
            swapping: Mutex::new(()),
            arms,
            meter: Meter::new(),
            seed: rand::random(),
            calls: AtomicU64::new(0),
        }
    }

    #[inline]
    pub(super) fn uses(&self, arm: Arm) -> bool {
        self.used.load(Ordering::Relaxed) & arm.bit() != 0
    }

    #[inline]
    pub(super) fn key_of_call(&self) -> StickyKey {
        match self.config.sticky_key {
            Some(key) => key,
            None => StickyKey::of_call(self.seed, self.calls.fetch_add(1, Ordering::Relaxed)),
        }
    }

    /// Exchanges the policy for what `change` makes of it.
    pub(super) fn swap(
        &self,
        change: impl FnOnce(&Policy) -> Result<Policy, ConfigError>,
    ) -> Result<Arc<Policy>, ConfigError> {
        let swapping = self.swapping.lock();
        let _swapping = swapping.unwrap_or_else(PoisonError::into_inner);
        let before = self.active.load_full();
        let policy = change(&before.policy)?;
        self.used.store(policy.arms(), Ordering::Relaxed);
        for canary in policy.canaries() {
            share(canary.name(), canary.share());
        }
        let next = Active::new(policy, Some(&before), &self.arms);
        self.active.store(Arc::new(next));
        self.arms.state().send_modify(|state| state.generation += 1);
        Ok(before.policy.clone())
    }

    /// A call goes over an arm: it is counted, and its span says so.
    #[inline]
    pub(super) fn decided(&self, selected: Selected) {
        self.meter.decided(selected);
        if LevelFilter::current() >= LevelFilter::INFO {
            let span = Span::current();
            span.record("tower_iroh.arm", selected.arm.as_str());
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
        self.meter.failed_fast(arm);
        let since = self.arms.away_since(arm).unwrap_or(now);
        let waited = now.saturating_duration_since(since);
        NotReady::new(arm, either, waited, self.config.why.as_deref())
    }

    /// The rule of the canary of this name.
    pub(super) fn canary<R>(
        &self,
        name: &str,
        f: impl FnOnce(&super::Canary, &super::group::Group) -> R,
    ) -> Option<R> {
        let active = self.active.load();
        let found = active
            .groups()
            .find_map(|(rule, group)| match &rule.choice {
                Choice::Canary(canary) if canary.name() == name => Some((canary, group)),
                _ => None,
            });
        found.map(|(canary, group)| f(canary, group))
    }
}

fn share(name: &str, share: u32) {
    #[cfg(feature = "metrics")]
    metrics::gauge!("tower_iroh_select_canary_share", "canary" => name.to_owned())
        .set(f64::from(share) / f64::from(super::Canary::WHOLE));
    #[cfg(not(feature = "metrics"))]
    let _ = (name, share);
}

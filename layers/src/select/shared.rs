//! What a handle and the services that it was given to share.

use std::{
    future::{Future, pending},
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
};

use arc_swap::ArcSwap;

use super::{Arm, Choice, SelectConfig, SelectPolicy, core::Core, group::Active};
use crate::{ConfigError, mutex::Mutex};

/// A wait for another policy.
pub(super) type Changed = Pin<Box<dyn Future<Output = ()> + Send + Sync>>;

pub(super) struct Shared {
    pub(super) core: Arc<Core>,
    pub(super) active: ArcSwap<Active>,
    /// The arms that the policy may use.
    used: AtomicU8,
    /// That of `active` or of the one before it, for a look that costs a load.
    generation: AtomicU64,
    swapping: Mutex<()>,
}

impl Shared {
    pub(super) fn new(policy: SelectPolicy, config: SelectConfig) -> Self {
        let core = Arc::new(Core::new(config));
        Self {
            used: AtomicU8::new(policy.arms()),
            active: ArcSwap::from_pointee(Active::new(policy, None, &core)),
            generation: AtomicU64::new(1),
            swapping: Mutex::new(()),
            core,
        }
    }

    /// The policy in force, for one who has that of an earlier look.
    #[inline]
    pub(super) fn refresh(&self, active: &mut Arc<Active>, seen: &mut u64) {
        let generation = self.generation.load(Ordering::Acquire);
        if generation != *seen {
            // It may be a still later one, which is then loaded again for nothing.
            *active = self.active.load_full();
            *seen = generation;
        }
    }

    /// Which policy is in force, or has just been: whoever looks at it later sees this one or a later one.
    #[inline]
    pub(super) fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// Resolves when a later policy than that is in force.
    #[cold]
    pub(super) fn changed_since(&self, generation: u64) -> Changed {
        let mut state = self.core.arms.state().subscribe();
        Box::pin(async move {
            let later = state.wait_for(|state| state.generation > generation);
            // Where nobody is left who could change it there is nothing to wait for.
            if later.await.map(drop).is_err() {
                pending().await
            }
        })
    }

    #[inline]
    pub(super) fn uses(&self, arm: Arm) -> bool {
        self.used.load(Ordering::Relaxed) & arm.bit() != 0
    }

    /// Exchanges the policy for what `change` makes of it.
    pub(super) fn swap(
        &self,
        change: impl FnOnce(&SelectPolicy) -> Result<SelectPolicy, ConfigError>,
    ) -> Result<Arc<SelectPolicy>, ConfigError> {
        let _swapping = self.swapping.lock();
        let before = self.active.load_full();
        let policy = change(&before.policy)?;
        self.used.store(policy.arms(), Ordering::Relaxed);
        for canary in policy.canaries() {
            share(canary.name(), canary.share());
        }
        let next = Active::new(policy, Some(&before), &self.core);
        self.active.store(Arc::new(next));
        self.generation.fetch_add(1, Ordering::Release);
        self.core
            .arms
            .state()
            .send_modify(|state| state.generation += 1);
        Ok(before.policy.clone())
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

use std::{fmt, sync::Arc};

use tokio::{sync::watch, time::Instant};

use super::{
    Arm, ArmStatistics, Canary, Decisions, SelectConfig, SelectPolicy, SelectState, shared::Shared,
};
use crate::{ConfigError, Methods};

/// The selection's state, and its policy, which may be exchanged while calls are open. One per peer.
///
/// Clones are one handle, and all services that were made with it share its state. It keeps no service alive and needs none.
#[derive(Clone)]
pub struct SelectHandle {
    pub(super) shared: Arc<Shared>,
}

impl SelectHandle {
    /// A handle with its first policy, and the default configuration.
    pub fn new(policy: impl Into<SelectPolicy>) -> Self {
        Self::with_config(policy, SelectConfig::default())
    }

    /// A handle with its first policy.
    pub fn with_config(policy: impl Into<SelectPolicy>, config: SelectConfig) -> Self {
        Self {
            shared: Arc::new(Shared::new(policy.into(), config)),
        }
    }

    /// Names the two arms, for metrics, spans, the response header and errors. Default: `first` and `second`. Names that were set before stay.
    pub fn named(self, names: [&'static str; 2]) -> Self {
        // The first who names them is right.
        let _ = self.shared.core.names.set(names);
        self
    }

    /// The name of an arm.
    pub fn name(&self, arm: Arm) -> &'static str {
        self.shared.core.name(arm)
    }

    /// Puts another policy in force, all of it at once, and returns the one before.
    ///
    /// Decided calls stay on their arm, streams to their end. A rule with the same choice for the same calls as one before keeps its measurements, and so
    /// does a canary of the same name whatever its share.
    pub fn swap(&self, policy: impl Into<SelectPolicy>) -> Arc<SelectPolicy> {
        let policy = policy.into();
        match self.shared.swap(|_| Ok(policy)) {
            Ok(before) => before,
            // Nothing is checked there that could be wrong.
            Err(_) => self.policy(),
        }
    }

    /// Adds the choices of a table of methods to the policy in force, unless it has a table already. Returns whether it did.
    pub fn take_methods(&self, methods: &Methods) -> bool {
        let mut took = false;
        let take = |policy: &SelectPolicy| {
            took = !policy.has_method_rules();
            Ok(match took {
                true => policy.clone().with_methods(methods),
                false => policy.clone(),
            })
        };
        methods.iter().any(|(_, entry)| entry.transport().is_some())
            && self.shared.swap(take).is_ok()
            && took
    }

    /// Changes a canary's share, in basis points, and nothing else.
    ///
    /// # Errors
    /// When the policy has no canary of this name, or the share is above 10,000.
    pub fn set_share(&self, canary: &str, share: u32) -> Result<(), ConfigError> {
        let same = |canary: &Canary, _: &_| canary.share() == share;
        if self.shared.canary(canary, same) == Some(true) {
            return Ok(());
        }
        let change = |policy: &SelectPolicy| policy.clone().with_share(canary, share);
        self.shared.swap(change).map(drop)
    }

    /// The policy in force.
    pub fn policy(&self) -> Arc<SelectPolicy> {
        self.shared.active.load().policy.clone()
    }

    /// The key of all calls without their own.
    #[cfg(feature = "rollout")]
    pub(crate) fn sticky_key(&self) -> Option<super::StickyKey> {
        self.shared.core.config.sticky_key
    }

    /// How many calls went over each arm and why, since the handle was made.
    pub fn decisions(&self) -> Decisions {
        self.shared.core.meter.read()
    }

    /// The results of the calls over `arm`, of all rules, each over its window: 10 s, or the canary's, or the adaptive rule's.
    pub fn statistics(&self, arm: Arm) -> ArmStatistics {
        let now = Instant::now();
        let mut all = ArmStatistics::new();
        for (_, group) in self.shared.active.load().groups() {
            all.merge(&group.read(arm, now));
        }
        all
    }

    /// A canary of the policy in force, and the results of its rule's calls over its window: those in the canary, and those outside. `None` if the policy
    /// has no canary of this name.
    pub fn canary(&self, name: &str) -> Option<CanaryStatistics> {
        let now = Instant::now();
        self.shared.canary(name, |canary, group| CanaryStatistics {
            new: group.read(canary.to(), now),
            old: group.read(canary.to().other(), now),
            longer: [canary.to(), canary.to().other()].map(|arm| group.read_all(arm, now)),
            canary: canary.clone(),
        })
    }

    /// Forgets the measurements of a canary's calls, so that only later calls count.
    pub fn clear_canary(&self, name: &str) {
        self.shared.canary(name, |_, group| group.clear());
    }

    /// Follows the policy's generation and the states of the arms.
    ///
    /// Copy what [`borrow`](watch::Receiver::borrow) returns: while the reference lives, a call that changes an arm's state waits for it.
    pub fn subscribe(&self) -> watch::Receiver<SelectState> {
        self.shared.core.arms.state().subscribe()
    }

    /// The state now. A return is noticed when a call or an [`adaptive`](super::Adaptive) rule reads the arm, so an unused arm may be reported as
    /// returning for longer than the dwell.
    pub fn state(&self) -> SelectState {
        *self.shared.core.arms.state().borrow()
    }
}

/// The results of the calls of a canary's rule.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CanaryStatistics {
    /// The canary itself.
    pub canary: Canary,
    /// Over the new arm, which it tries out.
    pub new: ArmStatistics,
    /// Over the old arm.
    pub old: ArmStatistics,
    /// The new arm and the old one over three windows.
    #[cfg_attr(
        not(feature = "rollout"),
        expect(dead_code, reason = "a rollout compares them")
    )]
    pub(crate) longer: [ArmStatistics; 2],
}

impl fmt::Debug for SelectHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SelectHandle")
            .field("state", &self.state())
            .field("config", &self.shared.core.config)
            .finish_non_exhaustive()
    }
}

use std::{fmt, sync::Arc};

use tokio::{sync::watch, time::Instant};

use super::{
    Arm, ArmStatistics, Canary, Decisions, SelectConfig, SelectPolicy, SelectState, shared::Shared,
};
use crate::{ConfigError, Methods};

/// The selection's state and its policy, to be exchanged while calls are open. One per peer.
///
/// Clones are one handle, and all services that were made with it share its state. It keeps no service alive and needs none to be.
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

    /// Names the two arms, for metrics, spans, the response header and errors. Default: `first` and `second`. Names that were given before stay.
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
    /// Calls that were decided stay where they are, streams to their end. A rule that says the same of the same calls as one before keeps what
    /// it has measured, and so does a canary of the same name whatever its share.
    pub fn swap(&self, policy: impl Into<SelectPolicy>) -> Arc<SelectPolicy> {
        let policy = policy.into();
        match self.shared.swap(|_| Ok(policy)) {
            Ok(before) => before,
            // Nothing is checked there that could be wrong.
            Err(_) => self.policy(),
        }
    }

    /// Puts the choices of a table of methods into the policy in force, unless it has a table already. Returns whether it did.
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

    /// The key of all calls that have none of their own.
    #[cfg(feature = "rollout")]
    pub(crate) fn sticky_key(&self) -> Option<super::StickyKey> {
        self.shared.core.config.sticky_key
    }

    /// How many calls went over which arm and why, since the handle was made.
    pub fn decisions(&self) -> Decisions {
        self.shared.core.meter.read()
    }

    /// What the calls over `arm` were like, of all rules, each over its window: 10 s, or the canary's, or the adaptive rule's.
    pub fn statistics(&self, arm: Arm) -> ArmStatistics {
        let now = Instant::now();
        let mut all = ArmStatistics::new();
        for (_, group) in self.shared.active.load().groups() {
            all.merge(&group.read(arm, now));
        }
        all
    }

    /// A canary of the policy in force, and what its calls were like over its window: those in it, and those that are not. `None` where the policy has no
    /// canary of this name.
    pub fn canary(&self, name: &str) -> Option<CanaryStatistics> {
        let now = Instant::now();
        self.shared.canary(name, |canary, group| CanaryStatistics {
            new: group.read(canary.to(), now),
            old: group.read(canary.to().other(), now),
            longer: [canary.to(), canary.to().other()].map(|arm| group.read_all(arm, now)),
            canary: canary.clone(),
        })
    }

    /// Forgets what was measured of a canary's calls, so that it is judged by what comes from now on.
    pub fn clear_canary(&self, name: &str) {
        self.shared.canary(name, |_, group| group.clear());
    }

    /// The generation of the policy and how the arms stand, and each change of it.
    ///
    /// Copy what [`borrow`](watch::Receiver::borrow) returns: while the reference lives, a call that finds an arm in another state waits for it.
    pub fn subscribe(&self) -> watch::Receiver<SelectState> {
        self.shared.core.arms.state().subscribe()
    }

    /// How it stands now. A return is noticed when a call or [`adaptive`](super::Adaptive) rule looks, so an arm that nobody uses may be called returning
    /// for longer than the dwell.
    pub fn state(&self) -> SelectState {
        *self.shared.core.arms.state().borrow()
    }
}

/// What the calls of a canary's rule were like.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct CanaryStatistics {
    /// The canary itself.
    pub canary: Canary,
    /// Over the arm that it tries out.
    pub new: ArmStatistics,
    /// Over the other one.
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

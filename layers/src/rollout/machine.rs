//! The rollout's steps: the rules, without a clock, a file or a task.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use super::{
    RolloutConfig,
    gate::{Baseline, Pair, Verdict},
};
use crate::{
    ConfigError,
    named::named,
    select::{Canary, CanaryStatistics},
};

named! {
    /// The phase of a rollout.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    #[non_exhaustive]
    pub enum Phase (pub(super) ALL) {
        /// It grows, or waits until it may grow.
        Running = "running",
        /// It does not grow, and still rolls back if it must.
        Paused = "paused",
        /// The share is 0 until the rollout is resumed.
        RolledBack = "rolled_back",
        /// All stages have passed. It no longer compares the arms.
        Complete = "complete",
    }
}

/// The state of a rollout.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct RolloutState {
    /// The phase.
    pub phase: Phase,
    /// The current stage, from 0; after a rollback the stage at which it happened.
    pub stage: usize,
    /// The canary's share, in basis points.
    pub share: u32,
    /// How long the stage has lasted while the rollout ran.
    pub dwelt: Duration,
    /// When the stage or phase began.
    pub since: SystemTime,
    /// Why it holds, or why it rolled back.
    pub note: String,
    /// Why the state is not saved in its file, if it is not.
    pub unsaved: Option<String>,
}

/// A step that was taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    None,
    Advanced,
    Completed,
    RolledBack,
}

#[derive(Clone, Debug)]
pub(super) struct Machine {
    config: Arc<RolloutConfig>,
    pub(super) state: RolloutState,
    pub(super) baseline: Option<Baseline>,
    /// When it was looked at last.
    last: Option<SystemTime>,
}

impl Machine {
    /// At the first stage.
    pub(super) fn new(config: Arc<RolloutConfig>, now: SystemTime) -> Self {
        let state = RolloutState {
            phase: Phase::Running,
            stage: 0,
            share: config.stages.first().copied().unwrap_or(0),
            dwelt: Duration::ZERO,
            since: now,
            note: "the first stage has begun".into(),
            unsaved: None,
        };
        Self {
            config,
            state,
            baseline: None,
            last: None,
        }
    }

    /// The saved state. If the stages have changed since, it is at the last one that is not larger. If all are larger, the share stays as it was, and passing
    /// leads to the first stage.
    pub(super) fn restore(
        config: Arc<RolloutConfig>,
        mut state: RolloutState,
        baseline: Option<Baseline>,
    ) -> Self {
        let stages = &config.stages;
        if state.phase != Phase::RolledBack && stages.get(state.stage) != Some(&state.share) {
            let fitting = stages.iter().rposition(|share| *share <= state.share);
            state.stage = fitting.unwrap_or(0);
            state.share = fitting.map_or(state.share, |stage| stages[stage]);
            state.dwelt = Duration::ZERO;
        }
        // There are further ones now, also where that one is the same.
        if state.phase == Phase::Complete && Some(&state.share) != stages.last() {
            state.phase = Phase::Running;
            state.dwelt = Duration::ZERO;
        }
        state.stage = state.stage.min(stages.len().saturating_sub(1));
        Self {
            config,
            state,
            baseline,
            last: None,
        }
    }

    /// The same before its first state is saved: no call goes over the new arm.
    pub(super) fn unsaved(&self) -> Self {
        let mut closed = self.clone();
        closed.state.share = 0;
        closed.state.note = "waits until its state is saved".into();
        closed
    }

    /// Whether it exposes more calls to the new arm than `before`, now or by itself later.
    pub(super) fn is_bolder(&self, before: &Self) -> bool {
        let runs = |machine: &Self| machine.state.phase == Phase::Running;
        self.state.share > before.state.share || (runs(self) && !runs(before))
    }

    pub(super) fn config(&self) -> &RolloutConfig {
        &self.config
    }

    /// How much time has passed since the last look. A clock that was set, or a machine that slept, makes it no longer than a few ticks.
    fn passed(&mut self, now: SystemTime) -> Duration {
        let last = self.last.replace(now);
        let passed = last.and_then(|last| now.duration_since(last).ok());
        passed.unwrap_or_default().min(self.config.tick * 5)
    }

    /// Looks at the arms. `None` where the policy in force has no such canary.
    pub(super) fn look(&mut self, now: SystemTime, seen: Option<&CanaryStatistics>) -> Step {
        let passed = self.passed(now);
        match self.state.phase {
            Phase::RolledBack | Phase::Complete => return Step::None,
            Phase::Running | Phase::Paused => {}
        }
        let Some(seen) = seen else {
            self.state.note = "the policy in force has no such canary".into();
            return Step::None;
        };
        let [new, old] = &seen.longer;
        let mut recent = None;
        if self.state.share < Canary::WHOLE {
            // Kept for when the old arm has too few calls: at 100 %, at a stage's beginning, or because nearly all keys are in.
            let (gates, kept) = (&self.config.gates, self.baseline);
            let known = |old| Baseline::of(old).filter(|now| gates.replaces(now, kept.as_ref()));
            recent = known(&seen.old);
            self.baseline = known(old).or(kept);
        }
        let recent = recent.or(self.baseline);
        let verdict = self.config.gates.judge(
            Pair {
                new: &seen.new,
                old: recent.as_ref(),
            },
            Pair {
                new,
                old: self.baseline.as_ref(),
            },
        );
        if let Verdict::Failed(why) = verdict {
            self.roll_back(now, why);
            return Step::RolledBack;
        }
        if self.state.phase == Phase::Paused {
            return Step::None;
        }
        self.state.dwelt = self.state.dwelt.saturating_add(passed);
        let left = self.config.dwell.saturating_sub(self.state.dwelt);
        match verdict {
            Verdict::Unclear(why) => self.state.note = format!("holds: {why}"),
            _ if !left.is_zero() => self.state.note = "all is well, the stage goes on".into(),
            _ => return self.advance(now),
        }
        Step::None
    }

    fn advance(&mut self, now: SystemTime) -> Step {
        let stages = &self.config.stages;
        // After a restart with other stages it may be below its own.
        let is_there = stages.get(self.state.stage) <= Some(&self.state.share);
        let next = self.state.stage + usize::from(is_there);
        match stages.get(next).copied() {
            Some(share) => {
                self.at(next, share, now);
                self.state.note = "the stage before has passed".into();
                Step::Advanced
            }
            None => {
                self.state.phase = Phase::Complete;
                self.state.since = now;
                self.state.note = "all stages have passed".into();
                Step::Completed
            }
        }
    }

    fn at(&mut self, stage: usize, share: u32, now: SystemTime) {
        self.state.stage = stage;
        self.state.share = share;
        self.state.dwelt = Duration::ZERO;
        self.state.since = now;
    }

    pub(super) fn roll_back(&mut self, now: SystemTime, why: String) {
        self.state.phase = Phase::RolledBack;
        self.state.share = 0;
        self.state.dwelt = Duration::ZERO;
        self.state.since = now;
        self.state.note = why;
    }

    pub(super) fn pause(&mut self, now: SystemTime) {
        if self.state.phase == Phase::Running {
            self.state.phase = Phase::Paused;
            self.state.since = now;
            self.state.note = "paused by hand".into();
        }
    }

    pub(super) fn resume(&mut self, now: SystemTime) {
        match self.state.phase {
            Phase::Running | Phase::Complete => {}
            Phase::Paused => {
                self.state.phase = Phase::Running;
                self.state.since = now;
                self.state.note = "resumed by hand".into();
            }
            Phase::RolledBack => {
                *self = Self::new(self.config.clone(), now);
                self.state.note = "resumed by hand, from the first stage".into();
            }
        }
    }

    pub(super) fn set_stage(&mut self, stage: usize, now: SystemTime) -> Result<(), ConfigError> {
        let stages = &self.config.stages;
        let Some(share) = stages.get(stage).copied() else {
            let accepted = format!("0 to {} is accepted", stages.len().saturating_sub(1));
            return Err(ConfigError::new("rollout.stage", stage, accepted));
        };
        if self.state.phase != Phase::Paused {
            self.state.phase = Phase::Running;
        }
        self.at(stage, share, now);
        self.state.note = "set by hand".into();
        Ok(())
    }
}

#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

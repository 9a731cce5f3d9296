//! A policy at work: what its rules have measured, and where they have a call go.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use http::Request;
use tokio::time::Instant;

use super::{
    Arm, ArmStatistics, Choice, SelectPolicy, SelectReason, StickyKey,
    adaptive::Controller,
    core::Core,
    key::mix,
    policy::{Kind, Rule},
    window::Window,
};
use crate::{
    Origin,
    classify::{Ending, Observe, Outcome, Verdict},
    clock,
};

/// The policy in force, and what goes with each of its rules.
pub(super) struct Active {
    pub(super) policy: Arc<SelectPolicy>,
    groups: Vec<Arc<Group>>,
}

/// What is known of the calls under one rule.
pub(super) struct Group {
    windows: [Window; 2],
    /// Counted only while there are many.
    calls: AtomicU32,
    controller: Option<Controller>,
    pub(super) core: Arc<Core>,
}

/// Where a call goes first.
pub(super) struct Plan {
    pub(super) arm: Arm,
    pub(super) reason: SelectReason,
    /// Whether the other arm will do.
    pub(super) either: bool,
}

impl Active {
    /// Rules that `before` had too keep what they have measured.
    pub(super) fn new(policy: SelectPolicy, before: Option<&Self>, core: &Arc<Core>) -> Self {
        let now = Instant::now();
        let rules = policy.rules().iter();
        let groups = rules.map(
            |rule| match before.and_then(|before| before.group_for(rule)) {
                Some(group) => group.clone(),
                None => Arc::new(Group::new(&rule.choice, core.clone(), now)),
            },
        );
        Self {
            groups: groups.collect(),
            policy: Arc::new(policy),
        }
    }

    /// What was measured under a rule that says the same of the same calls.
    fn group_for(&self, rule: &Rule) -> Option<&Arc<Group>> {
        let mut all = self.policy.rules().iter().zip(&self.groups);
        let same = |own: &Rule| {
            own.kind == rule.kind && own.covers == rule.covers && rule.choice.continues(&own.choice)
        };
        all.find_map(|(own, group)| same(own).then_some(group))
    }

    /// The rule that a request is under, and what is known of it.
    #[inline]
    pub(super) fn of<B>(&self, request: &Request<B>) -> (&Rule, &Arc<Group>) {
        let rule = self.policy.rule_of(request);
        (&self.policy.rules()[rule], &self.groups[rule])
    }

    pub(super) fn groups(&self) -> impl Iterator<Item = (&Rule, &Arc<Group>)> {
        self.policy.rules().iter().zip(&self.groups)
    }
}

/// So many samples in a slot are enough, a tenth of the window: its p99 has a rank of its own.
const ENOUGH: u32 = 256;
/// At least one call in so many is timed, so that a rate which falls is noticed.
const MOST_UNTIMED: u32 = 16;
/// How many windows of a canary's calls are kept.
const CANARY_WINDOWS: u64 = 3;
/// For how long the calls under a rule count that has no window of its own.
const WINDOW: Duration = Duration::from_secs(10);

impl Group {
    fn new(choice: &Choice, core: Arc<Core>, now: Instant) -> Self {
        let (window, windows, controller) = match choice {
            Choice::Fixed(_) | Choice::Prefer(_) => (WINDOW, 1, None),
            // A rollout compares the arms over several windows too.
            Choice::Canary(canary) => (canary.window(), CANARY_WINDOWS, None),
            Choice::Adaptive(adaptive) => {
                let controller = Controller::new(adaptive.clone(), now);
                (adaptive.window(), 1, Some(controller))
            }
        };
        Self {
            windows: [(); 2].map(|()| Window::new(window, windows, now)),
            calls: AtomicU32::new(0),
            controller,
            core,
        }
    }

    /// The time, for a call that is to be timed: each, unless there are so many that some of them tell as much.
    #[inline]
    pub(super) fn clock(&self) -> Option<Instant> {
        let [first, second] = &self.windows;
        let rate = first.rate().max(second.rate());
        let timed = rate < 2 * ENOUGH || {
            let one_in = (rate / ENOUGH).next_power_of_two().min(MOST_UNTIMED);
            // One of so many, and not always the first of them: calls may have a rhythm of their own.
            let number = self.calls.fetch_add(1, Ordering::Relaxed);
            let one = mix(u64::from(number / one_in)) as u32;
            (number ^ one) & (one_in - 1) == 0
        };
        timed.then(clock::now)
    }

    /// The same, once it is known where the call goes: each is timed that is a probe, or goes over an arm with few calls, however many the other one has.
    #[inline]
    pub(super) fn clock_of(&self, plan: &Plan, now: Option<Instant>) -> Option<Instant> {
        let few = || self.window(plan.arm).rate() < 2 * ENOUGH;
        now.or_else(|| (plan.reason == SelectReason::Probe || few()).then(clock::now))
    }

    pub(super) fn window(&self, arm: Arm) -> &Window {
        &self.windows[arm.index()]
    }

    pub(super) fn read(&self, arm: Arm, now: Instant) -> ArmStatistics {
        self.window(arm).read(now)
    }

    /// The same over all windows that are kept.
    pub(super) fn read_all(&self, arm: Arm, now: Instant) -> ArmStatistics {
        self.window(arm).read_all(now)
    }

    pub(super) fn clear(&self) {
        for window in &self.windows {
            window.clear();
        }
    }

    /// Where a call goes first, by its rule.
    #[inline]
    pub(super) fn plan<B>(&self, rule: &Rule, request: &Request<B>, now: Option<Instant>) -> Plan {
        let core = &*self.core;
        let by_rule = |default| match rule.kind {
            Kind::Default => default,
            Kind::Method => SelectReason::Method,
            Kind::Class => SelectReason::Class,
        };
        let (arm, reason, either) = match &rule.choice {
            Choice::Fixed(arm) => (*arm, by_rule(SelectReason::Fixed), false),
            Choice::Prefer(arm) => (*arm, by_rule(SelectReason::Preferred), true),
            Choice::Canary(canary) => {
                let key = canary.key_of(request);
                let key: StickyKey = key.unwrap_or_else(|| core.key_of_call());
                match canary.includes(key) {
                    true => (canary.to(), SelectReason::CanaryIn, true),
                    false => (canary.to().other(), SelectReason::CanaryOut, false),
                }
            }
            Choice::Adaptive(_) => match &self.controller {
                Some(controller) => {
                    let dwell = core.config.dwell;
                    let (arm, reason, switched) =
                        controller.choose(now, &self.windows, &core.arms, dwell);
                    if let Some(why) = switched {
                        let to = core.name(controller.current());
                        core.meter.switched(to, why.as_str());
                    }
                    (arm, reason, true)
                }
                // Each adaptive rule has one.
                None => (Arm::First, SelectReason::Adaptive, true),
            },
        };
        Plan {
            arm,
            reason,
            either,
        }
    }
}

/// Follows one attempt over one arm, to measure it.
pub struct Sample {
    group: Arc<Group>,
    arm: Arm,
    /// `None` where it is not timed.
    started: Option<Instant>,
    /// Where its answer was counted, or 0 while there is none.
    answered: u64,
}

impl Sample {
    #[inline]
    pub(super) fn new(group: Arc<Group>, arm: Arm, now: Option<Instant>) -> Self {
        Self {
            group,
            arm,
            started: now,
            answered: 0,
        }
    }
}

impl Observe for Sample {
    #[inline]
    fn answered(&mut self) {
        let window = self.group.window(self.arm);
        self.answered = match self.started {
            Some(started) => {
                let now = clock::now();
                window.answered(now, now.saturating_duration_since(started))
            }
            None => window.latest(),
        };
    }

    #[inline]
    fn ended(mut self, outcome: &Outcome) {
        let Some(failed) = failed(outcome) else {
            return;
        };
        // One that fails at once is not a fast one.
        if !failed && outcome.ending() == Ending::Head {
            self.answered();
        }
        let window = self.group.window(self.arm);
        if failed || self.answered == 0 || !window.succeeded_in(self.answered) {
            let now = clock::now();
            window.ended(now, failed);
            if failed {
                self.group.core.arms.failed(self.arm, now);
            }
        }
    }
}

/// Whether the arm, or the peer at its end, failed; `None` where the end says nothing of it.
fn failed(outcome: &Outcome) -> Option<bool> {
    if outcome.origin() == Some(Origin::Refused) {
        // No failure of the peer's health, but one arm may be refused where the other is not.
        return Some(true);
    }
    match outcome.verdict(None) {
        Verdict::Success => Some(false),
        Verdict::Failure | Verdict::Application | Verdict::Link(_) | Verdict::Overload => {
            Some(true)
        }
        // A proxy in front of one arm may refuse what the other arm takes.
        Verdict::Neutral if matches!(outcome.ending(), Ending::Http(_)) => Some(true),
        Verdict::Neutral => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::select::SelectConfig;

    /// A loop that calls two methods in turn, a thousand times a second.
    #[test]
    fn a_rhythm_of_the_calls_is_none_of_the_clock() {
        let start = Instant::now();
        let core = Arc::new(Core::new(SelectConfig::default()));
        let group = Group::new(&Choice::Prefer(Arm::First), core, start);
        // The rate is known from the first second on.
        for _ in 0..1000 {
            group.window(Arm::First).ended(start, false);
        }
        group
            .window(Arm::First)
            .ended(start + Duration::from_secs(1), false);
        let mut timed = [0; 2];
        for n in 0..1000 {
            timed[n % 2] += u32::from(group.clock().is_some());
        }
        assert!(
            timed.iter().all(|half| (75..175).contains(half)),
            "{timed:?}"
        );
    }
}

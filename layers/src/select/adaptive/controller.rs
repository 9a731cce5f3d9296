//! Holds the rules to the clock and the calls, so that a call pays for a few loads.

use std::{
    sync::{
        Mutex, TryLockError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::time::Instant;

use super::{
    Adaptive,
    core::{Core, View, Why},
};
use crate::select::{Arm, ArmState, SelectReason, arms::Arms, key::mix, window::Window};

/// How often the arms are compared, by one call among all.
const LOOK: Duration = Duration::from_millis(100);

/// So many calls go over the arm in use before one is a probe only because it is time: where there is a call every few seconds, all would be.
const BETWEEN: u64 = 3;

/// An adaptive rule at work.
pub(in super::super) struct Controller {
    config: Adaptive,
    start: Instant,
    /// The arm in use is the preferred one.
    preferred: AtomicBool,
    /// Nanoseconds from the start.
    next_look: AtomicU64,
    probe_due: AtomicU64,
    /// The call that is the next probe because it is time, once one is due.
    due_call: AtomicU64,
    last_probe: AtomicU64,
    calls: AtomicU64,
    core: Mutex<Core>,
}

impl Controller {
    pub(in super::super) fn new(config: Adaptive, now: Instant) -> Self {
        Self {
            start: now,
            preferred: AtomicBool::new(true),
            next_look: AtomicU64::new(0),
            probe_due: AtomicU64::new(nanos(config.probe_every)),
            due_call: AtomicU64::new(NONE),
            last_probe: AtomicU64::new(0),
            calls: AtomicU64::new(0),
            core: Mutex::new(Core::new(&config)),
            config,
        }
    }

    /// The arm in use.
    pub(in super::super) fn current(&self) -> Arm {
        match self.preferred.load(Ordering::Relaxed) {
            true => self.config.prefer,
            false => self.config.prefer.other(),
        }
    }

    /// Where a call goes, and the switch that was made for it. Who has not looked at the clock may still be a probe.
    pub(in super::super) fn choose(
        &self,
        now: Option<Instant>,
        windows: &[Window; 2],
        arms: &Arms,
        dwell: Duration,
    ) -> (Arm, SelectReason, Option<Why>) {
        let at = now.map(|now| nanos(now.saturating_duration_since(self.start)));
        let why = match (now, at) {
            (Some(now), Some(at)) if claim(&self.next_look, at, LOOK) => {
                arms.settle_returned(now, dwell);
                self.look(now, windows, arms)
            }
            _ => None,
        };
        let current = self.current();
        let idle = current.other();
        if self.is_probe(at) && !arms.word().is_watched(idle) {
            return (idle, SelectReason::Probe, why);
        }
        (current, SelectReason::Adaptive, why)
    }

    /// Calls may have a rhythm of their own, so that each hundredth, or the first after each second, would always be the same method's. So a hash decides, of the call's number.
    #[inline]
    fn is_probe(&self, at: Option<u64>) -> bool {
        let number = self.calls.fetch_add(1, Ordering::Relaxed);
        // Of `range`, each as likely as the others.
        let random = |range: u64| ((mix(number) >> 32) * range.min(1 << 31)) >> 32;
        let due_call = self.due_call.load(Ordering::Relaxed);
        if number >= due_call || random(10_000) < u64::from(self.config.probe_share) {
            self.last_probe.store(number, Ordering::Relaxed);
            self.due_call.store(NONE, Ordering::Relaxed);
            if let Some(at) = at {
                let due = at.saturating_add(nanos(self.config.probe_every));
                self.probe_due.store(due, Ordering::Relaxed);
            }
            return true;
        }
        let since = number.saturating_sub(self.last_probe.load(Ordering::Relaxed));
        if since >= BETWEEN
            && at.is_some_and(|at| claim(&self.probe_due, at, self.config.probe_every))
        {
            // One of the next calls: of as many as came since the probe, or of few if they have become rare.
            let range = if due_call == NONE { since } else { BETWEEN };
            let due = due_call.min(number + 1 + random(range));
            self.due_call.store(due, Ordering::Relaxed);
        }
        false
    }

    #[cold]
    fn look(&self, now: Instant, windows: &[Window; 2], arms: &Arms) -> Option<Why> {
        let views = Arm::ALL.map(|arm| {
            // One that has just come back is not up: it is for its own rules to say when it is.
            let up = arms.state().borrow().arm(arm) == ArmState::Ready;
            View::new(&self.config, up, &windows[arm.index()].read(now))
        });
        let mut core = match self.core.try_lock() {
            Ok(core) => core,
            Err(TryLockError::Poisoned(core)) => core.into_inner(),
            // Somebody looks already.
            Err(TryLockError::WouldBlock) => return None,
        };
        let (arm, why) = core.look(now, &self.config, &views)?;
        self.preferred
            .store(arm == self.config.prefer, Ordering::Relaxed);
        tracing::info!(target: "tower_iroh::select", to = %arm, reason = %why, ?views, "switched arms");
        Some(why)
    }
}

/// No call's number.
const NONE: u64 = u64::MAX;

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Whether it is time, for one of those who ask.
#[inline]
fn claim(next: &AtomicU64, at: u64, every: Duration) -> bool {
    let due = next.load(Ordering::Relaxed);
    if at < due {
        return false;
    }
    let again = at.saturating_add(nanos(every));
    next.compare_exchange(due, again, Ordering::Relaxed, Ordering::Relaxed)
        .is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Calls at 200 a second over two arms, one of which is slow for a while: how often it switched, and the arm at each second.
    fn run(
        config: Adaptive,
        seconds: u64,
        latency: impl Fn(Arm, u64) -> u64,
    ) -> (Vec<Why>, Vec<Arm>, [u64; 2]) {
        let mut now = Instant::now();
        let arms = Arms::new();
        let windows = [(); 2].map(|()| Window::new(config.window, 1, now));
        let controller = Controller::new(config, now);
        let (mut switches, mut currents, mut calls) = (Vec::new(), Vec::new(), [0; 2]);
        for n in 0..seconds * 200 {
            let (arm, _, why) =
                controller.choose(Some(now), &windows, &arms, Duration::from_secs(5));
            switches.extend(why);
            calls[arm.index()] += 1;
            // Some scatter, always the same.
            let scatter = Duration::from_micros(mix(n) % 500);
            let took = Duration::from_millis(latency(arm, n / 200)) + scatter;
            windows[arm.index()].answered(now, took);
            windows[arm.index()].ended(now, false);
            now += Duration::from_millis(5);
            if n % 200 == 199 {
                currents.push(controller.current());
            }
        }
        (switches, currents, calls)
    }

    #[test]
    fn thirty_more_milliseconds_are_left_and_come_back_to_when_they_are_gone() {
        let slow = |arm, second| match (arm, second) {
            (Arm::First, 20..40) => 31,
            _ => 1,
        };
        let (switches, currents, calls) = run(Adaptive::default(), 80, slow);
        assert_eq!(switches, [Why::Latency, Why::Preferred]);
        assert!(currents[..20].iter().all(|arm| *arm == Arm::First));
        assert!(currents[22..40].iter().all(|arm| *arm == Arm::Second));
        assert!(currents[52..].iter().all(|arm| *arm == Arm::First));
        // About one in a hundred of the other's 50 seconds, and its own 30.
        assert!((5000..7200).contains(&calls[1]), "{calls:?}");
    }

    #[test]
    fn equal_arms_are_probed_and_not_switched() {
        let (switches, _, calls) = run(Adaptive::default(), 100, |_, _| 1);
        assert_eq!(switches, []);
        assert!(
            (150..300).contains(&calls[1]),
            "a hundredth of 20,000: {calls:?}"
        );
    }

    #[test]
    fn few_calls_are_not_all_probes() {
        let mut now = Instant::now();
        let arms = Arms::new();
        let config = Adaptive::default();
        let windows = [(); 2].map(|()| Window::new(config.window, 1, now));
        let controller = Controller::new(config, now);
        let mut probes = 0;
        for _ in 0..200 {
            now += Duration::from_secs(2);
            let (arm, reason, _) =
                controller.choose(Some(now), &windows, &arms, Duration::from_secs(5));
            assert_eq!(
                arm == controller.current(),
                reason == SelectReason::Adaptive
            );
            probes += u32::from(reason == SelectReason::Probe);
            windows[arm.index()].answered(now, Duration::from_millis(1));
            windows[arm.index()].ended(now, false);
        }
        assert!((35..=50).contains(&probes), "a fifth: {probes}");
    }

    #[test]
    fn the_time_alone_makes_probes_too() {
        let config = Adaptive::builder().probe_share(0);
        let (_, _, calls) = run(config.build().expect("accepted"), 100, |_, _| 1);
        assert!(
            (50..=100).contains(&calls[1]),
            "each one to two seconds: {calls:?}"
        );
    }

    /// Ten calls at the beginning of each second, the first of which is another method than the others.
    #[test]
    fn a_rhythm_of_the_calls_is_none_of_the_probes() {
        let start = Instant::now();
        let arms = Arms::new();
        let config = Adaptive::builder().probe_share(0).build();
        let config = config.expect("accepted");
        let windows = [(); 2].map(|()| Window::new(config.window, 1, start));
        let controller = Controller::new(config, start);
        let mut probes = [0; 10];
        for n in 0..10_000u32 {
            let now =
                start + Duration::from_secs(1) * (n / 10) + Duration::from_millis(1) * (n % 10);
            let (_, reason, _) =
                controller.choose(Some(now), &windows, &arms, Duration::from_secs(5));
            probes[n as usize % 10] += u32::from(reason == SelectReason::Probe);
        }
        let all: u32 = probes.iter().sum();
        assert!((500..=1000).contains(&all), "{all}");
        assert!(
            probes.iter().all(|one| (all / 20..all / 5).contains(one)),
            "{probes:?}"
        );
    }
}

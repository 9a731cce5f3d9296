//! When to switch: the rules, without a clock, a lock or a call.

use std::time::Duration;

use tokio::time::Instant;

use super::Adaptive;
use crate::{
    named::named,
    select::{Arm, ArmStatistics},
};

/// What is known of an arm.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct View {
    pub(super) up: bool,
    pub(super) calls: u64,
    pub(super) error_rate: f64,
    /// `None` below the minimum of samples.
    pub(super) latency: Option<Duration>,
}

impl View {
    pub(super) fn new(config: &Adaptive, up: bool, seen: &ArmStatistics) -> Self {
        let enough = seen.latencies.count() >= config.min_samples;
        Self {
            up,
            calls: seen.calls + seen.diverted,
            error_rate: seen.error_rate(),
            latency: seen.quantile(config.quantile).filter(|_| enough),
        }
    }

    fn fails(&self, config: &Adaptive) -> bool {
        self.calls >= config.min_samples && self.error_rate >= config.max_failures
    }
}

named! {
    /// Why there was a switch.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub(in super::super) enum Why (pub(super) ALL) {
        NotReady = "not_ready",
        Failing = "failing",
        Latency = "latency",
        /// The preferred arm is good enough again.
        Preferred = "preferred",
    }
}

/// Which arm is in use.
#[derive(Clone, Copy, Debug)]
pub(super) struct Core {
    current: Arm,
    switched: Option<Instant>,
    /// Since when too little has been known of the preferred arm, which is well and not in use.
    unknown: Option<Instant>,
}

/// After so long an arm of which too little is known is returned to: with few calls, probes alone never tell enough.
const UNKNOWN: Duration = Duration::from_secs(60);

impl Core {
    pub(super) fn new(config: &Adaptive) -> Self {
        Self {
            current: config.prefer,
            switched: None,
            unknown: None,
        }
    }

    /// Looks at both, and switches if that is right.
    pub(super) fn look(
        &mut self,
        now: Instant,
        config: &Adaptive,
        views: &[View; 2],
    ) -> Option<(Arm, Why)> {
        let preferred = &views[config.prefer.index()];
        let is_unknown = self.current != config.prefer
            && preferred.up
            && !preferred.fails(config)
            && preferred.latency.is_none();
        self.unknown = is_unknown.then(|| self.unknown.unwrap_or(now));
        let dwells = |at: Instant| now.saturating_duration_since(at) < config.dwell;
        if self.switched.is_some_and(dwells) {
            return None;
        }
        let other = self.current.other();
        let why = self.why(
            now,
            config,
            &views[self.current.index()],
            &views[other.index()],
        )?;
        self.current = other;
        self.switched = Some(now);
        Some((other, why))
    }

    /// Why the other arm should be the one, if it should.
    fn why(&self, now: Instant, config: &Adaptive, current: &View, other: &View) -> Option<Why> {
        if !other.up || other.fails(config) {
            return None;
        }
        if !current.up {
            return Some(Why::NotReady);
        }
        if current.fails(config) {
            return Some(Why::Failing);
        }
        match self.current == config.prefer {
            true => leaves(config, current, other).then_some(Why::Latency),
            false => {
                let is_long_unknown = self.unknown.is_some_and(|at| now >= at + UNKNOWN);
                (is_long_unknown || returns(config, current, other)).then_some(Why::Preferred)
            }
        }
    }
}

/// Whether `better` is, by `part` of the minimum gains.
fn gains(config: &Adaptive, from: Duration, better: Duration, part: f64) -> bool {
    let share = config.min_gain_ratio * part;
    better < from
        && better + config.min_gain.mul_f64(part) <= from
        && better.as_secs_f64() <= from.as_secs_f64() * (1.0 - share)
}

/// Whether calls leave the preferred arm, which is in use.
fn leaves(config: &Adaptive, preferred: &View, other: &View) -> bool {
    let Some(latency) = preferred.latency else {
        return false;
    };
    match config.threshold {
        // What has not been measured may be better.
        Some(threshold) => {
            latency >= threshold && other.latency.is_none_or(|other| other < latency)
        }
        None => other
            .latency
            .is_some_and(|other| gains(config, latency, other, 1.0)),
    }
}

/// Whether calls return to the preferred arm.
fn returns(config: &Adaptive, other: &View, preferred: &View) -> bool {
    let Some(latency) = preferred.latency else {
        return false;
    };
    if let Some(threshold) = config.threshold {
        let below = threshold.mul_f64(1.0 - config.min_gain_ratio);
        let other_is_worse = |other| gains(config, other, latency, 1.0);
        return latency <= below || other.latency.is_some_and(other_is_worse);
    }
    !other
        .latency
        .is_some_and(|other| gains(config, latency, other, 0.5))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn view(latency_ms: u64) -> View {
        View {
            up: true,
            calls: 100,
            error_rate: 0.0,
            latency: (latency_ms > 0).then(|| MS * latency_ms as u32),
        }
    }

    /// What a core that has not switched for long does with these two.
    fn look(
        core: &mut Core,
        now: &mut Instant,
        config: &Adaptive,
        first: View,
        second: View,
    ) -> Option<Why> {
        *now += config.dwell;
        core.look(*now, config, &[first, second])
            .map(|(_, why)| why)
    }

    #[test]
    fn it_leaves_for_a_gain_and_returns_when_there_is_none() {
        let config = Adaptive::default();
        let (mut core, mut now) = (Core::new(&config), Instant::now());
        let mut look = |first, second| look(&mut core, &mut now, &config, first, second);
        assert_eq!(look(view(10), view(9)), None, "10 % are no gain");
        assert_eq!(
            look(view(30), view(0)),
            None,
            "nothing is known of the other"
        );
        assert_eq!(look(view(30), view(1)), Some(Why::Latency));
        assert_eq!(look(view(30), view(1)), None);
        assert_eq!(look(view(10), view(8)), None, "still a tenth worse");
        assert_eq!(look(view(1), view(1)), Some(Why::Preferred));
    }

    #[test]
    fn a_small_difference_is_none_however_large_its_share() {
        let config = Adaptive::default();
        let micros = |us| View {
            latency: Some(Duration::from_micros(us)),
            ..view(1)
        };
        let mut core = Core::new(&config);
        assert_eq!(
            core.look(Instant::now(), &config, &[micros(900), micros(100)]),
            None
        );
    }

    #[test]
    fn a_threshold_keeps_the_preferred_arm_below_it() {
        let config = Adaptive::builder().latency_threshold(MS * 50);
        let config = config.build().expect("accepted");
        let (mut core, mut now) = (Core::new(&config), Instant::now());
        let mut look = |first, second| look(&mut core, &mut now, &config, first, second);
        assert_eq!(look(view(49), view(1)), None);
        assert_eq!(look(view(60), view(70)), None, "the other is worse");
        assert_eq!(look(view(60), view(0)), Some(Why::Latency));
        assert_eq!(look(view(45), view(1)), None, "not by a fifth");
        assert_eq!(look(view(40), view(1)), Some(Why::Preferred));
    }

    #[test]
    fn health_comes_before_latency() {
        let config = Adaptive::default();
        let (mut core, mut now) = (Core::new(&config), Instant::now());
        let mut look = |first, second| look(&mut core, &mut now, &config, first, second);
        let away = View {
            up: false,
            ..view(1)
        };
        let failing = View {
            error_rate: 0.3,
            ..view(1)
        };
        assert_eq!(look(view(100), away), None);
        assert_eq!(look(view(100), failing), None);
        assert_eq!(look(failing, failing), None, "no better there");
        assert_eq!(look(away, view(100)), Some(Why::NotReady));
        assert_eq!(look(view(1), failing), Some(Why::Failing));
        assert_eq!(look(failing, view(100)), Some(Why::Failing));
    }

    fn any_view() -> impl Strategy<Value = View> {
        (any::<bool>(), 0..20u64, 0.0..1.0f64, 0..200u64).prop_map(|(up, calls, error_rate, ms)| {
            View {
                up,
                calls,
                error_rate,
                ..view(ms)
            }
        })
    }

    proptest! {
        #[test]
        fn at_most_one_switch_per_dwell(
            steps in proptest::collection::vec((0u64..4000, any_view(), any_view()), 1..200),
            threshold in proptest::option::of(1u64..100),
        ) {
            let config = Adaptive { threshold: threshold.map(|ms| MS * ms as u32), ..Adaptive::default() };
            let (mut core, mut now) = (Core::new(&config), Instant::now());
            let mut last: Option<Instant> = None;
            for (wait, first, second) in steps {
                now += MS * wait as u32;
                if core.look(now, &config, &[first, second]).is_some() {
                    prop_assert!(last.is_none_or(|last| now >= last + config.dwell));
                    last = Some(now);
                }
            }
        }

        /// Two arms that do not change make it switch once at most, however often it looks, with or without a threshold.
        #[test]
        fn what_stays_the_same_settles(
            first in any_view(), second in any_view(), threshold in proptest::option::of(1u64..200), begins_on in any::<bool>(),
        ) {
            let config = Adaptive { threshold: threshold.map(|ms| MS * ms as u32), ..Adaptive::default() };
            let mut core = Core::new(&config);
            if begins_on {
                core.current = core.current.other();
            }
            let mut now = Instant::now();
            let looks = (0..20).filter(|_| look(&mut core, &mut now, &config, first, second).is_some());
            prop_assert!(looks.count() <= 1);
        }
    }
}

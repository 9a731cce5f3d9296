//! Whether the new arm is good enough: the rules, without a clock.

use std::{f64::consts::FRAC_PI_2, time::Duration};

use crate::{ConfigError, select::ArmStatistics, setters::setters};

/// The conditions on the new arm, relative to the old one.
///
/// Error rates are compared over the canary's [window](crate::select::CanaryBuilder::window) and over three windows, the p99 over three, and only calls of the
/// current stage count. A difference within its limit passes. If it exceeds the limit by more than chance explains, the rollout rolls back. Otherwise the
/// rollout holds. Chance explains three standard deviations of an error rate and two and a half of a p99: two equally good arms are rolled back in fewer than
/// one stage in a hundred.
///
/// A new arm that clearly fails more than half of its calls is rolled back whatever the old arm's results. One call in ten is enough if fewer
/// than twenty calls over the old arm are known, or fewer than the minimum of samples, if that is lower.
#[derive(Clone, Debug, PartialEq)]
pub struct Gates {
    max_error_difference: f64,
    max_p99_ratio: f64,
    max_p99_difference: Duration,
    min_samples: u64,
}

impl Default for Gates {
    fn default() -> Self {
        Self {
            max_error_difference: 0.01,
            max_p99_ratio: 1.25,
            max_p99_difference: Duration::from_millis(5),
            min_samples: 100,
        }
    }
}

impl Gates {
    /// Begins with the defaults.
    pub fn builder() -> GatesBuilder {
        GatesBuilder(Self::default())
    }
}

/// Makes [`Gates`].
#[derive(Clone, Debug)]
#[must_use]
pub struct GatesBuilder(Gates);

impl GatesBuilder {
    setters! {
        /// How much the new arm's error rate may exceed the old one's: 0.01, one call in a hundred. A call that went over the old arm because the new one was not
        /// ready, or had just come back, counts as an error of the new arm.
        pub fn max_error_difference(share: f64) => 0.max_error_difference = share;

        /// How many times the old arm's p99 the new one's may be: 1.25. It is too much only if it also exceeds [`max_p99_difference`](Self::max_p99_difference).
        pub fn max_p99_ratio(ratio: f64) => 0.max_p99_ratio = ratio;

        /// How much the new arm's p99 may exceed the old one's, whatever the ratio: 5 ms.
        pub fn max_p99_difference(difference: Duration) => 0.max_p99_difference = difference;

        /// How many calls each arm needs within the window: 100. Twenty calls over the new arm are enough to roll back for errors.
        pub fn min_samples(calls: u64) => 0.min_samples = calls;
    }

    /// Checks the settings.
    ///
    /// # Errors
    /// When the error difference is not within 0 to 1, the ratio is below 1 or above 1000, or the samples are 0.
    pub fn build(self) -> Result<Gates, ConfigError> {
        let built = self.0;
        ConfigError::share("rollout.max_error_difference", built.max_error_difference)?;
        ConfigError::within("rollout.max_p99_ratio", built.max_p99_ratio, 1.0..=1000.0)?;
        ConfigError::nonzero("rollout.min_samples", built.min_samples)?;
        Ok(built)
    }
}

/// What a comparison says.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Verdict {
    Passed,
    /// Not yet, and why.
    Unclear(String),
    Failed(String),
}

/// What the old arm was like when it had calls last: at 100 % it has none.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Baseline {
    pub(super) calls: u64,
    pub(super) failures: u64,
    /// How many of them were timed.
    pub(super) answered: u64,
    /// `None` if no call was answered.
    pub(super) p99: Option<Duration>,
}

impl Baseline {
    /// `None` if there was no call.
    pub(super) fn of(old: &ArmStatistics) -> Option<Self> {
        let (calls, failures) = heard(old);
        (calls > 0).then(|| Self {
            calls,
            failures,
            answered: old.latencies.count(),
            p99: old.quantile(P99),
        })
    }
}

/// Both arms over the same time.
#[derive(Clone, Copy)]
pub(super) struct Pair<'a> {
    pub(super) new: &'a ArmStatistics,
    pub(super) old: Option<&'a Baseline>,
}

const P99: f64 = 0.99;
/// How many standard deviations a difference of the error rates has to be beyond its limit. The arms are compared each second, and a rollback waits for an operator;
/// `machine/simulation.rs` shows what these two lead to.
const CLEAR: f64 = 3.0;
/// The same for the p99. Equal arms are further from its limit.
const CLEAR_P99: f64 = 2.5;
/// Fewer calls than these never roll back.
const FEWEST: u64 = 20;
/// No arm may fail more of its calls than this, whatever the other one is like.
const CEILING: f64 = 0.5;
/// The same where too little is known of the old arm.
const CEILING_ALONE: f64 = 0.1;

/// How many calls there were of which something is known, and how many of them failed. A stream that has been answered counts before its end.
fn heard(arm: &ArmStatistics) -> (u64, u64) {
    let calls = arm.calls.max(arm.latencies.count());
    (calls + arm.diverted, arm.failures + arm.diverted)
}

/// The share of `count` in `calls`, moved by so many deviations. The arcsine of its root is nearly normal, also for few and for rare ones, and its deviation is the
/// same whatever the share (Anscombe, 1948).
fn moved(count: f64, calls: f64, deviations: f64) -> f64 {
    let angle = (count / (calls + 1.0)).sqrt().asin() + deviations / (2.0 * calls.sqrt());
    angle.clamp(0.0, FRAC_PI_2).sin().powi(2)
}

/// What the true share is at least.
fn at_least((count, calls): (f64, f64), deviations: f64) -> f64 {
    moved(count, calls, -deviations)
}

/// By how much the first share is above the second one at least. The two bounds are combined as Zou and Donner (2008) do.
fn apart(new: (f64, f64), old: (f64, f64), deviations: f64) -> f64 {
    let share = |(count, calls): (f64, f64)| count / calls.max(1.0);
    let below = share(new) - at_least(new, deviations);
    let above = moved(old.0 + 1.0, old.1, deviations) - share(old);
    share(new) - share(old) - below.hypot(above)
}

impl Gates {
    /// Compares the new arm with the old one, or with what that was like: over the last window, so that errors are noticed soon, and over a longer time, since a p99
    /// needs many calls.
    pub(super) fn judge(&self, recent: Pair<'_>, longer: Pair<'_>) -> Verdict {
        let failed = self
            .fails(recent)
            .or_else(|| self.fails(longer))
            .or_else(|| self.is_slow(longer));
        if let Some(why) = failed {
            return Verdict::Failed(why);
        }
        let (Some(recent_old), Some(old)) = (recent.old, longer.old) else {
            return Verdict::Unclear("nothing is known of the old arm".into());
        };
        for (which, calls) in [("new", heard(recent.new).0), ("old", recent_old.calls)] {
            if calls < self.min_samples {
                let needed = self.min_samples;
                return Verdict::Unclear(format!("{calls} of {needed} calls over the {which} arm"));
            }
        }
        let share = |(calls, failures)| failures as f64 / (calls as f64).max(1.0);
        let difference = share(heard(longer.new)) - share((old.calls, old.failures));
        if difference > self.max_error_difference {
            return Verdict::Unclear(format!(
                "the error rate is {:.2} % higher over the new arm, which may be chance",
                difference * 100.0
            ));
        }
        let (Some(p99), Some(old)) = (longer.new.quantile(P99), old.p99) else {
            return Verdict::Unclear("no call over one of the arms was answered".into());
        };
        let limit = self.p99_limit(old);
        match p99 > limit {
            true => Verdict::Unclear(format!(
                "p99 over the new arm is {p99:.1?} and not {limit:.1?}, which may be chance"
            )),
            false => Verdict::Passed,
        }
    }

    /// Whether what is known of the old arm now is enough to forget what was known of it before.
    pub(super) fn replaces(&self, now: &Baseline, kept: Option<&Baseline>) -> bool {
        kept.is_none_or(|kept| now.calls >= kept.calls.min(self.min_samples))
    }

    /// Why the new arm clearly fails too many of its calls, if it does.
    fn fails(&self, Pair { new, old }: Pair<'_>) -> Option<String> {
        let fewest = self.min_samples.min(FEWEST);
        let (calls, failures) = heard(new);
        if calls < fewest {
            return None;
        }
        let old = old.filter(|old| old.calls >= fewest);
        let ceiling = match old {
            Some(_) => CEILING,
            None => CEILING_ALONE.max(self.max_error_difference),
        };
        let seen = format!("{failures} of {calls} calls over the new arm failed");
        let new = (failures as f64, calls as f64);
        if at_least(new, CLEAR) > ceiling {
            let ceiling = ceiling * 100.0;
            return Some(format!(
                "{seen}: more than {ceiling:.0} %, whatever the old one is like"
            ));
        }
        let old = old?;
        let apart = apart(new, (old.failures as f64, old.calls as f64), CLEAR);
        (apart > self.max_error_difference).then(|| {
            format!(
                "{seen}, {} of {} over the old one: more than {:.2} % apart",
                old.failures,
                old.calls,
                self.max_error_difference * 100.0,
            )
        })
    }

    /// Why the new arm's p99 is clearly too long, if it is: clearly more than one in a hundred of its calls took longer than the limit that the old arm's p99 sets.
    fn is_slow(&self, Pair { new, old }: Pair<'_>) -> Option<String> {
        let old = old?;
        let old_p99 = old.p99?;
        let limit = self.p99_limit(old_p99);
        let answered = new.latencies.count();
        if answered < self.min_samples {
            return None;
        }
        let slow = (new.latencies.above(limit), answered as f64);
        let old_answered = old.answered as f64;
        // As many of the old arm's calls took longer than its own p99. It is known no better than that.
        let as_slow = (old_answered * (1.0 - P99), old_answered);
        let p99 = new.quantile(P99)?;
        (apart(slow, as_slow, CLEAR_P99) > 0.0).then(|| {
            format!(
                "p99 over the new arm is {p99:.1?}, {old_p99:.1?} over the old one: above {limit:.1?}"
            )
        })
    }

    /// How long the new arm's p99 may be.
    fn p99_limit(&self, old: Duration) -> Duration {
        old.mul_f64(self.max_p99_ratio)
            .max(old.saturating_add(self.max_p99_difference))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::select::histogram::bucket_of;

    const MS: Duration = Duration::from_millis(1);

    fn arm(calls: u64, failures: u64, latency: Duration) -> ArmStatistics {
        let mut seen = ArmStatistics::new();
        seen.calls = calls;
        seen.failures = failures;
        seen.latencies.add(bucket_of(latency), calls - failures);
        seen
    }

    fn old() -> Option<Baseline> {
        Baseline::of(&arm(5000, 5, MS * 10))
    }

    fn judge(new: &ArmStatistics) -> Verdict {
        beside(new, old())
    }

    fn beside(new: &ArmStatistics, old: Option<Baseline>) -> Verdict {
        let pair = Pair {
            new,
            old: old.as_ref(),
        };
        Gates::default().judge(pair, pair)
    }

    #[test]
    fn as_good_passes_and_too_few_wait() {
        assert_eq!(judge(&arm(300, 0, MS * 10)), Verdict::Passed);
        assert!(matches!(judge(&arm(99, 0, MS * 10)), Verdict::Unclear(_)));
        assert!(matches!(judge(&arm(0, 0, MS * 10)), Verdict::Unclear(_)));
        let nothing = beside(&arm(300, 0, MS * 10), None);
        assert!(matches!(nothing, Verdict::Unclear(_)));
        let few = Baseline::of(&arm(50, 0, MS * 10));
        let few = beside(&arm(300, 0, MS * 10), few);
        assert!(matches!(few, Verdict::Unclear(_)));
    }

    #[test]
    fn one_in_twenty_fails_and_one_more_in_a_hundred_may_be_chance() {
        assert!(matches!(judge(&arm(200, 10, MS * 10)), Verdict::Failed(_)));
        assert!(matches!(judge(&arm(200, 4, MS * 10)), Verdict::Unclear(_)));
        // Everything at once needs no hundred.
        assert!(matches!(judge(&arm(20, 20, MS * 10)), Verdict::Failed(_)));
        assert!(matches!(judge(&arm(19, 19, MS * 10)), Verdict::Unclear(_)));
        // Nor does an arm that nobody reaches.
        let mut away = arm(0, 0, MS);
        away.diverted = 30;
        assert!(matches!(judge(&away), Verdict::Failed(_)));
    }

    #[test]
    fn the_p99_has_a_ratio_and_a_difference() {
        let Verdict::Failed(why) = judge(&arm(300, 0, MS * 40)) else {
            panic!("four times as long");
        };
        assert!(why.contains("p99"), "{why}");
        assert_eq!(judge(&arm(300, 0, MS * 13)), Verdict::Passed, "not by 5 ms");
        let slow = Baseline::of(&arm(5000, 0, MS * 100));
        let slower = |ms| beside(&arm(300, 0, MS * ms), slow);
        assert_eq!(slower(110), Verdict::Passed, "not by a quarter");
        assert!(matches!(slower(150), Verdict::Failed(_)));
        // Two slow ones in three hundred are no p99 for certain, five in a hundred are.
        let mut some = arm(300, 0, MS * 10);
        some.latencies.add(bucket_of(MS * 500), 4);
        let verdict = judge(&some);
        assert!(matches!(verdict, Verdict::Unclear(_)), "{verdict:?}");
        some.latencies.add(bucket_of(MS * 500), 12);
        let verdict = judge(&some);
        assert!(matches!(verdict, Verdict::Failed(_)), "{verdict:?}");
    }

    #[test]
    fn settings_that_cannot_be_are_refused() {
        let field = |builder: GatesBuilder| builder.build().expect_err("refused").field();
        let new = Gates::builder;
        for bad in [-0.1, 1.1, f64::NAN] {
            let refused = field(new().max_error_difference(bad));
            assert_eq!(refused, "rollout.max_error_difference");
        }
        for bad in [0.9, f64::NAN, f64::INFINITY] {
            assert_eq!(field(new().max_p99_ratio(bad)), "rollout.max_p99_ratio");
        }
        assert_eq!(field(new().min_samples(0)), "rollout.min_samples");
        assert_eq!(new().build(), Ok(Gates::default()));
    }

    proptest! {
        /// More failures never make it better.
        #[test]
        fn it_is_monotonic(calls in 1u64..2000, a in 0u64..2000, b in 0u64..2000) {
            let rank = |failures: u64| match judge(&arm(calls, failures.min(calls), MS * 10)) {
                Verdict::Passed => 0,
                Verdict::Unclear(_) => 1,
                Verdict::Failed(_) => 2,
            };
            // The answered fall below their minimum, which says `Unclear`, before the rate is clear; never the other way round.
            prop_assert!(rank(a.min(b)) <= rank(a.max(b)));
        }

        #[test]
        fn nothing_panics(calls in any::<u32>(), failures in any::<u32>(), diverted in any::<u32>(), ms in 0u32..100_000) {
            let mut new = arm(u64::from(calls), u64::from(failures.min(calls)), MS * ms);
            new.diverted = u64::from(diverted);
            let gates = Gates { max_p99_difference: Duration::MAX, ..Gates::default() };
            let old = Baseline::of(&new);
            let pair = Pair { new: &new, old: old.as_ref() };
            gates.judge(pair, Pair { old: None, ..pair });
            gates.judge(pair, pair);
        }
    }
}

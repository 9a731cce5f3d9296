//! Whether the new arm is good enough: the rules, without a clock.

use std::time::Duration;

use crate::{ConfigError, select::ArmStatistics};

/// What the new arm has to be like, beside the old one.
///
/// Both are measured over the canary's [window](crate::select::CanaryBuilder::window). A difference has three outcomes: it is within its limit; it is beyond it so
/// clearly that chance does not explain it (by two standard deviations), and the rollout rolls back; or neither, and it holds.
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
    /// By how much the new arm's error rate may be above the old one's: 0.01, one call in a hundred. Calls that found the new arm not ready are errors of
    /// its.
    pub fn max_error_difference(mut self, share: f64) -> Self {
        self.0.max_error_difference = share;
        self
    }

    /// How many times the old arm's p99 the new one's may be: 1.25. It is too much only if it passes
    /// [`max_p99_difference`](Self::max_p99_difference) too.
    pub fn max_p99_ratio(mut self, ratio: f64) -> Self {
        self.0.max_p99_ratio = ratio;
        self
    }

    /// By how much the new arm's p99 may be above the old one's, whatever the ratio: 5 ms.
    pub fn max_p99_difference(mut self, difference: Duration) -> Self {
        self.0.max_p99_difference = difference;
        self
    }

    /// How many calls each arm needs within the window: 100. An arm that clearly fails is not given that many: twenty of its calls are enough to roll
    /// back.
    pub fn min_samples(mut self, calls: u64) -> Self {
        self.0.min_samples = calls;
        self
    }

    /// Checks the settings.
    ///
    /// # Errors
    /// When the error difference is not within 0 to 1, the ratio below 1 or above 1000, or the samples are 0.
    pub fn build(self) -> Result<Gates, ConfigError> {
        let built = self.0;
        ConfigError::share("rollout.max_error_difference", built.max_error_difference)?;
        if !(1.0..=1000.0).contains(&built.max_p99_ratio) {
            let accepted = "1.0 to 1000.0 is accepted";
            return Err(ConfigError::new(
                "rollout.max_p99_ratio",
                built.max_p99_ratio,
                accepted,
            ));
        }
        let samples = usize::try_from(built.min_samples).unwrap_or(usize::MAX);
        ConfigError::nonzero("rollout.min_samples", samples)?;
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
    pub(super) p99: Duration,
}

impl Baseline {
    pub(super) fn of(old: &ArmStatistics) -> Option<Self> {
        Some(Self {
            calls: old.calls + old.diverted,
            failures: old.failures + old.diverted,
            p99: old.quantile(P99)?,
        })
    }
}

const P99: f64 = 0.99;
/// Standard deviations.
const CLEAR: f64 = 2.0;
/// Fewer calls than these never roll back.
const FEWEST: u64 = 20;

/// A share and its variance, with a failure and a success more than there were, so that none of none is not certain (Agresti and Caffo, 2000).
fn share(failures: u64, calls: u64) -> (f64, f64) {
    let n = calls as f64 + 2.0;
    let share = (failures as f64 + 1.0) / n;
    (share, share * (1.0 - share) / n)
}

impl Gates {
    /// Compares the new arm with the old one, or with what that was like.
    pub(super) fn judge(&self, new: &ArmStatistics, old: Option<&Baseline>) -> Verdict {
        let calls = new.calls + new.diverted;
        let failures = new.failures + new.diverted;
        let Some(old) = old else {
            return Verdict::Unclear("nothing is known of the old arm".into());
        };
        let percent = |share: f64| share * 100.0;
        if calls >= self.min_samples.min(FEWEST) {
            let (rate, variance) = share(failures, calls);
            let (old_rate, old_variance) = share(old.failures, old.calls);
            let surely = rate - old_rate - CLEAR * (variance + old_variance).sqrt();
            if surely > self.max_error_difference {
                return Verdict::Failed(format!(
                    "{failures} of {calls} calls over the new arm failed, {} of {} over the old one: more than {:.2} % apart",
                    old.failures,
                    old.calls,
                    percent(self.max_error_difference),
                ));
            }
        }
        let limit = old
            .p99
            .mul_f64(self.max_p99_ratio)
            .max(old.p99.saturating_add(self.max_p99_difference));
        let answered = new.latencies.count();
        let p99 = new.quantile(P99);
        if answered >= self.min_samples {
            // The rank below which chance alone seldom puts the true p99.
            let deviation = (P99 * (1.0 - P99) / answered as f64).sqrt();
            let surely = new.quantile((P99 - CLEAR * deviation).max(0.0));
            if let (Some(surely), Some(p99)) = (surely, p99)
                && surely > limit
            {
                return Verdict::Failed(format!(
                    "p99 over the new arm is {p99:.1?}, {:.1?} over the old one: above {limit:.1?}",
                    old.p99
                ));
            }
        }
        for (which, calls) in [("new", calls.min(answered)), ("old", old.calls)] {
            if calls < self.min_samples {
                let needed = self.min_samples;
                return Verdict::Unclear(format!("{calls} of {needed} calls over the {which} arm"));
            }
        }
        let difference =
            failures as f64 / calls.max(1) as f64 - old.failures as f64 / old.calls.max(1) as f64;
        if difference > self.max_error_difference {
            return Verdict::Unclear(format!(
                "the error rate is {:.2} % higher over the new arm, which may be chance",
                percent(difference)
            ));
        }
        match p99 {
            Some(p99) if p99 > limit => Verdict::Unclear(format!(
                "p99 over the new arm is {p99:.1?} and not {limit:.1?}, which may be chance"
            )),
            _ => Verdict::Passed,
        }
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
        Gates::default().judge(new, old().as_ref())
    }

    #[test]
    fn as_good_passes_and_too_few_wait() {
        assert_eq!(judge(&arm(300, 0, MS * 10)), Verdict::Passed);
        assert!(matches!(judge(&arm(99, 0, MS * 10)), Verdict::Unclear(_)));
        assert!(matches!(judge(&arm(0, 0, MS * 10)), Verdict::Unclear(_)));
        let nothing = Gates::default().judge(&arm(300, 0, MS * 10), None);
        assert!(matches!(nothing, Verdict::Unclear(_)));
        let few = Baseline::of(&arm(50, 0, MS * 10));
        let few = Gates::default().judge(&arm(300, 0, MS * 10), few.as_ref());
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
        let judge = |ms| Gates::default().judge(&arm(300, 0, MS * ms), slow.as_ref());
        assert_eq!(judge(110), Verdict::Passed, "not by a quarter");
        assert!(matches!(judge(150), Verdict::Failed(_)));
        // Two slow ones in three hundred are no p99 for certain, five in a hundred are.
        let mut some = arm(300, 0, MS * 10);
        some.latencies.add(bucket_of(MS * 500), 4);
        let verdict = Gates::default().judge(&some, old().as_ref());
        assert!(matches!(verdict, Verdict::Unclear(_)), "{verdict:?}");
        some.latencies.add(bucket_of(MS * 500), 12);
        let verdict = Gates::default().judge(&some, old().as_ref());
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
            let old = Baseline { calls: u64::from(calls), failures: u64::from(failures), p99: MS * ms };
            gates.judge(&new, Some(&old));
        }
    }
}

//! When to dial again after a dial that failed. Pure: it is told the time and the chance.

use std::time::Duration;

use tokio::time::Instant;

use super::ANOTHER_ATTEMPT;

/// The shortest and the longest wait.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    pub(crate) min: Duration,
    pub(crate) max: Duration,
}

/// Exponential backoff: the wait doubles with each failure, with 20 % of jitter, as gRPC's connection backoff has it.
#[derive(Clone, Debug)]
pub(crate) struct Backoff {
    bounds: Bounds,
    failures: u32,
    failed: Option<Instant>,
    until: Option<Instant>,
}

impl Backoff {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            failures: 0,
            failed: None,
            until: None,
        }
    }

    /// How long the next dial has to wait still; `None` when it is due.
    pub(crate) fn wait(&self, now: Instant) -> Option<Duration> {
        let wait = self.until?.saturating_duration_since(now);
        (!wait.is_zero()).then_some(wait)
    }

    /// How long a dial has to wait that a caller asks for, whatever the wait has grown to.
    pub(crate) fn wait_when_asked(&self, now: Instant) -> Option<Duration> {
        let asked = self.failed? + ANOTHER_ATTEMPT.max(self.bounds.min);
        let wait = asked.saturating_duration_since(now).min(self.wait(now)?);
        (!wait.is_zero()).then_some(wait)
    }

    /// Counts a failure. `chance` is uniform in 0..1.
    pub(crate) fn failed(&mut self, now: Instant, chance: f64) {
        let doubled = self
            .bounds
            .min
            .saturating_mul(1u32.checked_shl(self.failures).unwrap_or(u32::MAX));
        let jitter = 0.8 + 0.4 * chance.clamp(0.0, 1.0);
        let wait = doubled
            .min(self.bounds.max)
            .mul_f64(jitter)
            .min(self.bounds.max);
        self.failures = self.failures.saturating_add(1);
        self.failed = Some(now);
        self.until = Some(now + wait);
    }

    /// The caller paces itself: the next dial is due, and the failures still count.
    pub(crate) fn hurry(&mut self) {
        self.until = None;
    }

    /// The peer has shown signs of life: the next dial is due, and the next failure counts as the first.
    pub(crate) fn reset(&mut self) {
        self.failures = 0;
        self.until = None;
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BOUNDS: Bounds = Bounds {
        min: Duration::from_millis(100),
        max: Duration::from_secs(30),
    };

    proptest! {
        #[test]
        fn waits_double_within_bounds_and_jitter(chances in proptest::collection::vec(0.0f64..1.0, 1..100)) {
            let mut now = Instant::now();
            let mut backoff = Backoff::new(BOUNDS);
            prop_assert_eq!(backoff.wait(now), None);
            for (n, chance) in chances.into_iter().enumerate() {
                backoff.failed(now, chance);
                let wait = backoff.wait(now).expect("not due yet");
                let ideal = Duration::from_millis(100 << n.min(20)).min(BOUNDS.max);
                prop_assert!(wait >= ideal.mul_f64(0.79) && wait <= ideal.mul_f64(1.21), "{wait:?} for {ideal:?}");
                prop_assert!(wait <= BOUNDS.max);
                prop_assert_eq!(backoff.wait_when_asked(now), Some(wait.min(ANOTHER_ATTEMPT)));
                prop_assert_eq!(backoff.wait_when_asked(now + ANOTHER_ATTEMPT), None);
                now += wait;
                prop_assert_eq!(backoff.wait(now), None);
            }
            backoff.reset();
            backoff.failed(now, 0.5);
            prop_assert_eq!(backoff.wait(now), Some(BOUNDS.min));
        }
    }
}

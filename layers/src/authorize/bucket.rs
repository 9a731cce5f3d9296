use std::time::Duration;

use tokio::time::Instant;

/// A token bucket: full at first.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bucket {
    /// How much is missing, so that it is full whatever a reload makes its size.
    used: f64,
    at: Instant,
}

impl Bucket {
    pub(super) fn new(now: Instant) -> Self {
        Self { used: 0.0, at: now }
    }

    /// Takes a token, or says when there will be one.
    pub(super) fn take(&mut self, now: Instant, rate: f64, burst: f64) -> Result<(), Duration> {
        self.refill(now, rate);
        // Where a reload made the bucket smaller, it is empty and not in debt.
        self.used = self.used.min(burst);
        let missing = self.used + 1.0 - burst;
        // What rounding leaves is no reason to make anybody wait.
        if missing > 1e-9 {
            return Err(Duration::try_from_secs_f64(missing / rate).unwrap_or(Duration::MAX));
        }
        self.used += 1.0;
        Ok(())
    }

    /// Whether it is as good as a new one.
    pub(super) fn is_full(&mut self, now: Instant, rate: f64) -> bool {
        self.refill(now, rate);
        self.used <= 0.0
    }

    fn refill(&mut self, now: Instant, rate: f64) {
        let passed = now.saturating_duration_since(self.at).as_secs_f64();
        self.used = (self.used - passed * rate).max(0.0);
        self.at = now.max(self.at);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_burst_then_the_rate_and_it_says_when() {
        let start = Instant::now();
        let mut bucket = Bucket::new(start);
        for _ in 0..3 {
            assert_eq!(bucket.take(start, 2.0, 3.0), Ok(()));
        }
        let wait = bucket.take(start, 2.0, 3.0).expect_err("it is empty");
        assert_eq!(wait, Duration::from_millis(500));
        assert_eq!(bucket.take(start + wait, 2.0, 3.0), Ok(()));
        assert!(bucket.take(start + wait, 2.0, 3.0).is_err());
        assert!(!bucket.is_full(start + wait, 2.0));
        assert!(bucket.is_full(start + Duration::from_secs(10), 2.0));
    }

    proptest! {
        #[test]
        fn never_more_than_burst_and_rate_and_a_wait_is_true(
            steps in proptest::collection::vec(0u64..2000, 1..100),
            rate in 0.1f64..50.0,
            burst in 1u32..20,
        ) {
            let start = Instant::now();
            let mut now = start;
            let mut bucket = Bucket::new(start);
            let mut taken = 0.0;
            for step in steps {
                now += Duration::from_millis(step);
                match bucket.take(now, rate, burst.into()) {
                    Ok(()) => taken += 1.0,
                    Err(wait) => {
                        let mut later = bucket;
                        let then = now + wait + Duration::from_micros(1);
                        prop_assert!(later.take(then, rate, burst.into()).is_ok());
                    }
                }
                let most = f64::from(burst) + rate * (now - start).as_secs_f64();
                prop_assert!(taken <= most + 1e-6, "{taken} of {most}");
            }
        }
    }
}

//! Durations in buckets whose width grows with them: eight to an octave, as HdrHistogram has them.

use std::time::Duration;

/// Of this size are the smallest: 1.024 us.
const UNIT: u32 = 10;
const SUB: u32 = 3;
const PER_OCTAVE: usize = 1 << SUB;
/// The last one begins at 64 s.
pub(crate) const BUCKETS: usize = PER_OCTAVE * 24;

/// The bucket of a duration.
pub(crate) fn bucket_of(duration: Duration) -> usize {
    let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    let units = nanos >> UNIT;
    if units < PER_OCTAVE as u64 {
        return units as usize;
    }
    let shift = u64::BITS - 1 - units.leading_zeros() - SUB;
    let within = (units >> shift) as usize - PER_OCTAVE;
    ((shift as usize + 1) * PER_OCTAVE + within).min(BUCKETS - 1)
}

/// Where a bucket begins and how wide it is, in units.
fn bounds(bucket: usize) -> (u64, u64) {
    match bucket.checked_sub(PER_OCTAVE) {
        None => (bucket as u64, 1),
        Some(above) => {
            let shift = above / PER_OCTAVE;
            let begin = ((PER_OCTAVE + above % PER_OCTAVE) as u64) << shift;
            (begin, 1 << shift)
        }
    }
}

/// The times of calls to their response's head, as a histogram: each is known to an eighth or better.
#[derive(Clone, PartialEq, Eq)]
pub struct Latencies {
    counts: Box<[u64; BUCKETS]>,
    total: u64,
}

impl Latencies {
    pub(super) fn new() -> Self {
        Self {
            counts: Box::new([0; BUCKETS]),
            total: 0,
        }
    }

    pub(crate) fn add(&mut self, bucket: usize, count: u64) {
        if let Some(place) = self.counts.get_mut(bucket) {
            *place += count;
            self.total += count;
        }
    }

    pub(super) fn merge(&mut self, other: &Self) {
        for (bucket, count) in other.counts.iter().enumerate() {
            self.add(bucket, *count);
        }
    }

    /// The number of times.
    pub fn count(&self) -> u64 {
        self.total
    }

    /// How many of them exceeded `duration`, if they are evenly spread within its bucket.
    #[cfg(any(test, feature = "rollout"))]
    pub(crate) fn above(&self, duration: Duration) -> f64 {
        let units = duration.as_nanos() as f64 / f64::from(1 << UNIT);
        let above = self.counts.iter().enumerate().map(|(bucket, count)| {
            let (begin, width) = bounds(bucket);
            let part = (begin as f64 + width as f64 - units) / width as f64;
            *count as f64 * part.clamp(0.0, 1.0)
        });
        above.sum()
    }

    /// The time that `share` of them, 0.9 for example, did not exceed; `None` if there are none or `share` is not within 0 to
    /// 1.
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        if self.total == 0 || !(0.0..=1.0).contains(&share) {
            return None;
        }
        let rank = (share * self.total as f64).max(f64::MIN_POSITIVE);
        let mut below = 0;
        for (bucket, count) in self.counts.iter().enumerate() {
            if *count > 0 && (below + count) as f64 >= rank {
                // Evenly spread within the bucket.
                let (begin, width) = bounds(bucket);
                let part = (rank - below as f64) / *count as f64;
                let units = begin as f64 + width as f64 * part.clamp(0.0, 1.0);
                return Some(Duration::from_nanos((units * f64::from(1 << UNIT)) as u64));
            }
            below += count;
        }
        None
    }
}

impl std::fmt::Debug for Latencies {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Latencies")
            .field("count", &self.total)
            .field("p50", &self.quantile(0.5))
            .field("p90", &self.quantile(0.9))
            .field("p99", &self.quantile(0.99))
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn buckets_follow_each_other_without_a_gap() {
        for bucket in 1..BUCKETS {
            let (begin, width) = bounds(bucket - 1);
            assert_eq!(bounds(bucket).0, begin + width);
        }
        let seconds = (bounds(BUCKETS - 1).0 << UNIT) / 1_000_000_000;
        assert_eq!(seconds, 64);
    }

    proptest! {
        #[test]
        fn a_duration_is_in_its_bucket(nanos in any::<u64>()) {
            let bucket = bucket_of(Duration::from_nanos(nanos));
            let (begin, width) = bounds(bucket);
            let units = nanos >> UNIT;
            prop_assert!(begin <= units);
            prop_assert!(bucket == BUCKETS - 1 || units < begin + width);
        }

        #[test]
        fn a_quantile_is_within_an_eighth_of_the_true_one(
            mut micros in proptest::collection::vec(20u64..10_000_000, 1..300), share in 0.01..1.0f64,
        ) {
            let mut latencies = Latencies::new();
            for micros in &micros {
                latencies.add(bucket_of(Duration::from_micros(*micros)), 1);
            }
            micros.sort_unstable();
            let rank = (share * micros.len() as f64).ceil() as usize;
            let exact = micros[rank.max(1) - 1] as f64;
            let found = latencies.quantile(share).expect("some").as_secs_f64() * 1e6;
            prop_assert!((found - exact).abs() <= exact / 8.0 + 2.0, "{found} {exact}");
        }

        #[test]
        fn a_quantile_has_its_share_above_it(
            micros in proptest::collection::vec(20u64..10_000_000, 1..300), share in 0.01..1.0f64,
        ) {
            let mut latencies = Latencies::new();
            for micros in &micros {
                latencies.add(bucket_of(Duration::from_micros(*micros)), 1);
            }
            let above = latencies.above(latencies.quantile(share).expect("some"));
            prop_assert!((above - micros.len() as f64 * (1.0 - share)).abs() < 0.5, "{above}");
        }

        #[test]
        fn no_share_panics(share in any::<f64>()) {
            let mut latencies = Latencies::new();
            prop_assert!(latencies.quantile(share).is_none());
            latencies.add(bucket_of(Duration::MAX), 1);
            latencies.quantile(share);
        }
    }
}

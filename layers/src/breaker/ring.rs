//! How many of the last calls failed: a ring of buckets, each one atomic word.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tokio::time::Instant;

pub(super) const BUCKETS: u64 = 10;

/// Counts in a sliding window. Recording touches one bucket, whatever the window's length and the time since the last record.
pub(super) struct Ring {
    start: Instant,
    /// Nanoseconds in a bucket.
    tick: u64,
    /// The tick of the last read. Most calls fall into it and need no division.
    latest: AtomicU64,
    buckets: [AtomicU64; BUCKETS as usize],
}

/// What is in the window.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub(super) struct Counts {
    pub(super) total: u32,
    pub(super) bad: u32,
}

/// A bucket's word: when it was begun in 28 bits, and two counts of 18. A bucket that is not of the last ten ticks is empty, so nothing
/// needs to sweep. 2^28 ticks of a second are eight years.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Bucket {
    stamp: u64,
    total: u64,
    bad: u64,
}

const COUNT: u32 = 18;
const MOST: u64 = (1 << COUNT) - 1;
const STAMPS: u64 = 1 << (64 - 2 * COUNT);

impl Bucket {
    fn unpack(word: u64) -> Self {
        Self {
            stamp: word >> (2 * COUNT),
            total: word >> COUNT & MOST,
            bad: word & MOST,
        }
    }

    fn pack(self) -> u64 {
        self.stamp << (2 * COUNT) | self.total << COUNT | self.bad
    }
}

impl Ring {
    /// `window` is at least 10 ns and at most an hour: [`BreakerConfig`](super::BreakerConfig) sees to it.
    pub(super) fn new(window: Duration, start: Instant) -> Self {
        Self {
            start,
            tick: (window.as_nanos() as u64 / BUCKETS).max(1),
            latest: AtomicU64::new(0),
            buckets: Default::default(),
        }
    }

    #[inline]
    fn tick_of(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.start);
        let since = since.as_secs() * 1_000_000_000 + u64::from(since.subsec_nanos());
        let latest = self.latest.load(Ordering::Relaxed);
        if since.wrapping_sub(latest * self.tick) < self.tick {
            return latest;
        }
        let tick = since / self.tick;
        self.latest.store(tick, Ordering::Relaxed);
        tick
    }

    /// Counts one call.
    pub(super) fn record(&self, now: Instant, bad: bool) {
        let tick = self.tick_of(now);
        let stamp = tick % STAMPS;
        let bucket = &self.buckets[(tick % BUCKETS) as usize];
        let mut word = bucket.load(Ordering::Relaxed);
        loop {
            let mut counts = Bucket::unpack(word);
            if counts.stamp != stamp {
                counts = Bucket {
                    stamp,
                    total: 0,
                    bad: 0,
                };
            }
            if counts.total == MOST {
                // The share is what counts, and halving keeps it.
                counts.total /= 2;
                counts.bad /= 2;
            }
            counts.total += 1;
            counts.bad += u64::from(bad);
            match bucket.compare_exchange_weak(
                word,
                counts.pack(),
                Ordering::Relaxed,
                Ordering::Relaxed,
            ) {
                Ok(_) => return,
                Err(seen) => word = seen,
            }
        }
    }

    /// What the window that ends now holds.
    pub(super) fn counts(&self, now: Instant) -> Counts {
        let tick = self.tick_of(now);
        let mut counts = Counts::default();
        for back in 0..BUCKETS.min(tick + 1) {
            let tick = tick - back;
            let bucket = &self.buckets[(tick % BUCKETS) as usize];
            let bucket = Bucket::unpack(bucket.load(Ordering::Relaxed));
            if bucket.stamp == tick % STAMPS {
                counts.total += bucket.total as u32;
                counts.bad += bucket.bad as u32;
            }
        }
        counts
    }

    /// Forgets everything.
    pub(super) fn clear(&self) {
        for bucket in &self.buckets {
            bucket.store(0, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn the_ring_is_the_list_of_the_last_ten_ticks(
            steps in proptest::collection::vec((0u64..30_000, any::<bool>(), 1usize..50), 1..60),
            window_ms in 100u64..60_000,
        ) {
            let start = Instant::now();
            let ring = Ring::new(Duration::from_millis(window_ms), start);
            let tick_ns = window_ms * 1_000_000 / BUCKETS;
            let mut all: Vec<(u64, bool)> = Vec::new();
            let mut at = Duration::ZERO;
            for (step_ms, bad, times) in steps {
                at += Duration::from_millis(step_ms);
                let tick = at.as_nanos() as u64 / tick_ns;
                for _ in 0..times {
                    ring.record(start + at, bad);
                    all.push((tick, bad));
                }
                let within = all.iter().filter(|(then, _)| then + BUCKETS > tick);
                let bad = within.clone().filter(|(_, bad)| *bad).count() as u32;
                prop_assert_eq!(ring.counts(start + at), Counts { total: within.count() as u32, bad });
            }
        }
    }

    proptest! {
        /// Time goes back where one thread looked at it before another.
        #[test]
        fn the_last_look_changes_no_tick(looks in proptest::collection::vec(0u64..100_000, 1..50)) {
            let start = Instant::now();
            let ring = Ring::new(Duration::from_secs(10), start);
            for ms in looks {
                prop_assert_eq!(ring.tick_of(start + Duration::from_millis(ms)), ms / 1000);
            }
        }
    }

    #[test]
    fn a_full_bucket_keeps_its_share() {
        let start = Instant::now();
        let ring = Ring::new(Duration::from_secs(10), start);
        for n in 0..1_000_000 {
            ring.record(start, n % 4 == 0);
        }
        let counts = ring.counts(start);
        let share = f64::from(counts.bad) / f64::from(counts.total);
        assert!((share - 0.25).abs() < 0.001, "{counts:?}");
        assert!(u64::from(counts.total) > MOST / 2);
    }

    #[test]
    fn nothing_is_lost_between_threads() {
        let start = Instant::now();
        let ring = Ring::new(Duration::from_secs(10), start);
        std::thread::scope(|scope| {
            for bad in [true, false, false] {
                let ring = &ring;
                scope.spawn(move || (0..1000).for_each(|_| ring.record(start, bad)));
            }
        });
        let expected = Counts {
            total: 3000,
            bad: 1000,
        };
        assert_eq!(ring.counts(start), expected);
        let later = start + Duration::from_secs(60 * 86_400);
        assert_eq!(ring.counts(later), Counts::default());
    }
}

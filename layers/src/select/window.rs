//! What the last seconds' calls over one arm were like: a ring of slots, of atomics only.

use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering},
    time::Duration,
};

use tokio::time::Instant;

use super::histogram::{BUCKETS, Latencies, bucket_of};

/// So many slots are a window. Where several are kept, there are as many times that.
const SLOTS: u64 = 10;
/// A slot that is being emptied for its next turn.
const EMPTYING: u64 = u64::MAX;

/// To record touches two words of one slot, whatever the window. A slot is emptied by who comes first in its turn.
pub(super) struct Window {
    start: Instant,
    /// Nanoseconds in a slot.
    tick: u64,
    slots: Box<[Slot]>,
    /// The last tick that somebody saw.
    latest: AtomicU64,
    /// How many calls ended in the slot before.
    rate: AtomicU32,
}

struct Slot {
    /// Which tick it holds, counted from 1.
    stamp: AtomicU64,
    ended: AtomicU32,
    failed: AtomicU32,
    diverted: AtomicU32,
    latencies: [AtomicU32; BUCKETS],
}

/// The results in a window.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct ArmStatistics {
    /// How many calls ended in a way that says something about the arm. Cancelled calls, and calls that this side rejected, do not count.
    pub calls: u64,
    /// How many of these failed: all whose [`Outcome::verdict`](crate::classify::Outcome::verdict) is neither a success nor neutral, those that were
    /// refused, and those that a proxy answered with an HTTP status.
    pub failures: u64,
    /// How many calls should have gone over this arm and went over the other, since this one was not ready.
    pub diverted: u64,
    /// The times to the response's head, of calls that were answered.
    pub latencies: Latencies,
}

impl ArmStatistics {
    pub(crate) fn new() -> Self {
        Self {
            calls: 0,
            failures: 0,
            diverted: 0,
            latencies: Latencies::new(),
        }
    }

    /// The share of the calls that failed or found the arm not ready; 0 without calls.
    pub fn error_rate(&self) -> f64 {
        let all = self.calls + self.diverted;
        match all {
            0 => 0.0,
            _ => (self.failures + self.diverted) as f64 / all as f64,
        }
    }

    /// [`Latencies::quantile`].
    pub fn quantile(&self, share: f64) -> Option<Duration> {
        self.latencies.quantile(share)
    }

    pub(super) fn merge(&mut self, other: &Self) {
        self.calls += other.calls;
        self.failures += other.failures;
        self.diverted += other.diverted;
        self.latencies.merge(&other.latencies);
    }
}

impl Window {
    /// `window` is 1 s to 1 h; so many of them, one after the other, are kept.
    pub(super) fn new(window: Duration, windows: u64, start: Instant) -> Self {
        Self {
            start,
            tick: (window.as_nanos() as u64 / SLOTS).max(1),
            slots: (0..SLOTS * windows).map(|_| Slot::new()).collect(),
            latest: AtomicU64::new(0),
            rate: AtomicU32::new(0),
        }
    }

    fn tick_of(&self, now: Instant) -> u64 {
        let since = now.saturating_duration_since(self.start);
        (since.as_secs() * 1_000_000_000 + u64::from(since.subsec_nanos())) / self.tick + 1
    }

    /// The slot that a tick has in its turn.
    #[inline]
    fn place(&self, tick: u64) -> Option<&Slot> {
        self.slots.get((tick % self.slots.len() as u64) as usize)
    }

    /// The slot for `now`. `None` while another thread empties it: that sample is not counted.
    #[inline]
    fn slot(&self, now: Instant) -> Option<&Slot> {
        self.slot_of(self.tick_of(now))
    }

    #[inline]
    fn slot_of(&self, tick: u64) -> Option<&Slot> {
        let slot = self.place(tick)?;
        let seen = slot.stamp.load(Ordering::Acquire);
        if seen == tick {
            return Some(slot);
        }
        self.turn(slot, seen, tick)
    }

    /// Empties a slot for its next turn.
    #[cold]
    fn turn<'a>(&self, slot: &'a Slot, seen: u64, tick: u64) -> Option<&'a Slot> {
        // Another is at it, or `now` was asked for a whole window ago.
        if seen >= tick {
            return None;
        }
        let (acquire, relaxed) = (Ordering::Acquire, Ordering::Relaxed);
        slot.stamp
            .compare_exchange(seen, EMPTYING, acquire, relaxed)
            .ok()?;
        slot.empty();
        slot.stamp.store(tick, Ordering::Release);
        let before = self.latest.swap(tick, Ordering::Relaxed);
        let before = self
            .place(before)
            .filter(|slot| before + 1 == tick && slot.stamp.load(Ordering::Acquire) == before);
        let rate = before.map_or(0, |slot| slot.ended.load(Ordering::Relaxed));
        self.rate.store(rate, Ordering::Relaxed);
        Some(slot)
    }

    /// How many calls ended in the last slot that is complete; 0 after a pause.
    #[inline]
    pub(super) fn rate(&self) -> u32 {
        self.rate.load(Ordering::Relaxed)
    }

    /// The slot of the last look at the clock, for a call that has none.
    #[inline]
    pub(super) fn latest(&self) -> u64 {
        self.latest.load(Ordering::Relaxed)
    }

    /// A call's answer has begun. Returns which slot that is, for [`succeeded_in`](Self::succeeded_in).
    #[inline]
    pub(super) fn answered(&self, now: Instant, latency: Duration) -> u64 {
        let tick = self.tick_of(now);
        if let Some(slot) = self.slot_of(tick)
            && let Some(bucket) = slot.latencies.get(bucket_of(latency))
        {
            bucket.fetch_add(1, Ordering::Relaxed);
        }
        tick
    }

    /// A call has ended well whose answer began in the slot of `tick`: most end right after, and need no look at the clock. False where
    /// that slot has passed.
    #[inline]
    pub(super) fn succeeded_in(&self, tick: u64) -> bool {
        let slot = self.place(tick);
        let slot = slot.filter(|slot| slot.stamp.load(Ordering::Acquire) == tick);
        if let Some(slot) = slot {
            slot.ended.fetch_add(1, Ordering::Relaxed);
        }
        slot.is_some()
    }

    /// A call has ended.
    pub(super) fn ended(&self, now: Instant, failed: bool) {
        if let Some(slot) = self.slot(now) {
            slot.ended.fetch_add(1, Ordering::Relaxed);
            if failed {
                slot.failed.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// A call went elsewhere.
    pub(super) fn diverted(&self, now: Instant) {
        if let Some(slot) = self.slot(now) {
            slot.diverted.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// What the window that ends now holds.
    pub(super) fn read(&self, now: Instant) -> ArmStatistics {
        self.read_last(now, SLOTS)
    }

    /// What all windows hold that are kept.
    pub(super) fn read_all(&self, now: Instant) -> ArmStatistics {
        self.read_last(now, self.slots.len() as u64)
    }

    fn read_last(&self, now: Instant, slots: u64) -> ArmStatistics {
        let tick = self.tick_of(now);
        let mut all = ArmStatistics::new();
        for slot in &self.slots {
            let stamp = slot.stamp.load(Ordering::Acquire);
            if stamp == 0 || stamp > tick || stamp + slots <= tick {
                continue;
            }
            let get = |count: &AtomicU32| u64::from(count.load(Ordering::Relaxed));
            all.calls += get(&slot.ended);
            all.failures += get(&slot.failed);
            all.diverted += get(&slot.diverted);
            for (bucket, count) in slot.latencies.iter().enumerate() {
                all.latencies.add(bucket, get(count));
            }
        }
        // A call that ends just now may have been seen by half.
        all.failures = all.failures.min(all.calls);
        all
    }

    /// Forgets everything.
    pub(super) fn clear(&self) {
        for slot in &self.slots {
            let seen = slot.stamp.load(Ordering::Acquire);
            let (acquire, relaxed) = (Ordering::Acquire, Ordering::Relaxed);
            let exchange = |seen| {
                slot.stamp
                    .compare_exchange(seen, EMPTYING, acquire, relaxed)
            };
            if seen != EMPTYING && exchange(seen).is_ok() {
                slot.empty();
                slot.stamp.store(seen, Ordering::Release);
            }
        }
    }
}

impl Slot {
    fn new() -> Self {
        Self {
            stamp: AtomicU64::new(0),
            ended: AtomicU32::new(0),
            failed: AtomicU32::new(0),
            diverted: AtomicU32::new(0),
            latencies: std::array::from_fn(|_| AtomicU32::new(0)),
        }
    }

    fn empty(&self) {
        let counts = [&self.ended, &self.failed, &self.diverted];
        for count in counts.into_iter().chain(&self.latencies) {
            count.store(0, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn it_is_the_list_of_the_last_slots(
            steps in proptest::collection::vec((0u64..30_000, any::<bool>(), 1usize..20), 1..60),
            window_ms in 1000u64..60_000,
            windows in 1u64..4,
        ) {
            let start = Instant::now();
            let window = Window::new(Duration::from_millis(window_ms), windows, start);
            let mut all: Vec<(u64, bool)> = Vec::new();
            let mut at = Duration::ZERO;
            for (step_ms, failed, times) in steps {
                at += Duration::from_millis(step_ms);
                let now = start + at;
                for _ in 0..times {
                    window.answered(now, Duration::from_millis(step_ms));
                    window.ended(now, failed);
                    all.push((window.tick_of(now), failed));
                }
                let tick = window.tick_of(now);
                for (read, slots) in [(window.read(now), SLOTS), (window.read_all(now), SLOTS * windows)] {
                    let within: Vec<_> = all.iter().filter(|(then, _)| then + slots > tick).collect();
                    prop_assert_eq!(read.calls, within.len() as u64);
                    prop_assert_eq!(read.latencies.count(), within.len() as u64);
                    let failures = within.iter().filter(|(_, failed)| *failed).count();
                    prop_assert_eq!(read.failures, failures as u64);
                }
            }
        }
    }

    #[test]
    fn the_rate_is_that_of_the_slot_before() {
        let start = Instant::now();
        let window = Window::new(Duration::from_secs(10), 1, start);
        let at = |seconds| start + Duration::from_secs(seconds);
        for _ in 0..700 {
            window.ended(at(0), false);
        }
        assert_eq!(window.rate(), 0, "not complete");
        let tick = window.answered(at(1), Duration::ZERO);
        assert_eq!((window.rate(), window.latest()), (700, tick));
        assert!(window.succeeded_in(tick));
        window.answered(at(5), Duration::ZERO);
        assert_eq!(window.rate(), 0, "a pause");
        assert!(window.succeeded_in(tick), "still within the window");
        window.answered(at(11), Duration::ZERO);
        assert!(!window.succeeded_in(tick));
    }

    #[test]
    fn what_was_diverted_is_an_error_of_the_arm() {
        let now = Instant::now();
        let window = Window::new(Duration::from_secs(10), 1, now);
        assert_eq!(window.read(now).error_rate(), 0.0);
        window.ended(now, false);
        window.diverted(now);
        assert_eq!(window.read(now).error_rate(), 0.5);
        window.clear();
        assert_eq!(window.read(now), ArmStatistics::new());
        window.ended(now, true);
        assert_eq!(window.read(now).error_rate(), 1.0);
    }

    #[test]
    fn threads_lose_nothing_within_a_slot() {
        let now = Instant::now();
        let window = Window::new(Duration::from_secs(10), 1, now);
        window.ended(now, false);
        std::thread::scope(|scope| {
            for failed in [true, false, false] {
                let window = &window;
                scope.spawn(move || (0..1000).for_each(|_| window.ended(now, failed)));
            }
        });
        let read = window.read(now);
        assert_eq!((read.calls, read.failures), (3001, 1000));
    }
}

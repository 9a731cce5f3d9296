//! A path's shortest round trip. Pure: the caller passes the time.
//!
//! A path may get longer for good: a satellite hands over, a phone roams behind one address, a VPN takes another way. So the shortest round trip is that of the
//! last 5 to 10 s of use, as BBR's `min_rtt` is that of 10 s. BBR3 drains its queue every 5 s, so a busy long path shows its own length within that time.

use std::time::{Duration, Instant};

use super::SHORT_PATH;

/// Half of what is remembered.
const PERIOD: Duration = Duration::from_secs(5);
/// A short path stays short unless nothing in a period was faster than this: Cubic does not drain its queue, and the short window of 128 KiB at 50 Mbit/s
/// takes that long.
const STAYS_SHORT: Duration = Duration::from_millis(25);

/// The shortest round trip within the current period and the one before.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Shortest {
    current: Option<Duration>,
    before: Option<Duration>,
    since: Option<Instant>,
}

impl Shortest {
    /// A packet, or a sample of the path, took this long.
    pub(super) fn saw(&mut self, now: Instant, round_trip: Duration) {
        let since = *self.since.get_or_insert(now);
        if now.saturating_duration_since(since) >= PERIOD {
            let below = |bound| move |shortest: &Duration| *shortest < bound;
            let is_short = self.get().filter(below(SHORT_PATH));
            self.before = match self.current.filter(below(STAYS_SHORT)) {
                Some(_) if is_short.is_some() => is_short,
                _ => self.current,
            };
            (self.current, self.since) = (None, Some(now));
        }
        self.current = Some(
            self.current
                .map_or(round_trip, |current| current.min(round_trip)),
        );
    }

    /// `None` while nothing was seen: packets of a path may be lost before the first is acknowledged.
    pub(super) fn get(&self) -> Option<Duration> {
        self.current.into_iter().chain(self.before).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What is remembered after each second, where every 10 ms a packet takes so many milliseconds.
    fn seconds(round_trips: &[u64]) -> Vec<u64> {
        let mut shortest = Shortest::default();
        let mut now = Instant::now();
        let each = round_trips.iter().map(|ms| {
            for _ in 0..100 {
                shortest.saw(now, Duration::from_millis(*ms));
                now += Duration::from_millis(10);
            }
            shortest.get().expect("seen").as_millis() as u64
        });
        each.collect()
    }

    #[test]
    fn a_path_that_gets_longer_is_noticed_within_ten_seconds() {
        for start in 1..=10 {
            let path: Vec<_> = [20]
                .repeat(start)
                .into_iter()
                .chain([60].repeat(10))
                .collect();
            let seen = seconds(&path);
            assert_eq!(seen[start - 1], 20);
            assert_eq!(seen[start + 9], 60, "{seen:?}");
        }
    }

    #[test]
    fn one_that_gets_shorter_is_noticed_at_once_and_a_queue_that_drains_is_none() {
        assert_eq!(seconds(&[60, 20]), [60, 20]);
        // A queue of up to 40 ms that drains every five seconds.
        let queue = [60, 60, 60, 60, 20].repeat(4);
        assert!(seconds(&queue)[4..].iter().all(|seen| *seen == 20));
    }

    #[test]
    fn a_short_path_stays_short_under_its_own_queue_and_becomes_long_when_it_is() {
        let queue: Vec<_> = [0].into_iter().chain([10].repeat(60)).collect();
        assert!(seconds(&queue).iter().all(|seen| *seen == 0));
        let moved: Vec<_> = [0].into_iter().chain([30].repeat(10)).collect();
        assert_eq!(seconds(&moved)[10], 30);
    }

    #[test]
    fn what_was_seen_before_a_pause_is_remembered_after_it() {
        let mut shortest = Shortest::default();
        let now = Instant::now();
        shortest.saw(now, Duration::from_millis(20));
        shortest.saw(now + Duration::from_secs(3600), Duration::from_millis(90));
        assert_eq!(shortest.get(), Some(Duration::from_millis(20)));
    }
}

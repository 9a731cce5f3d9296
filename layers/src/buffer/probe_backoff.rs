//! How fast calls are handed over while they come back. Pure: the caller passes the time.

use std::time::Duration;

use tokio::time::Instant;

const SHORTEST: Duration = Duration::from_millis(10);
const LONGEST: Duration = Duration::from_secs(1);

/// The wait of a call that this side has rejected this many times in a row.
pub(super) fn after(rejections: u32) -> Duration {
    let factor = 1_u32.checked_shl(rejections).unwrap_or(u32::MAX);
    SHORTEST.saturating_mul(factor).min(LONGEST)
}

/// A peer that is there takes calls as fast as it is ready. After a failed delivery one call finds out whether the peer is back, and the
/// others keep their order in the queue. Each further failure doubles the wait before the next, so that a service that is always ready
/// and always fails does not cause a busy loop.
///
/// A slow call, or one that its caller no longer polls, delays the others by the longest wait, not by its own length.
#[derive(Debug)]
pub(super) struct ProbeBackoff {
    wait: Duration,
    /// When the wait last changed: an attempt that began before says nothing new.
    since: Instant,
    next: Instant,
}

impl ProbeBackoff {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            wait: Duration::ZERO,
            since: now,
            next: now,
        }
    }

    /// When the next call may be handed over; `None` if at once.
    pub(super) fn holds_until(&self, now: Instant) -> Option<Instant> {
        (!self.wait.is_zero() && now < self.next).then_some(self.next)
    }

    pub(super) fn handed_over(&mut self, now: Instant) {
        if !self.wait.is_zero() {
            self.next = now + LONGEST;
        }
    }

    /// An attempt that began at `began` came back.
    pub(super) fn failed(&mut self, began: Instant, now: Instant) {
        if !self.wait.is_zero() && began <= self.since {
            return;
        }
        self.wait = (self.wait * 2).clamp(SHORTEST, LONGEST);
        self.since = now;
        self.next = now + self.wait;
    }

    /// An attempt that began at `began` was rejected on this side. It says nothing about the peer, so another call finds out at once.
    pub(super) fn rejected(&mut self, began: Instant, now: Instant) {
        if began > self.since {
            self.next = now;
        }
    }

    /// The peer answered. Returns whether that ends a wait.
    pub(super) fn succeeded(&mut self) -> bool {
        !std::mem::take(&mut self.wait).is_zero()
    }

    /// The next call may go at once, whatever failed before.
    pub(super) fn hurry(&mut self, now: Instant) {
        self.next = now;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_per_round_and_not_per_call() {
        let start = Instant::now();
        let mut pace = ProbeBackoff::new(start);
        assert_eq!(pace.holds_until(start), None);
        for _ in 0..1_000 {
            pace.failed(start, start);
        }
        let first = pace.holds_until(start).expect("a wait");
        assert_eq!(first, start + SHORTEST);
        let mut now = first;
        for _ in 0..20 {
            assert_eq!(pace.holds_until(now), None, "due");
            pace.handed_over(now);
            pace.failed(now, now);
            now = pace.holds_until(now).expect("a wait");
        }
        assert_eq!(now - pace.since, LONGEST);
        assert!(pace.succeeded() && !pace.succeeded());
        assert_eq!(pace.holds_until(now), None);
    }

    #[test]
    fn a_rejection_on_this_side_ends_no_wait_and_costs_none() {
        let start = Instant::now();
        let mut pace = ProbeBackoff::new(start);
        pace.rejected(start, start);
        assert_eq!(pace.holds_until(start), None);
        pace.failed(start, start);
        let due = start + SHORTEST;
        pace.rejected(start, start);
        assert_eq!(pace.holds_until(start), Some(due), "it began before");
        pace.handed_over(due);
        pace.rejected(due, due);
        assert_eq!(pace.holds_until(due), None, "another one finds out");
        pace.handed_over(due);
        pace.failed(due, due);
        assert_eq!(pace.holds_until(due), Some(due + SHORTEST * 2));

        let waits: Vec<_> = (0..9).map(|n| after(n).as_millis()).collect();
        assert_eq!(waits, [10, 20, 40, 80, 160, 320, 640, 1000, 1000]);
        assert_eq!(after(u32::MAX), LONGEST);
    }

    #[test]
    fn a_call_that_hangs_delays_the_next_by_the_longest_wait() {
        let start = Instant::now();
        let mut pace = ProbeBackoff::new(start);
        pace.failed(start, start);
        let due = start + SHORTEST;
        pace.handed_over(due);
        assert_eq!(pace.holds_until(due), Some(due + LONGEST));
        pace.hurry(due);
        assert_eq!(pace.holds_until(due), None);
    }
}

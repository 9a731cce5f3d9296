//! How many dials a pool makes that follow or accompany another to the same peer, so that a thousand dead peers stay cheap. Pure: the caller passes the time.

use std::time::Duration;

use tokio::time::Instant;

/// Repeated dials per second, and at once.
const PER_SECOND: u32 = 50;

/// A token bucket.
#[derive(Debug)]
pub(super) struct Budget {
    /// When the bucket is full again.
    full: Instant,
}

impl Budget {
    pub(super) fn new(now: Instant) -> Self {
        Self { full: now }
    }

    /// Takes a dial out of the budget, if there is one left.
    pub(super) fn take(&mut self, now: Instant) -> bool {
        let full = self.full.max(now) + Duration::from_secs(1) / PER_SECOND;
        let left = full.saturating_duration_since(now) <= Duration::from_secs(1);
        if left {
            self.full = full;
        }
        left
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_and_then_fifty_a_second() {
        let mut now = Instant::now();
        let mut budget = Budget::new(now);
        let mut taken = |seconds: u32| {
            let mut taken = 0;
            for _ in 0..seconds * 1000 {
                taken += u32::from(budget.take(now));
                now += Duration::from_millis(1);
            }
            taken
        };
        assert_eq!(taken(1), 99);
        assert_eq!(taken(10), 500);
    }
}

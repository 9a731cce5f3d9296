//! How one arm stands: the rules, without a lock or a clock.

use std::time::Duration;

use tokio::time::Instant;

/// The state of an arm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ArmState {
    /// Ready, or not yet found to be away.
    Ready,
    /// Not ready.
    Away {
        /// Since when.
        since: Instant,
    },
    /// Ready again after calls had to go elsewhere, but not for the dwell yet.
    Returning {
        /// Since when it has been ready and no call over it has failed.
        since: Instant,
    },
}

/// An arm's state, and what it takes to decide the next.
#[derive(Clone, Copy, Debug)]
pub(super) struct ArmHealth {
    state: ArmState,
    /// Somebody went elsewhere for its sake, so there is something to return from.
    diverted: bool,
    next_probe: Option<Instant>,
}

/// Whether a call may go over an arm that is ready.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Trust {
    Full,
    /// This one, to see how it does.
    Probe,
    None,
}

impl ArmHealth {
    pub(super) const fn new() -> Self {
        Self {
            state: ArmState::Ready,
            diverted: false,
            next_probe: None,
        }
    }

    pub(super) fn state(&self) -> ArmState {
        self.state
    }

    /// Since when it has not been ready.
    pub(super) fn away_since(&self) -> Option<Instant> {
        match self.state {
            ArmState::Away { since } => Some(since),
            _ => None,
        }
    }

    /// Somebody looked, and it was not ready.
    pub(super) fn not_ready(&mut self, now: Instant) {
        if self.away_since().is_none() {
            self.state = ArmState::Away { since: now };
        }
    }

    /// Somebody looked, and it was ready.
    pub(super) fn ready(&mut self, now: Instant) {
        if self.away_since().is_some() {
            self.state = match self.diverted {
                true => ArmState::Returning { since: now },
                false => ArmState::Ready,
            };
            self.next_probe = None;
        }
    }

    /// A call that should have gone here did not, since it was not ready.
    pub(super) fn divert(&mut self) {
        self.diverted |= self.away_since().is_some();
    }

    /// A call over it has failed.
    pub(super) fn failed(&mut self, now: Instant) {
        if let ArmState::Returning { since } = &mut self.state {
            *since = now;
        }
    }

    /// One that has been back for the dwell is simply ready.
    pub(super) fn settle(&mut self, now: Instant, dwell: Duration) {
        if let ArmState::Returning { since } = self.state
            && now.saturating_duration_since(since) >= dwell
        {
            *self = Self::new();
        }
    }

    /// Whether a call may go over it, for who sees that it is ready. One in `every` is a probe until the dwell is over.
    pub(super) fn trust(&mut self, now: Instant, dwell: Duration, every: Duration) -> Trust {
        self.settle(now, dwell);
        let ArmState::Returning { .. } = self.state else {
            return Trust::Full;
        };
        match self.next_probe.is_none_or(|next| now >= next) {
            true => {
                self.next_probe = Some(now + every);
                Trust::Probe
            }
            false => Trust::None,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DWELL: Duration = Duration::from_secs(5);
    const EVERY: Duration = Duration::from_secs(1);

    #[test]
    fn who_was_missed_returns_after_the_dwell_and_who_was_not_at_once() {
        let start = Instant::now();
        let mut arm = ArmHealth::new();
        arm.not_ready(start);
        arm.ready(start + EVERY);
        assert_eq!(arm.state(), ArmState::Ready, "nobody noticed");

        arm.not_ready(start);
        arm.divert();
        let back = start + EVERY * 10;
        arm.ready(back);
        assert_eq!(arm.trust(back, DWELL, EVERY), Trust::Probe);
        assert_eq!(arm.trust(back, DWELL, EVERY), Trust::None);
        assert_eq!(arm.trust(back + EVERY, DWELL, EVERY), Trust::Probe);
        // The probe failed: it begins anew.
        arm.failed(back + EVERY);
        assert_eq!(arm.trust(back + DWELL, DWELL, EVERY), Trust::Probe);
        assert_eq!(arm.trust(back + EVERY + DWELL, DWELL, EVERY), Trust::Full);
        assert_eq!(arm.state(), ArmState::Ready);
    }

    proptest! {
        /// However often it comes and goes, calls return at most once per dwell.
        #[test]
        fn it_does_not_flap(steps in proptest::collection::vec((0u64..3000, 0..3u8), 1..200)) {
            let mut now = Instant::now();
            let mut arm = ArmHealth::new();
            let mut left: Option<Instant> = None;
            for (wait, what) in steps {
                now += Duration::from_millis(wait);
                match what {
                    0 => {
                        arm.not_ready(now);
                        arm.divert();
                        left = Some(now);
                    }
                    1 => arm.ready(now),
                    _ => arm.failed(now),
                }
                if arm.away_since().is_none() && arm.trust(now, DWELL, EVERY) == Trust::Full {
                    prop_assert!(left.is_none_or(|left| now >= left + DWELL));
                    left = None;
                }
            }
        }
    }
}

//! How one arm stands: the rules, without a lock or a clock.

use std::time::Duration;

use tokio::time::Instant;

/// How long a first connection may take before it counts against the arm.
const FIRST_CONNECTION: Duration = Duration::from_secs(2);

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
    /// It has not been ready yet: its first connection may be on its way.
    is_new: bool,
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
            is_new: true,
            diverted: false,
            next_probe: None,
        }
    }

    pub(super) fn is_new(&self) -> bool {
        self.is_new
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
        // Nobody left a new one, so nobody returns to it.
        self.diverted &= !self.is_new;
        self.is_new = false;
        if self.away_since().is_some() {
            self.state = match self.diverted {
                true => ArmState::Returning { since: now },
                false => ArmState::Ready,
            };
            self.next_probe = None;
        }
    }

    /// A call that should have gone here did not, since it was not ready. Returns whether that counts against the arm. While its first connection is on its way
    /// it does not: otherwise a program's first calls would decide a comparison.
    pub(super) fn divert(&mut self, now: Instant) -> bool {
        let Some(since) = self.away_since() else {
            return true;
        };
        self.diverted = true;
        !self.is_new || now.saturating_duration_since(since) >= FIRST_CONNECTION
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
            *self = Self {
                is_new: false,
                ..Self::new()
            };
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
        arm.ready(start);
        arm.not_ready(start);
        arm.ready(start + EVERY);
        assert_eq!(arm.state(), ArmState::Ready, "nobody noticed");

        arm.not_ready(start);
        assert!(arm.divert(start), "it counts");
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

    #[test]
    fn a_first_connection_is_used_at_once_and_its_time_does_not_count() {
        let start = Instant::now();
        let mut arm = ArmHealth::new();
        arm.not_ready(start);
        assert!(!arm.divert(start + FIRST_CONNECTION / 2));
        assert!(arm.divert(start + FIRST_CONNECTION), "none comes");
        arm.ready(start + FIRST_CONNECTION * 2);
        assert_eq!(arm.state(), ArmState::Ready);
        let lost = start + FIRST_CONNECTION * 3;
        arm.not_ready(lost);
        assert!(arm.divert(lost), "it was there");
        arm.ready(lost + EVERY);
        assert_eq!(arm.trust(lost + EVERY, DWELL, EVERY), Trust::Probe);
        assert_eq!(arm.trust(lost + EVERY, DWELL, EVERY), Trust::None);
    }

    proptest! {
        /// However often it comes and goes, calls return at most once per dwell.
        #[test]
        fn it_does_not_flap(steps in proptest::collection::vec((0u64..3000, 0..3u8), 1..200)) {
            let mut now = Instant::now();
            let mut arm = ArmHealth::new();
            arm.ready(now);
            let mut left: Option<Instant> = None;
            for (wait, what) in steps {
                now += Duration::from_millis(wait);
                match what {
                    0 => {
                        arm.not_ready(now);
                        arm.divert(now);
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

//! Decides whether a path needs copies. Pure: the caller passes the time.

use std::time::{Duration, Instant};

use super::super::tuning::SHORT_PATH;

/// How long copies are sent after a lost packet.
const AFTER_LOSS: Duration = Duration::from_secs(30);
/// The time between a write and its first copy, and between the copies: an eighth of the round trip, within these.
const SOONEST: Duration = Duration::from_millis(1);
const LATEST: Duration = Duration::from_millis(5);

/// A sample of the selected path.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LossSample {
    /// The path's identity; the history begins anew when it changes.
    pub(crate) path: u64,
    /// Its shortest round trip.
    pub(crate) shortest: Duration,
    /// Packets lost on it so far, without those that were sent to find out how large one may be.
    pub(crate) lost: u64,
}

/// Remembers when the last packet was lost.
#[derive(Debug, Default)]
pub(super) struct LossHistory {
    /// The path, and its count of lost packets at the last sample.
    seen: Option<(u64, u64)>,
    last_loss: Option<Instant>,
}

impl LossHistory {
    /// The delay of copies from now on; `None` while the path is short or loses nothing.
    pub(super) fn update(&mut self, now: Instant, sample: LossSample) -> Option<Duration> {
        match self.seen.replace((sample.path, sample.lost)) {
            Some((path, lost)) if path == sample.path => {
                if sample.lost > lost {
                    self.last_loss = Some(now);
                }
            }
            // What another path lost says nothing about this one.
            _ => self.last_loss = None,
        }
        let lossy = self
            .last_loss
            .is_some_and(|last| now.saturating_duration_since(last) < AFTER_LOSS);
        (lossy && sample.shortest >= SHORT_PATH)
            .then(|| (sample.shortest / 8).clamp(SOONEST, LATEST))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(path: u64, rtt_ms: u64, lost: u64) -> LossSample {
        LossSample {
            path,
            shortest: Duration::from_millis(rtt_ms),
            lost,
        }
    }

    #[test]
    fn copies_pay_for_a_while_after_a_loss_on_a_long_path() {
        let mut history = LossHistory::default();
        let start = Instant::now();
        assert_eq!(
            history.update(start, sample(0, 40, 3)),
            None,
            "lost before we looked"
        );
        assert_eq!(history.update(start, sample(0, 40, 3)), None);
        let delay = Some(Duration::from_millis(5));
        assert_eq!(history.update(start, sample(0, 40, 4)), delay);
        let just = start + AFTER_LOSS - Duration::from_millis(1);
        assert_eq!(history.update(just, sample(0, 40, 4)), delay);
        assert_eq!(history.update(start + AFTER_LOSS, sample(0, 40, 4)), None);
        assert_eq!(history.update(start + AFTER_LOSS, sample(0, 40, 5)), delay);
    }

    #[test]
    fn a_short_path_and_a_new_one_have_none() {
        let mut history = LossHistory::default();
        let start = Instant::now();
        history.update(start, sample(0, 1, 0));
        assert_eq!(history.update(start, sample(0, 1, 100)), None);
        history.update(start, sample(1, 40, 0));
        assert!(history.update(start, sample(1, 40, 1)).is_some());
        assert_eq!(history.update(start, sample(2, 40, 7)), None);
    }

    #[test]
    fn the_delay_follows_the_round_trip() {
        for (rtt_ms, delay_us) in [(2, 1000), (16, 2000), (40, 5000), (400, 5000)] {
            let mut history = LossHistory::default();
            let now = Instant::now();
            history.update(now, sample(0, rtt_ms, 0));
            let delay = history.update(now, sample(0, rtt_ms, 1));
            assert_eq!(delay, Some(Duration::from_micros(delay_us)), "{rtt_ms} ms");
        }
    }
}

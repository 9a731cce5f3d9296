use std::time::Duration;

use tokio::time::Instant;

/// How long a circuit stays open: full jitter under a ceiling that doubles with each opening.
///
/// Closed time takes the steps back one by one: each stretch as long as the last ceiling removes one step. So a peer that answers
/// one probe and fails again does not begin at the first step.
#[derive(Debug)]
pub(super) struct Backoff {
    first: Duration,
    most: Duration,
    step: u32,
    /// When the circuit was closed, while it is.
    healthy_since: Option<Instant>,
}

impl Backoff {
    pub(super) fn new(first: Duration, most: Duration) -> Self {
        Self {
            first,
            most,
            step: 0,
            healthy_since: None,
        }
    }

    fn ceiling(&self, step: u32) -> Duration {
        let doubled = 2u32
            .checked_pow(step)
            .and_then(|n| self.first.checked_mul(n));
        doubled.unwrap_or(self.most).min(self.most)
    }

    /// How long to wait this time; `jitter` is from 0 to 1.
    pub(super) fn next(&mut self, now: Instant, jitter: f64) -> Duration {
        if let Some(since) = self.healthy_since.take() {
            let mut healthy = now.saturating_duration_since(since);
            while self.step > 0 {
                let Some(rest) = healthy.checked_sub(self.ceiling(self.step - 1)) else {
                    break;
                };
                healthy = rest;
                self.step -= 1;
            }
        }
        let ceiling = self.ceiling(self.step);
        // A step that changes nothing would only take longer to remove.
        if ceiling < self.most {
            self.step += 1;
        }
        ceiling.mul_f64(jitter.clamp(0.0, 1.0))
    }

    pub(super) fn closed(&mut self, now: Instant) {
        self.healthy_since = Some(now);
    }

    pub(super) fn reset(&mut self) {
        self.step = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn doubles_to_the_cap_and_decays_step_by_step() {
        let mut now = Instant::now();
        let mut backoff = Backoff::new(SECOND, SECOND * 30);
        let waits: Vec<_> = (0..7).map(|_| backoff.next(now, 1.0).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 16, 30, 30]);

        backoff.closed(now);
        assert_eq!(backoff.next(now, 1.0), SECOND * 30, "no healthy time yet");
        backoff.closed(now);
        now += SECOND * 16;
        assert_eq!(backoff.next(now, 1.0), SECOND * 16, "one step forgotten");
        backoff.closed(now);
        now += SECOND * 60;
        assert_eq!(backoff.next(now, 1.0), SECOND, "all forgotten");
    }

    #[test]
    fn jitter_is_from_nothing_to_the_ceiling() {
        let now = Instant::now();
        let mut backoff = Backoff::new(SECOND, SECOND);
        assert_eq!(backoff.next(now, 0.0), Duration::ZERO);
        assert_eq!(backoff.next(now, 0.5), SECOND / 2);
        assert_eq!(backoff.next(now, f64::MAX), SECOND);
    }
}

use std::time::Duration;

use tokio::time::Instant;

/// A stretch of time in which some service waited and none was ready.
#[derive(Debug, Default)]
pub(super) struct NotReadySince {
    since: Option<Instant>,
    waiting: usize,
}

impl NotReadySince {
    /// One more service waits.
    pub(super) fn come(&mut self) {
        self.waiting += 1;
    }

    /// One of them no longer waits: it was ready, or left.
    pub(super) fn go(&mut self) {
        self.waiting = self.waiting.saturating_sub(1);
        if self.waiting == 0 {
            self.since = None;
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.waiting == 0
    }

    /// A waiting service is not ready. Returns when that has lasted for `wait`.
    pub(super) fn not_ready(&mut self, now: Instant, wait: Duration) -> Instant {
        // A caller may leave and its service stay, unpolled. A stretch that began so long ago that a timer would have ended it is not the
        // same one.
        let stale = |since: Instant| now >= since + wait * 2;
        if self.since.is_none_or(stale) {
            self.since = Some(now);
        }
        self.since.unwrap_or(now) + wait
    }

    /// A service was ready. Those that still wait start anew.
    pub(super) fn ready(&mut self, now: Instant) {
        self.since = (self.waiting > 0).then_some(now);
    }

    /// Since when it has lasted, if that is at least `wait`.
    pub(super) fn lasted(&self, now: Instant, wait: Duration) -> Option<Instant> {
        self.since.filter(|since| now >= *since + wait)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_spell_is_as_long_as_nobody_is_ready() {
        let start = Instant::now();
        let wait = SECOND * 2;
        let mut not_ready_since = NotReadySince::default();
        not_ready_since.come();
        assert_eq!(not_ready_since.not_ready(start, wait), start + wait);
        not_ready_since.come();
        assert_eq!(
            not_ready_since.not_ready(start + SECOND, wait),
            start + wait
        );
        assert_eq!(not_ready_since.lasted(start + SECOND, wait), None);
        assert_eq!(not_ready_since.lasted(start + wait, wait), Some(start));
        // One is ready: the other begins anew.
        not_ready_since.go();
        not_ready_since.ready(start + wait);
        assert_eq!(
            not_ready_since.not_ready(start + wait, wait),
            start + wait * 2
        );
        not_ready_since.go();
        assert!(
            not_ready_since.is_over() && not_ready_since.lasted(start + wait * 9, wait).is_none()
        );
    }

    #[test]
    fn what_nobody_looked_at_for_long_is_another_spell() {
        let start = Instant::now();
        let mut not_ready_since = NotReadySince::default();
        not_ready_since.come();
        not_ready_since.not_ready(start, SECOND);
        let later = start + SECOND * 3600;
        assert_eq!(not_ready_since.not_ready(later, SECOND), later + SECOND);
    }
}

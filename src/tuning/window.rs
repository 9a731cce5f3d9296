//! How large a connection's receive window should be, from what the connection has seen. Pure: it is told the time.

use std::time::{Duration, Instant};

use super::SHORT_PATH;
use crate::wire::MAX_STREAM_WINDOW;

/// What the connection's owner sees at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PathSample {
    /// Which path this is about; a change of it starts the measurement anew.
    pub(crate) path: u64,
    pub(crate) rtt: Duration,
    /// All bytes received so far.
    pub(crate) received: u64,
    /// How many lanes hold bytes that their reader does not fetch.
    pub(crate) stalled_lanes: u64,
}

/// The connection's receive window.
///
/// On a short path it stays small, because iroh drops its own packets when more than about a hundred arrive in one go. On a
/// longer one it doubles whenever the peer used more than half of it in a round trip, up to a bound. A lane whose reader
/// stalls holds its bytes for as long as it likes, so each one adds a stream's window: the others go on.
#[derive(Clone, Debug)]
pub(crate) struct ReceiveWindow {
    short: u64,
    long: u64,
    max: u64,
    grown: u64,
    path: Option<u64>,
    shortest: Duration,
    last: Option<(Instant, u64)>,
}

impl ReceiveWindow {
    pub(crate) fn new(short: u64, long: u64, max: u64) -> Self {
        Self {
            short,
            long,
            max,
            grown: long,
            path: None,
            shortest: Duration::MAX,
            last: None,
        }
    }

    /// The shortest round trip of the path that was seen last.
    pub(crate) fn shortest(&self) -> Duration {
        self.shortest
    }

    /// The window after `sample`.
    pub(crate) fn update(&mut self, now: Instant, sample: PathSample) -> u64 {
        if self.path.replace(sample.path) != Some(sample.path) {
            self.shortest = Duration::MAX;
            self.grown = self.long;
            self.last = None;
        }
        self.shortest = self.shortest.min(sample.rtt);
        if let Some((then, before)) = self.last.replace((now, sample.received)) {
            let elapsed = now.saturating_duration_since(then);
            let received = sample.received.saturating_sub(before);
            if !elapsed.is_zero() {
                let per_round_trip =
                    received as f64 * self.shortest.as_secs_f64() / elapsed.as_secs_f64();
                if per_round_trip > self.grown as f64 / 2.0 {
                    self.grown = self.grown.saturating_mul(2).min(self.max);
                }
            }
        }
        let by_path = if self.shortest < SHORT_PATH {
            self.short
        } else {
            self.grown
        };
        by_path + sample.stalled_lanes * MAX_STREAM_WINDOW
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SHORT: u64 = 128 << 10;
    const LONG: u64 = 1 << 20;
    const MAX: u64 = 16 << 20;

    fn sample(rtt_ms: f64, received: u64) -> PathSample {
        PathSample {
            path: 0,
            rtt: Duration::from_secs_f64(rtt_ms / 1000.0),
            received,
            stalled_lanes: 0,
        }
    }

    #[test]
    fn a_short_path_keeps_a_small_window_even_when_its_queue_grows() {
        let mut window = ReceiveWindow::new(SHORT, LONG, MAX);
        let start = Instant::now();
        assert_eq!(window.update(start, sample(0.1, 0)), SHORT);
        // The smoothed round trip rises with our own queue; the path is as short as before.
        let later = start + Duration::from_millis(100);
        assert_eq!(window.update(later, sample(9.0, 80_000_000)), SHORT);
    }

    #[test]
    fn a_long_path_grows_with_what_it_carries_and_not_beyond_the_bound() {
        let mut window = ReceiveWindow::new(SHORT, LONG, MAX);
        let start = Instant::now();
        let mut received = 0;
        let mut seen = Vec::new();
        for tick in 0..10 {
            seen.push(window.update(
                start + tick * Duration::from_millis(100),
                sample(100.0, received),
            ));
            received += seen[seen.len() - 1];
        }
        assert_eq!(seen[0], LONG);
        assert!(seen.windows(2).all(|pair| pair[0] <= pair[1]));
        assert_eq!(*seen.last().expect("ten"), MAX);
    }

    #[test]
    fn an_idle_long_path_does_not_grow() {
        let mut window = ReceiveWindow::new(SHORT, LONG, MAX);
        let start = Instant::now();
        for tick in 0..10 {
            let now = start + tick * Duration::from_millis(100);
            assert_eq!(
                window.update(now, sample(100.0, 64 * u64::from(tick))),
                LONG
            );
        }
    }

    #[test]
    fn another_path_is_measured_anew() {
        let mut window = ReceiveWindow::new(SHORT, LONG, MAX);
        let start = Instant::now();
        assert_eq!(window.update(start, sample(0.1, 0)), SHORT);
        let moved = PathSample {
            path: 1,
            ..sample(40.0, 0)
        };
        assert_eq!(window.update(start, moved), LONG);
    }

    proptest! {
        #[test]
        fn each_stalled_lane_leaves_the_others_their_window(
            rtt in 0.01f64..300.0, stalled in 0u64..64, received in any::<u32>(),
        ) {
            let mut window = ReceiveWindow::new(SHORT, LONG, MAX);
            let start = Instant::now();
            window.update(start, sample(rtt, 0));
            let bytes = window.update(
                start + Duration::from_millis(100),
                PathSample { stalled_lanes: stalled, ..sample(rtt, u64::from(received)) },
            );
            prop_assert!(bytes >= SHORT + stalled * MAX_STREAM_WINDOW);
            prop_assert!(bytes <= MAX + stalled * MAX_STREAM_WINDOW);
        }
    }
}

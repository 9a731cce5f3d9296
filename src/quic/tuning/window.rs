//! Chooses a connection's receive window from samples of its path. Pure.

use std::time::{Duration, Instant};

use super::{SHORT_PATH, shortest::Shortest};
use crate::wire::MAX_STREAM_WINDOW;

/// As many streams as the standard bulk lane has.
const SEVERAL: u64 = 4;

/// A sample of a connection.
#[derive(Clone, Copy, Debug)]
pub(crate) struct PathSample {
    /// The path's identity; the measurement begins anew when it changes.
    pub(crate) path: u64,
    pub(crate) now: Instant,
    pub(crate) rtt: Duration,
    /// How many lanes have unread bytes.
    pub(crate) stalled_lanes: u64,
}

/// The connection's receive window.
///
/// On a short path it is small, because iroh drops packets of its own when more than about a hundred arrive at once. On a longer path it holds a full
/// window of every stream: a sender's bulk streams use up whatever the connection allows, and an urgent stream would have to
/// wait a round trip for more (`docs/decisions/windows-follow-the-path.md`). A lane whose reader stalls can hold its bytes
/// for ever, so each such lane adds a stream's window for the others.
#[derive(Clone, Debug)]
pub(crate) struct ReceiveWindow {
    short: u64,
    long: u64,
    path: Option<u64>,
    shortest: Shortest,
}

impl ReceiveWindow {
    pub(crate) fn new(short: u64, long: u64) -> Self {
        Self {
            short,
            long,
            path: None,
            shortest: Shortest::default(),
        }
    }

    /// The shortest round trip of the last sampled path.
    pub(crate) fn shortest(&self) -> Option<Duration> {
        self.shortest.get()
    }

    /// Whether the last sampled path is long; false before the first sample.
    fn is_long(&self) -> bool {
        self.shortest()
            .is_some_and(|shortest| shortest >= SHORT_PATH)
    }

    /// Whether several streams are better than one: on a long path, if the window holds them all. Otherwise the streams that are written first use all of it.
    pub(crate) fn spreads(&self) -> bool {
        self.is_long() && self.long >= SEVERAL * MAX_STREAM_WINDOW
    }

    /// The window after `sample`.
    pub(crate) fn update(&mut self, sample: PathSample) -> u64 {
        if self.path.replace(sample.path) != Some(sample.path) {
            self.shortest = Shortest::default();
        }
        self.shortest.saw(sample.now, sample.rtt);
        let by_path = match self.is_long() {
            true => self.long,
            false => self.short,
        };
        by_path + sample.stalled_lanes * MAX_STREAM_WINDOW
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const SHORT: u64 = 128 << 10;
    const LONG: u64 = 16 * MAX_STREAM_WINDOW;

    fn sample(rtt_ms: f64) -> PathSample {
        PathSample {
            path: 0,
            now: Instant::now(),
            rtt: Duration::from_secs_f64(rtt_ms / 1000.0),
            stalled_lanes: 0,
        }
    }

    #[test]
    fn a_short_path_keeps_a_small_window_even_when_its_queue_grows() {
        let mut window = ReceiveWindow::new(SHORT, LONG);
        assert_eq!(window.update(sample(0.1)), SHORT);
        // The smoothed round trip rises with our own queue; the path is as short as before.
        assert_eq!(window.update(sample(9.0)), SHORT);
    }

    #[test]
    fn another_path_is_measured_anew() {
        let mut window = ReceiveWindow::new(SHORT, LONG);
        assert_eq!(window.update(sample(0.1)), SHORT);
        let moved = PathSample {
            path: 1,
            ..sample(40.0)
        };
        assert_eq!(window.update(moved), LONG);
    }

    #[test]
    fn streams_are_spread_where_the_path_is_long_and_the_window_has_room() {
        let spreads = |long, rtt| {
            let mut window = ReceiveWindow::new(SHORT, long);
            assert!(!window.spreads(), "no path was seen");
            window.update(sample(rtt));
            window.spreads()
        };
        assert!(spreads(LONG, 40.0));
        assert!(!spreads(LONG, 0.1));
        assert!(!spreads(SHORT, 40.0), "as `Tuning::lan` has it");
    }

    proptest! {
        #[test]
        fn each_stalled_lane_leaves_the_others_their_window(rtt in 0.01f64..300.0, stalled in 0u64..64) {
            let mut window = ReceiveWindow::new(SHORT, LONG);
            let without = window.update(sample(rtt));
            let with = window.update(PathSample { stalled_lanes: stalled, ..sample(rtt) });
            prop_assert_eq!(with, without + stalled * MAX_STREAM_WINDOW);
        }
    }
}

//! Bounds what BBR3 has in flight on a known path: 1.25 times the bandwidth-delay product. Pure: the caller passes the time.
//!
//! BBR3's own window is twice the bandwidth-delay product. While BBR3 probes for bandwidth it fills that window: for hundreds of milliseconds a round trip's
//! worth of bytes waits in the network's queue, and a small urgent call waits behind them. A bound of 1.25 still finds a quarter more bandwidth in each round trip
//! (`docs/decisions/bulk-leaves-the-queue-short.md`).

use std::time::{Duration, Instant};

use super::SHORT_PATH;

/// The bound as a multiple of the bandwidth-delay product, and the pace as a multiple of the bandwidth.
const GAIN: f64 = 1.25;
/// Acknowledgements of two packets each, and what the next is sent with.
const SLACK: u64 = 6;
/// BBR3 still probes if the bandwidth grew by a quarter within this many round trips.
const GROWING: u32 = 4;
/// The window over which the largest burst of acknowledgements is kept.
const MEMORY: Duration = Duration::from_secs(2);

/// The bound and its inputs.
#[derive(Clone, Debug)]
pub(super) struct Bound {
    bytes: u64,
    rate: u64,
    early: Early,
    /// When the bandwidth last grew by a quarter, and its value then.
    grown: Option<(Instant, f64)>,
}

/// Delayed acknowledgements arrive in bursts (`extra_acked` of the BBR draft, section 5.5.9). More must be in flight to keep sending across a burst.
#[derive(Clone, Debug, Default)]
struct Early {
    /// Start of the count, and the bytes acknowledged since.
    since: Option<(Instant, u64)>,
    /// The largest burst of this period and of the previous one.
    most: [u64; 2],
    period: Option<Instant>,
}

/// What the connection knows of the path.
#[derive(Clone, Copy, Debug)]
pub(super) struct PathEstimate {
    /// Its shortest round trip, and the smoothed one.
    pub(super) shortest: Option<Duration>,
    pub(super) smoothed: Duration,
    pub(super) mtu: u16,
    /// BBR3's bandwidth estimate, in bits a second.
    pub(super) bandwidth: Option<u64>,
}

impl Default for Bound {
    fn default() -> Self {
        Self {
            bytes: u64::MAX,
            rate: u64::MAX,
            early: Early::default(),
            grown: None,
        }
    }
}

impl Bound {
    /// `acked` bytes were acknowledged.
    pub(super) fn acknowledged(&mut self, now: Instant, acked: u64, known: PathEstimate) {
        let Some(bits) = known.bandwidth else {
            return;
        };
        let bandwidth = bits as f64 / 8.0;
        let (at, to) = match self.grown {
            Some((at, to)) if bandwidth < to * GAIN => (at, to),
            _ => (now, bandwidth),
        };
        self.grown = Some((at, to));
        // BBR3 itself goes on looking, at 2.77 times the bandwidth, for as long as its sender has less to send than the path could carry at times: a sender
        // of large messages, one after the other, for ever.
        if now.saturating_duration_since(at) < known.smoothed * GROWING {
            (self.bytes, self.rate, self.early) = (u64::MAX, u64::MAX, Early::default());
            return;
        }
        let Some(shortest) = known.shortest else {
            return;
        };
        let early = self.early.count(now, acked, bandwidth, shortest);
        // On a shorter path the programs are the bottleneck, not the network.
        let holds = bandwidth * shortest.max(SHORT_PATH).as_secs_f64();
        let more = ((GAIN - 1.0) * holds).max(holds.min(early as f64));
        self.bytes = (holds + more) as u64 + SLACK * u64::from(known.mtu);
        self.rate = (GAIN * bandwidth) as u64;
    }

    /// How many bytes may be in flight.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The pacing rate, in bytes a second.
    pub(super) fn rate(&self) -> u64 {
        self.rate
    }
}

impl Early {
    /// The most by which what was acknowledged within a round trip was more than the bandwidth.
    fn count(&mut self, now: Instant, acked: u64, bandwidth: f64, round_trip: Duration) -> u64 {
        let (since, before) = *self.since.get_or_insert((now, 0));
        let elapsed = now.saturating_duration_since(since);
        let expected = (bandwidth * elapsed.as_secs_f64()) as u64;
        let (since, before, expected) = match before > expected && elapsed < round_trip {
            true => (since, before, expected),
            // Behind the bandwidth, or a round trip old: what comes is counted anew.
            false => (now, 0, 0),
        };
        let sum = before + acked;
        self.since = Some((since, sum));
        let period = *self.period.get_or_insert(now);
        if now.saturating_duration_since(period) > MEMORY {
            self.period = Some(now);
            self.most = [0, self.most[0]];
        }
        self.most[0] = self.most[0].max(sum.saturating_sub(expected));
        self.most[0].max(self.most[1])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ROUND_TRIP: Duration = Duration::from_millis(40);

    fn known(bytes_a_second: u64) -> PathEstimate {
        PathEstimate {
            shortest: Some(ROUND_TRIP),
            smoothed: ROUND_TRIP,
            mtu: 1200,
            bandwidth: Some(bytes_a_second * 8),
        }
    }

    /// Acknowledgements of 2,000 bytes, one in a millisecond.
    fn steady(bound: &mut Bound, began: Instant, ms: std::ops::Range<u64>) {
        for ms in ms {
            let now = began + Duration::from_millis(ms);
            bound.acknowledged(now, 2000, known(2_000_000));
        }
    }

    #[test]
    fn a_quarter_more_than_the_path_holds() {
        let mut bound = Bound::default();
        steady(&mut bound, Instant::now(), 0..1000);
        // 80,000 bytes; some for acknowledgements that come together.
        let bytes = bound.bytes();
        assert!((100_000..115_000).contains(&bytes), "{bytes}");
        assert_eq!(bound.rate(), 2_500_000);
    }

    #[test]
    fn there_is_none_while_the_bandwidth_grows_and_a_while_longer() {
        let mut bound = Bound::default();
        let began = Instant::now();
        let mut bandwidth = 100_000;
        for round in 0..10 {
            bound.acknowledged(began + ROUND_TRIP * round, 2000, known(bandwidth));
            assert_eq!((bound.bytes(), bound.rate()), (u64::MAX, u64::MAX));
            bandwidth *= 2;
        }
        bound.acknowledged(began + ROUND_TRIP * 12, 2000, known(bandwidth / 2));
        assert_eq!(bound.bytes(), u64::MAX);
        bound.acknowledged(began + ROUND_TRIP * 14, 2000, known(bandwidth / 2));
        assert!(bound.bytes() < u64::MAX);
        // It grows again: somebody has more to send.
        bound.acknowledged(began + ROUND_TRIP * 20, 2000, known(bandwidth));
        assert_eq!(bound.bytes(), u64::MAX);
    }

    #[test]
    fn acknowledgements_in_bursts_make_it_larger_and_are_forgotten() {
        let mut bound = Bound::default();
        let began = Instant::now();
        // 30 ms of the bandwidth at once.
        for burst in 0..30 {
            let now = began + burst * Duration::from_millis(30);
            bound.acknowledged(now, 60_000, known(2_000_000));
        }
        let bytes = bound.bytes();
        assert!((140_000..150_000).contains(&bytes), "{bytes}");
        steady(&mut bound, began, 1000..6000);
        assert!(bound.bytes() < 115_000, "{}", bound.bytes());
    }
}

//! A congestion controller that is Cubic on a short path and BBR3 on a long one, or one that loses packets.
//!
//! Each is worse where the other is better. BBR3 reached a fifth of Cubic's rate on loopback with iroh's own windows. At 1 % loss Cubic reaches a twenty-fifth of
//! BBR3's rate over 40 ms, and half of it without delay. Both controllers see every event, so the one that takes over knows the path already; only one of them
//! decides. The choice depends on the path's shortest round trip. The smoothed round trip rises with our own queue
//! and would make a busy LAN look like a WAN.
//!
//! BBR3's window and rate are bounded: at most 1.25 times the bandwidth-delay product ([`bound`](super::bound)), at least an initial window a round trip. BBR3 does not
//! see losses that are the link's own ([`losses`](super::losses)). A smaller window takes effect gradually ([`reduction`](super::reduction)), and a silent peer gets
//! a packet beyond the window ([`spare`](super::spare)).

use std::{
    any::Any,
    sync::Arc,
    time::{Duration, Instant},
};

use iroh::endpoint::RttEstimator;
use noq_proto::congestion::{
    Bbr3Config, Controller, ControllerFactory, ControllerMetrics, CubicConfig,
};

use super::{
    bound::{Bound, PathEstimate},
    keep_probing::KeepProbing,
    losses::Losses,
    reduction::Reduction,
    shortest::Shortest,
};

/// RFC 9002, section 7.2: ten packets of the size that every path carries.
const INITIAL_WINDOW: u64 = 10 * 1200;

/// The shortest time from a packet's sending to its acknowledgement, where a controller is ours and has seen one.
pub(super) fn shortest_round_trip(controller: Box<dyn Controller>) -> Option<Duration> {
    let ours = controller.into_any().downcast::<FollowsPath>().ok()?;
    ours.shortest.get()
}

/// Cubic where the shortest round trip is below `long_from` and few packets are lost, BBR3 elsewhere. [`Duration::MAX`] is Cubic everywhere.
#[derive(Debug)]
pub(super) struct FollowsPathConfig {
    pub(super) long_from: Duration,
}

impl ControllerFactory for FollowsPathConfig {
    fn build(self: Arc<Self>, now: Instant, current_mtu: u16) -> Box<dyn Controller> {
        Box::new(FollowsPath {
            cubic: Arc::new(CubicConfig::default()).build(now, current_mtu),
            bbr3: Arc::new(Bbr3Config::default()).build(now, current_mtu),
            long_from: self.long_from,
            shortest: Shortest::default(),
            smoothed: Duration::ZERO,
            losses: Losses::default(),
            bound: Bound::default(),
            reduction: Reduction::default(),
            mtu: current_mtu,
            acked: 0,
            spare: KeepProbing::new(),
        })
    }
}

/// Bytes a second until the first acknowledgement. Without it the pacer shares the initial window out over a round trip that it guesses to be 333 ms
/// (RFC 9002, section 6.2.2), and the second packet of a connection waits 23 ms. That is what early data, and the answer to it, would wait for. The initial
/// window, some 12 kB, still is all that leaves, as section 7.7 allows in one burst.
const FIRST_RATE: u64 = 125_000_000;

#[derive(Debug)]
struct FollowsPath {
    cubic: Box<dyn Controller>,
    bbr3: Box<dyn Controller>,
    long_from: Duration,
    /// The shortest time from a packet's sending to its acknowledgement.
    shortest: Shortest,
    smoothed: Duration,
    losses: Losses,
    bound: Bound,
    reduction: Reduction,
    mtu: u16,
    /// Bytes acknowledged by the acknowledgement that is being processed.
    acked: u64,
    spare: KeepProbing,
}

impl FollowsPath {
    fn is_cubic(&self) -> bool {
        let Some(shortest) = self.shortest.get() else {
            // Before the first acknowledgement nothing is known of the path; Cubic starts faster.
            return !self.long_from.is_zero();
        };
        let always = self.long_from == Duration::MAX;
        shortest < self.long_from && (always || !self.losses.is_lossy())
    }

    fn active(&self) -> &dyn Controller {
        match self.is_cubic() {
            true => &*self.cubic,
            false => &*self.bbr3,
        }
    }

    /// How many bytes may be in flight once a reduction has finished.
    fn allowed(&self) -> u64 {
        let window = self.active().window();
        match self.is_cubic() {
            true => window,
            false => window.min(self.bound.bytes().max(self.bbr3.initial_window())),
        }
    }

    /// The lowest pacing rate, in bytes a second: one initial window a round trip of this length.
    ///
    /// BBR3 can mistake the rate of a quiet sender for the path's bandwidth. Small calls would then be paced at their own rate and
    /// queue on an empty path (`docs/decisions/quiet-senders-are-not-paced.md`). RFC 9002, section 7.7, allows bursts of an initial
    /// window in any case; the congestion window holds as before.
    fn least_rate(shortest: Duration) -> u64 {
        let rate = INITIAL_WINDOW as f64 / shortest.as_secs_f64();
        // Saturates where the path is infinitely short.
        rate as u64
    }

    fn each(&mut self, mut tell: impl FnMut(&mut dyn Controller)) {
        tell(&mut *self.cubic);
        tell(&mut *self.bbr3);
    }
}

impl Controller for FollowsPath {
    fn on_sent(&mut self, now: Instant, bytes: u64, largest_pn: u64) {
        self.each(|c| c.on_sent(now, bytes, largest_pn));
    }

    fn on_packet_sent(&mut self, now: Instant, bytes: u16, pn: u64) {
        self.each(|c| c.on_packet_sent(now, bytes, pn));
    }

    fn on_cwnd_limited(&mut self) {
        self.cubic.on_cwnd_limited();
        if self.allowed() >= self.bbr3.window() {
            // Else it was not its own window that was full.
            self.bbr3.on_cwnd_limited();
        }
        self.spare.full(Instant::now(), self.mtu);
    }

    fn on_ack(
        &mut self,
        now: Instant,
        sent: Instant,
        bytes: u64,
        pn: u64,
        app_limited: bool,
        rtt: &RttEstimator,
    ) {
        self.smoothed = rtt.get();
        self.spare.heard(self.smoothed);
        self.acked += bytes;
        self.losses.acked();
        self.shortest.saw(now, now.saturating_duration_since(sent));
        self.each(|c| c.on_ack(now, sent, bytes, pn, app_limited, rtt));
    }

    fn on_end_acks(
        &mut self,
        now: Instant,
        in_flight: u64,
        app_limited: bool,
        largest_packet_num_acked: Option<u64>,
    ) {
        self.each(|c| c.on_end_acks(now, in_flight, app_limited, largest_packet_num_acked));
        let acked = std::mem::take(&mut self.acked);
        let known = PathEstimate {
            shortest: self.shortest.get(),
            smoothed: self.smoothed,
            mtu: self.mtu,
            bandwidth: self.bbr3.metrics().bandwidth_estimate,
        };
        self.bound.acknowledged(now, acked, known);
        let window = self.allowed();
        self.reduction.acknowledged(window, in_flight, acked);
    }

    fn on_congestion_event(
        &mut self,
        now: Instant,
        sent: Instant,
        is_persistent_congestion: bool,
        is_ecn: bool,
        lost_bytes: u64,
        largest_lost_pn: u64,
    ) {
        self.each(|c| {
            c.on_congestion_event(
                now,
                sent,
                is_persistent_congestion,
                is_ecn,
                lost_bytes,
                largest_lost_pn,
            );
        });
    }

    fn on_packet_lost(&mut self, lost_bytes: u16, pn: u64, now: Instant) {
        self.cubic.on_packet_lost(lost_bytes, pn, now);
        if self.losses.lost(self.smoothed, self.shortest.get()) {
            self.bbr3.on_packet_lost(lost_bytes, pn, now);
        }
    }

    fn on_spurious_congestion_event(&mut self) {
        self.each(|c| c.on_spurious_congestion_event());
    }

    fn on_mtu_update(&mut self, new_mtu: u16) {
        self.each(|c| c.on_mtu_update(new_mtu));
        self.mtu = new_mtu;
    }

    fn on_ack_frequency_update(
        &mut self,
        ack_eliciting_threshold: u64,
        requested_max_ack_delay: Duration,
    ) {
        self.each(|c| c.on_ack_frequency_update(ack_eliciting_threshold, requested_max_ack_delay));
    }

    fn window(&self) -> u64 {
        self.reduction.window(self.allowed()) + self.spare.bytes()
    }

    fn metrics(&self) -> ControllerMetrics {
        let mut metrics = self.active().metrics();
        metrics.pacing_rate = match self.shortest.get() {
            None => Some(FIRST_RATE),
            Some(shortest) => {
                let (most, least) = (self.bound.rate(), Self::least_rate(shortest));
                metrics.pacing_rate.map(|rate| rate.min(most).max(least))
            }
        };
        metrics
    }

    fn clone_box(&self) -> Box<dyn Controller> {
        Box::new(Self {
            cubic: self.cubic.clone_box(),
            bbr3: self.bbr3.clone_box(),
            long_from: self.long_from,
            shortest: self.shortest,
            smoothed: self.smoothed,
            losses: self.losses.clone(),
            bound: self.bound.clone(),
            reduction: self.reduction.clone(),
            mtu: self.mtu,
            acked: self.acked,
            spare: self.spare.clone(),
        })
    }

    fn initial_window(&self) -> u64 {
        self.active().initial_window()
    }

    fn into_any(self: Box<Self>) -> Box<dyn Any> {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::{super::SHORT_PATH, *};

    fn acked_after(shortest: impl Into<Option<Duration>>) -> FollowsPath {
        with(SHORT_PATH, shortest)
    }

    fn with(long_from: Duration, shortest: impl Into<Option<Duration>>) -> FollowsPath {
        let now = Instant::now();
        let mut seen = Shortest::default();
        if let Some(shortest) = shortest.into() {
            seen.saw(now, shortest);
        }
        FollowsPath {
            cubic: Arc::new(CubicConfig::default()).build(now, 1200),
            bbr3: Arc::new(Bbr3Config::default()).build(now, 1200),
            long_from,
            shortest: seen,
            smoothed: Duration::ZERO,
            losses: Losses::default(),
            bound: Bound::default(),
            reduction: Reduction::default(),
            mtu: 1200,
            acked: 0,
            spare: KeepProbing::new(),
        }
    }

    fn is_bbr3(controller: &FollowsPath) -> bool {
        // Only BBR3 paces by a rate of its own.
        controller.active().metrics().pacing_rate.is_some()
    }

    #[test]
    fn the_initial_window_does_not_wait_for_a_guess_of_the_path() {
        let unknown = acked_after(None);
        assert_eq!(unknown.metrics().pacing_rate, Some(FIRST_RATE));
        assert!(unknown.window() <= 10 * 1200, "{}", unknown.window());
        let short = acked_after(Duration::from_micros(80));
        assert_eq!(short.metrics().pacing_rate, None);
    }

    #[test]
    fn short_paths_and_unknown_ones_get_cubic_long_ones_bbr3() {
        assert!(!is_bbr3(&acked_after(None)));
        assert!(!is_bbr3(&acked_after(Duration::from_micros(80))));
        assert!(is_bbr3(&acked_after(Duration::from_millis(40))));
        for shortest in [None, Some(Duration::from_micros(80))] {
            assert!(
                is_bbr3(&with(Duration::ZERO, shortest)),
                "where it is always BBR3"
            );
        }
        for shortest in [None, Some(Duration::from_millis(40))] {
            assert!(
                !is_bbr3(&with(Duration::MAX, shortest)),
                "where it is always Cubic"
            );
        }
    }

    #[test]
    fn a_short_path_that_loses_packets_gets_bbr3() {
        let lossy = |long_from| {
            let mut path = with(long_from, Duration::from_micros(80));
            for number in 0..10_000u64 {
                match number % 100 {
                    0 => path.on_packet_lost(1200, number, Instant::now()),
                    _ => path.losses.acked(),
                }
            }
            path
        };
        assert!(is_bbr3(&lossy(SHORT_PATH)));
        assert!(!is_bbr3(&lossy(Duration::MAX)), "where it is always Cubic");
    }

    #[test]
    fn a_path_may_lose_packets_before_it_acknowledges_one() {
        let now = Instant::now();
        for long_from in [Duration::ZERO, SHORT_PATH, Duration::MAX] {
            let mut path = with(long_from, None);
            for number in 0..1000 {
                path.on_packet_lost(1200, number, now);
                path.on_end_acks(now, 0, false, None);
            }
            assert!(path.window() > 0);
        }
    }

    #[test]
    fn whoever_holds_a_copy_is_told_of_the_shortest_round_trip() {
        let seen = |shortest| shortest_round_trip(acked_after(shortest).clone_box());
        for shortest in [Some(Duration::from_micros(80)), None] {
            assert_eq!(seen(shortest), shortest);
        }
        let other = Arc::new(CubicConfig::default()).build(Instant::now(), 1200);
        assert_eq!(shortest_round_trip(other), None, "not ours");
    }

    /// What BBR3 says after it has taken the rate of a few small calls for what the path carries.
    #[derive(Clone, Debug)]
    struct Paced(Option<u64>);

    impl Controller for Paced {
        fn on_congestion_event(
            &mut self,
            _: Instant,
            _: Instant,
            _: bool,
            _: bool,
            _: u64,
            _: u64,
        ) {
        }

        fn on_mtu_update(&mut self, _: u16) {}

        fn window(&self) -> u64 {
            4 * 1200
        }

        fn metrics(&self) -> ControllerMetrics {
            let mut metrics = ControllerMetrics::default();
            metrics.congestion_window = self.window();
            metrics.pacing_rate = self.0;
            metrics
        }

        fn clone_box(&self) -> Box<dyn Controller> {
            Box::new(self.clone())
        }

        fn initial_window(&self) -> u64 {
            INITIAL_WINDOW
        }

        fn into_any(self: Box<Self>) -> Box<dyn Any> {
            self
        }
    }

    #[test]
    fn an_initial_window_a_round_trip_is_always_let_go() {
        let metrics = |rate, shortest| {
            let mut path = acked_after(shortest);
            path.cubic = Box::new(Paced(None));
            path.bbr3 = Box::new(Paced(rate));
            path.metrics()
        };
        let ms = Duration::from_millis;
        assert_eq!(metrics(Some(20_000), ms(40)).pacing_rate, Some(300_000));
        assert_eq!(metrics(Some(20_000), ms(400)).pacing_rate, Some(30_000));
        assert_eq!(
            metrics(Some(5_000_000), ms(40)).pacing_rate,
            Some(5_000_000)
        );
        // The window holds as before, and Cubic paces by it alone.
        assert_eq!(metrics(Some(20_000), ms(40)).congestion_window, 4800);
        assert_eq!(metrics(Some(20_000), ms(1)).pacing_rate, None);
    }
}

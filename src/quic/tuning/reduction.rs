//! Applies a smaller congestion window gradually while more than that is in flight: proportional rate reduction, RFC 6937. Pure.
//!
//! A window falls after a loss, or because BBR3 measures the round trip. Without this the sender sends nothing until the bytes beyond the window are
//! acknowledged: half a round trip, during which urgent calls wait as well.

/// The effective window on the way from a large window to a small one.
#[derive(Clone, Debug, Default)]
pub(super) struct Reduction {
    /// The reduction under way, if any.
    under_way: Option<UnderWay>,
}

#[derive(Clone, Debug)]
struct UnderWay {
    allowed: f64,
    /// The share of each acknowledged byte that must not be replaced by a new one.
    withheld: f64,
}

impl Reduction {
    /// `acked` bytes were acknowledged; `in_flight` is what is left, `window` what the controller allows.
    pub(super) fn acknowledged(&mut self, window: u64, in_flight: u64, acked: u64) {
        if in_flight <= window {
            self.under_way = None;
            return;
        }
        let before = (in_flight + acked) as f64;
        let under_way = self.under_way.get_or_insert_with(|| UnderWay {
            allowed: before,
            withheld: 1.0 - window as f64 / before,
        });
        under_way.allowed -= acked as f64 * under_way.withheld;
        if under_way.allowed <= window as f64 {
            self.under_way = None;
        }
    }

    /// How many bytes may be in flight if the controller allows `window`.
    pub(super) fn window(&self, window: u64) -> u64 {
        match &self.under_way {
            Some(under_way) => window.max(under_way.allowed as u64),
            None => window,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const PACKET: u64 = 1200;

    /// Packets of a full window are acknowledged one by one; whoever may send does. How many leave, and the most acknowledgements in a row with none.
    fn reduce(from: u64, to: u64) -> (u64, u64, u64) {
        let mut reduction = Reduction::default();
        let (mut in_flight, mut sent, mut pause, mut longest) = (from * PACKET, 0, 0, 0);
        for _ in 0..from {
            in_flight -= PACKET;
            reduction.acknowledged(to * PACKET, in_flight, PACKET);
            pause += 1;
            while in_flight + PACKET <= reduction.window(to * PACKET) {
                in_flight += PACKET;
                sent += 1;
                pause = 0;
            }
            longest = longest.max(pause);
        }
        (in_flight / PACKET, sent, longest)
    }

    #[test]
    fn a_window_that_is_halved_lets_every_other_packet_go() {
        let (in_flight, sent, pause) = reduce(100, 50);
        assert!(in_flight <= 51, "{in_flight}");
        assert!((49..=51).contains(&sent), "{sent}");
        assert!(pause <= 2, "{pause}");
    }

    #[test]
    fn a_window_that_grows_is_in_force_at_once() {
        let mut reduction = Reduction::default();
        reduction.acknowledged(10 * PACKET, 20 * PACKET, PACKET);
        assert!(reduction.window(10 * PACKET) > 19 * PACKET);
        reduction.acknowledged(30 * PACKET, 20 * PACKET, 0);
        assert_eq!(reduction.window(30 * PACKET), 30 * PACKET);
        // And nothing of it is left for the next time.
        assert_eq!(reduction.window(10 * PACKET), 10 * PACKET);
    }

    proptest! {
        #[test]
        fn a_round_trip_later_the_small_window_is_in_force(from in 4u64..500, share in 0.0f64..1.0) {
            let to = ((from as f64 * share) as u64).max(2);
            let (in_flight, ..) = reduce(from, to);
            prop_assert!(in_flight <= to + 1, "{in_flight} of {to}");
        }
    }
}

//! Lets a packet beyond a congestion window that is full because the peer is silent. Pure: the caller passes the time.
//!
//! Without it nothing leaves but QUIC's own probes, seconds apart (`docs/decisions/knock-when-silent.md`). Two packets a second congest nothing.

use std::time::{Duration, Instant};

/// Minimum time without an acknowledgement before a packet is let through; on a long path two round trips.
const PATIENCE: Duration = Duration::from_millis(500);

/// How many bytes may be sent beyond the window.
#[derive(Clone, Debug)]
pub(super) struct KeepProbing {
    bytes: u64,
    patience: Duration,
    /// When the window was found full, or the last packet was let through; `None` since the last acknowledgement.
    from: Option<Instant>,
}

impl KeepProbing {
    pub(super) fn new() -> Self {
        Self {
            bytes: 0,
            patience: PATIENCE,
            from: None,
        }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// The window is full, and there is more to send, in packets of `mtu` bytes.
    pub(super) fn full(&mut self, now: Instant, mtu: u16) {
        let from = *self.from.get_or_insert(now);
        if now.saturating_duration_since(from) >= self.patience {
            self.bytes += u64::from(mtu);
            self.from = Some(now);
        }
    }

    /// Something was acknowledged.
    pub(super) fn heard(&mut self, rtt: Duration) {
        self.bytes = 0;
        self.from = None;
        self.patience = PATIENCE.max(rtt * 2);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_every_half_second_of_silence_and_nothing_else() {
        let mut spare = KeepProbing::new();
        let began = Instant::now();
        for ms in 0..=1600 {
            spare.full(began + Duration::from_millis(ms), 1200);
            assert_eq!(spare.bytes(), 1200 * (ms / 500));
        }
        spare.heard(Duration::from_millis(40));
        assert_eq!(spare.bytes(), 0);
        // Full of what is acknowledged all the time: that is congestion control's business.
        for ms in 0..10_000 {
            spare.full(began + Duration::from_millis(ms), 1200);
            if ms % 40 == 0 {
                spare.heard(Duration::from_millis(40));
            }
            assert_eq!(spare.bytes(), 0);
        }
    }

    #[test]
    fn a_long_path_has_time_for_two_round_trips() {
        let mut spare = KeepProbing::new();
        spare.heard(Duration::from_millis(600));
        let began = Instant::now();
        spare.full(began, 1200);
        spare.full(began + Duration::from_millis(1199), 1200);
        assert_eq!(spare.bytes(), 0);
        spare.full(began + Duration::from_millis(1200), 1200);
        assert_eq!(spare.bytes(), 1200);
    }
}

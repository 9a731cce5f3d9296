//! Metrics of the packets that connections send and lose.

use iroh::endpoint::Connection;

/// Which side of a connection counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Client,
    Server,
}

impl Side {
    const fn sent(self) -> &'static str {
        match self {
            Self::Client => "tower_iroh_client_packets_sent_total",
            Self::Server => "tower_iroh_server_packets_sent_total",
        }
    }

    const fn lost(self) -> &'static str {
        match self {
            Self::Client => "tower_iroh_client_packets_lost_total",
            Self::Server => "tower_iroh_server_packets_lost_total",
        }
    }
}

/// The counts of a connection that the metrics already have.
pub(super) struct Packets {
    side: Side,
    sent: u64,
    lost: u64,
}

impl Packets {
    pub(super) fn new(side: Side) -> Self {
        Self {
            side,
            sent: 0,
            lost: 0,
        }
    }

    /// Adds the difference to the metrics.
    ///
    /// The counters are looked up each time, at most a few times a second, so a recorder may be installed at any time.
    pub(super) fn count(&mut self, connection: &Connection) {
        let stats = connection.stats();
        self.add(stats.sent_packets, stats.lost_packets);
    }

    fn add(&mut self, sent: u64, lost: u64) {
        for (name, before, now) in [
            (self.side.sent(), &mut self.sent, sent),
            (self.side.lost(), &mut self.lost, lost),
        ] {
            let more = now.saturating_sub(*before);
            *before = now.max(*before);
            // The series exists even if no packet was lost, so that a dashboard shows zero.
            metrics::counter!(name).increment(more);
        }
    }
}

#[cfg(test)]
mod tests {
    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;

    #[test]
    fn each_packet_counts_once() {
        let recorder = PrometheusBuilder::new().build_recorder();
        metrics::with_local_recorder(&recorder, || {
            let mut one = Packets::new(Side::Client);
            let mut other = Packets::new(Side::Client);
            one.add(10, 0);
            one.add(10, 0);
            other.add(5, 0);
            one.add(30, 2);
            // A path that was given up may take its share along.
            one.add(25, 1);
            one.add(31, 2);
        });
        let text = recorder.handle().render();
        assert!(
            text.contains("tower_iroh_client_packets_sent_total 36\n"),
            "{text}"
        );
        assert!(
            text.contains("tower_iroh_client_packets_lost_total 2\n"),
            "{text}"
        );
        assert!(!text.contains("tower_iroh_server"), "{text}");
    }
}

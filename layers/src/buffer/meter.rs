//! The buffer's metrics. Several buffers add up: gauges are moved by differences.

use metrics::{Counter, Gauge, counter, gauge};

use super::BufferStats;

pub(super) struct Meter {
    told: BufferStats,
    waiting: Gauge,
    bytes: Gauge,
    delivered: Counter,
    failed: Counter,
    expired: Counter,
    dropped: Counter,
    cancelled: Counter,
    rejected: Counter,
}

impl Meter {
    pub(super) fn new() -> Self {
        let ended = |outcome| counter!("tower_iroh_buffer_calls_total", "outcome" => outcome);
        Self {
            told: BufferStats::default(),
            waiting: gauge!("tower_iroh_buffer_waiting"),
            bytes: gauge!("tower_iroh_buffer_bytes"),
            delivered: ended("delivered"),
            failed: ended("failed"),
            expired: ended("expired"),
            dropped: ended("dropped"),
            cancelled: ended("cancelled"),
            rejected: ended("rejected"),
        }
    }

    /// Tells what has changed.
    #[allow(clippy::cast_precision_loss, reason = "gauges are floats")]
    pub(super) fn follow(&mut self, now: &BufferStats) {
        let told = std::mem::replace(&mut self.told, *now);
        let counters = [
            (&self.delivered, told.delivered, now.delivered),
            (&self.failed, told.failed, now.failed),
            (&self.expired, told.expired, now.expired),
            (&self.dropped, told.dropped, now.dropped),
            (&self.cancelled, told.cancelled, now.cancelled),
            (&self.rejected, told.rejected, now.rejected),
        ];
        for (counter, before, after) in counters {
            if after != before {
                counter.increment(after - before);
            }
        }
        let gauges = [
            (&self.waiting, told.waiting, now.waiting),
            (&self.bytes, told.bytes, now.bytes),
        ];
        for (gauge, before, after) in gauges {
            if after > before {
                gauge.increment((after - before) as f64);
            } else if after < before {
                gauge.decrement((before - after) as f64);
            }
        }
    }
}

//! The buffer's metrics. Several buffers add up, so gauges are moved by differences.

use std::sync::LazyLock;

use super::BufferStats;
use crate::meter::{Counter, Gauge, counter, gauge};

pub(super) struct Meter(LazyLock<Handles>);

struct Handles {
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
        Self(LazyLock::new(|| {
            let ended = |outcome| counter("tower_iroh_buffer_calls_total", &[("outcome", outcome)]);
            Handles {
                waiting: gauge("tower_iroh_buffer_waiting", &[]),
                bytes: gauge("tower_iroh_buffer_bytes", &[]),
                delivered: ended("delivered"),
                failed: ended("failed"),
                expired: ended("expired"),
                dropped: ended("dropped"),
                cancelled: ended("cancelled"),
                rejected: ended("rejected"),
            }
        }))
    }

    /// Reports the changes. Never under a lock: a recorder is foreign code.
    #[allow(clippy::cast_precision_loss, reason = "gauges are floats")]
    pub(super) fn follow(&self, before: &BufferStats, now: &BufferStats) {
        if before == now {
            return;
        }
        let handles = &*self.0;
        let counters = [
            (&handles.delivered, before.delivered, now.delivered),
            (&handles.failed, before.failed, now.failed),
            (&handles.expired, before.expired, now.expired),
            (&handles.dropped, before.dropped, now.dropped),
            (&handles.cancelled, before.cancelled, now.cancelled),
            (&handles.rejected, before.rejected, now.rejected),
        ];
        for (counter, before, now) in counters {
            if now != before {
                counter.increment(now - before);
            }
        }
        let gauges = [
            (&handles.waiting, before.waiting, now.waiting),
            (&handles.bytes, before.bytes, now.bytes),
        ];
        for (gauge, before, now) in gauges {
            if now > before {
                gauge.increment((now - before) as f64);
            } else if now < before {
                gauge.decrement((before - now) as f64);
            }
        }
    }
}

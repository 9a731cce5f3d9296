use std::sync::LazyLock;

use crate::meter::{Counter, Distribution, Histogram, counter, histogram};

pub(super) struct Meter(LazyLock<Handles>);

struct Handles {
    items: Histogram,
    failed: Counter,
}

impl Meter {
    pub(super) fn new() -> Self {
        Self(LazyLock::new(|| Handles {
            items: histogram(Distribution::BATCH_ITEMS),
            failed: counter("tower_iroh_batch_failed_total", &[]),
        }))
    }

    #[allow(clippy::cast_precision_loss, reason = "a batch is small")]
    pub(super) fn sent(&self, items: usize) {
        self.0.items.record(items as f64);
    }

    pub(super) fn failed(&self) {
        self.0.failed.increment(1);
    }
}

use metrics::{Counter, Histogram, counter, histogram};

/// The handles are made once.
pub(super) struct Meter {
    items: Histogram,
    failed: Counter,
}

impl Meter {
    pub(super) fn new() -> Self {
        Self {
            items: histogram!("tower_iroh_batch_items"),
            failed: counter!("tower_iroh_batch_failed_total"),
        }
    }

    #[allow(clippy::cast_precision_loss, reason = "a batch is small")]
    pub(super) fn sent(&self, items: usize) {
        self.items.record(items as f64);
    }

    pub(super) fn failed(&self) {
        self.failed.increment(1);
    }
}

use std::sync::LazyLock;

use crate::meter::{Counter, Distribution, Histogram, counter, histogram};

pub(super) struct Meter {
    pub(super) items: Histogram,
    pub(super) failed: Counter,
}

impl Meter {
    pub(super) fn new() -> LazyLock<Self> {
        LazyLock::new(|| Self {
            items: histogram(Distribution::BATCH_ITEMS),
            failed: counter("tower_iroh_batch_failed_total", &[]),
        })
    }
}

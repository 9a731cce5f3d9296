use std::sync::LazyLock;

use crate::meter::{Counter, Gauge, counter, gauge};

pub(super) struct Meter {
    pub(super) refused: Counter,
    pub(super) failing: Gauge,
}

impl Meter {
    pub(super) fn new() -> LazyLock<Self> {
        LazyLock::new(|| Self {
            refused: counter("tower_iroh_fail_fast_refused_total", &[]),
            failing: gauge("tower_iroh_fail_fast_failing", &[]),
        })
    }
}

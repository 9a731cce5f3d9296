use std::sync::LazyLock;

use crate::meter::{Counter, Gauge, counter, gauge};

pub(super) struct Meter(LazyLock<Handles>);

struct Handles {
    refused: Counter,
    failing: Gauge,
}

impl Meter {
    pub(super) fn new() -> Self {
        Self(LazyLock::new(|| Handles {
            refused: counter("tower_iroh_fail_fast_refused_total", &[]),
            failing: gauge("tower_iroh_fail_fast_failing", &[]),
        }))
    }

    pub(super) fn refused(&self) {
        self.0.refused.increment(1);
    }

    pub(super) fn failing(&self, failing: bool) {
        match failing {
            true => self.0.failing.increment(1.0),
            false => self.0.failing.decrement(1.0),
        }
    }
}

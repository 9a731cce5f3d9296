use std::sync::LazyLock;

use crate::{
    Urgency,
    meter::{Counter, counter},
};

/// The handles are kept: a call costs an atomic addition.
#[derive(Debug)]
pub(super) struct Meter(LazyLock<Handles>);

#[derive(Debug)]
struct Handles {
    calls: [Counter; 8],
    lowered: Counter,
}

impl Meter {
    pub(super) fn new() -> Self {
        Self(LazyLock::new(|| Handles {
            calls: ["0", "1", "2", "3", "4", "5", "6", "7"]
                .map(|n| counter("tower_iroh_priority_calls_total", &[("urgency", n)])),
            lowered: counter("tower_iroh_priority_lowered_total", &[]),
        }))
    }

    pub(super) fn decided(&self, urgency: Urgency, lowered: bool) {
        self.0.calls[usize::from(urgency.get())].increment(1);
        if lowered {
            self.0.lowered.increment(1);
        }
    }
}

use std::sync::LazyLock;

use crate::meter::{Counter, counter};

/// The handles are kept: a call costs an atomic addition.
#[derive(Debug)]
pub(super) struct Meter {
    /// By urgency.
    pub(super) calls: [Counter; 8],
    pub(super) lowered: Counter,
}

impl Meter {
    pub(super) fn new() -> LazyLock<Self> {
        LazyLock::new(|| Self {
            calls: ["0", "1", "2", "3", "4", "5", "6", "7"]
                .map(|n| counter("tower_iroh_priority_calls_total", &[("urgency", n)])),
            lowered: counter("tower_iroh_priority_lowered_total", &[]),
        })
    }
}

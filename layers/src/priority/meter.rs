use std::fmt;

use metrics::{Counter, counter};

use crate::Urgency;

/// The handles are made once: a call costs an atomic addition.
pub(super) struct Meter {
    calls: [Counter; 8],
    lowered: Counter,
}

impl Meter {
    pub(super) fn new() -> Self {
        Self {
            calls: std::array::from_fn(
                |n| counter!("tower_iroh_priority_calls_total", "urgency" => n.to_string()),
            ),
            lowered: counter!("tower_iroh_priority_lowered_total"),
        }
    }

    pub(super) fn decided(&self, urgency: Urgency, lowered: bool) {
        self.calls[usize::from(urgency.get())].increment(1);
        if lowered {
            self.lowered.increment(1);
        }
    }
}

impl fmt::Debug for Meter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Meter")
    }
}

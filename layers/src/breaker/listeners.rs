use std::sync::atomic::{AtomicU64, Ordering};

use tokio::sync::watch;

use super::{meter::Meter, state::CircuitState};

/// Who is told of a change: watchers and the metrics' recorder, which are foreign code.
pub(super) struct Listeners {
    changes: watch::Sender<CircuitState>,
    /// The number of the change that the watchers see.
    seen: AtomicU64,
    meter: Meter,
}

impl Listeners {
    pub(super) fn new(transport: &'static str) -> Self {
        Self {
            changes: watch::Sender::new(CircuitState::Closed),
            seen: AtomicU64::new(0),
            meter: Meter::new(transport),
        }
    }

    pub(super) fn changes(&self) -> &watch::Sender<CircuitState> {
        &self.changes
    }

    pub(super) fn tell(&self, from: &CircuitState, to: CircuitState, number: u64) {
        self.meter.changed(from, &to);
        self.changes.send_if_modified(|now| {
            // Two who change it at once may come here in either order.
            let newer = self.seen.fetch_max(number, Ordering::Relaxed) < number;
            if newer {
                *now = to;
            }
            newer
        });
    }

    pub(super) fn gone(&self, state: &CircuitState) {
        self.meter.gone(state);
    }
}

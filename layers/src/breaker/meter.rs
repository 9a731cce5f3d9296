//! The breaker's metrics. Only a change of state comes here.

use std::sync::OnceLock;

use super::CircuitState;
use crate::meter::{Counter, Gauge, counter, gauge};

pub(super) struct Meter {
    transport: &'static str,
    /// Looked up at the first change, which most circuits never see.
    handles: OnceLock<Handles>,
}

struct Handles {
    holding: Gauge,
    opened: [(&'static str, Counter); 4],
    closed: Counter,
}

impl Meter {
    pub(super) fn new(transport: &'static str) -> Self {
        Self {
            transport,
            handles: OnceLock::new(),
        }
    }

    fn handles(&self) -> &Handles {
        let transport = ("transport", self.transport);
        self.handles.get_or_init(|| Handles {
            holding: gauge("tower_iroh_breaker_not_closed", &[transport]),
            opened: ["run", "link", "rate", "probe"].map(|rule| {
                let labels = [transport, ("rule", rule)];
                (rule, counter("tower_iroh_breaker_opened_total", &labels))
            }),
            closed: counter("tower_iroh_breaker_closed_total", &[transport]),
        })
    }

    pub(super) fn changed(&self, from: &CircuitState, to: &CircuitState) {
        let handles = self.handles();
        match (from.is_closed(), to.is_closed()) {
            (true, false) => handles.holding.increment(1.0),
            (false, true) => handles.holding.decrement(1.0),
            _ => {}
        }
        match to {
            CircuitState::Open { reason, .. } => {
                let rule = reason.rule().name();
                if let Some((_, opened)) = handles.opened.iter().find(|(name, _)| *name == rule) {
                    opened.increment(1);
                }
            }
            CircuitState::Closed => handles.closed.increment(1),
            _ => {}
        }
    }

    pub(super) fn gone(&self, state: &CircuitState) {
        if !state.is_closed() {
            self.handles().holding.decrement(1.0);
        }
    }
}

//! The breaker's metrics, and nothing where the feature is off. Only a change of state comes here.

use super::CircuitState;

#[cfg(feature = "metrics")]
pub(super) use on::Meter;

#[cfg(not(feature = "metrics"))]
pub(super) struct Meter;

#[cfg(not(feature = "metrics"))]
impl Meter {
    pub(super) fn new(_: &'static str) -> Self {
        Self
    }

    pub(super) fn changed(&self, _: &CircuitState, _: &CircuitState) {}

    pub(super) fn gone(&self, _: &CircuitState) {}
}

#[cfg(feature = "metrics")]
mod on {
    use std::sync::OnceLock;

    use metrics::{Counter, Gauge, counter, gauge};

    use super::CircuitState;

    pub(in super::super) struct Meter {
        transport: &'static str,
        /// Asked for at the first change: by then the recorder is there, and most circuits never change.
        handles: OnceLock<Handles>,
    }

    struct Handles {
        holding: Gauge,
        opened: [(&'static str, Counter); 4],
        closed: Counter,
    }

    impl Meter {
        pub(in super::super) fn new(transport: &'static str) -> Self {
            Self {
                transport,
                handles: OnceLock::new(),
            }
        }

        fn handles(&self) -> &Handles {
            let transport = self.transport;
            self.handles.get_or_init(|| Handles {
                holding: gauge!("tower_iroh_breaker_not_closed", "transport" => transport),
                opened: ["run", "link", "rate", "probe"].map(|rule| {
                    let opened = counter!("tower_iroh_breaker_opened_total", "transport" => transport, "rule" => rule);
                    (rule, opened)
                }),
                closed: counter!("tower_iroh_breaker_closed_total", "transport" => transport),
            })
        }

        pub(in super::super) fn changed(&self, from: &CircuitState, to: &CircuitState) {
            let handles = self.handles();
            match (from.is_closed(), to.is_closed()) {
                (true, false) => handles.holding.increment(1.0),
                (false, true) => handles.holding.decrement(1.0),
                _ => {}
            }
            match to {
                CircuitState::Open { reason, .. } => {
                    let rule = reason.rule().name();
                    if let Some((_, opened)) = handles.opened.iter().find(|(name, _)| *name == rule)
                    {
                        opened.increment(1);
                    }
                }
                CircuitState::Closed => handles.closed.increment(1),
                _ => {}
            }
        }

        pub(in super::super) fn gone(&self, state: &CircuitState) {
            if !state.is_closed() {
                self.handles().holding.decrement(1.0);
            }
        }
    }
}

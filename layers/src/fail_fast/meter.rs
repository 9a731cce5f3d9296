//! The room's metrics, and nothing where the feature is off.

#[cfg(feature = "metrics")]
pub(super) use on::Meter;

#[cfg(not(feature = "metrics"))]
pub(super) struct Meter;

#[cfg(not(feature = "metrics"))]
impl Meter {
    pub(super) fn new() -> Self {
        Self
    }

    pub(super) fn refused(&self) {}

    pub(super) fn failing(&self, _: bool) {}
}

#[cfg(feature = "metrics")]
mod on {
    use std::sync::OnceLock;

    use metrics::{Counter, Gauge, counter, gauge};

    /// Asked for when they are needed first: by then the recorder is there.
    pub(in super::super) struct Meter(OnceLock<(Counter, Gauge)>);

    impl Meter {
        pub(in super::super) fn new() -> Self {
            Self(OnceLock::new())
        }

        fn handles(&self) -> &(Counter, Gauge) {
            self.0.get_or_init(|| {
                let refused = counter!("tower_iroh_fail_fast_refused_total");
                (refused, gauge!("tower_iroh_fail_fast_failing"))
            })
        }

        pub(in super::super) fn refused(&self) {
            self.handles().0.increment(1);
        }

        pub(in super::super) fn failing(&self, failing: bool) {
            let gauge = &self.handles().1;
            match failing {
                true => gauge.increment(1.0),
                false => gauge.decrement(1.0),
            }
        }
    }
}

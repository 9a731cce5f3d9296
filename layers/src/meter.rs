//! The handles of the layers' metrics. Without the feature `metrics` they do nothing.
//!
//! A handle belongs to the recorder that was installed when the handle was looked up, and a layer may be built before the recorder is
//! installed. So a layer looks up its handles when it first counts something: it keeps them in a `LazyLock` or a `OnceLock`.

#![allow(dead_code, unused_imports, reason = "each layer needs some of it")]

#[cfg(not(feature = "metrics"))]
pub(crate) use off::*;
#[cfg(feature = "metrics")]
pub(crate) use on::*;

/// The labels of a metric.
pub(crate) type Labels<'a> = &'a [(&'static str, &'static str)];

#[cfg(feature = "metrics")]
mod on {
    pub(crate) use metrics::{Counter, Gauge, Histogram};
    use metrics::{Label, Unit};

    use super::Labels;

    pub(crate) fn counter(name: &'static str, labels: Labels<'_>) -> Counter {
        metrics::counter!(name, labels)
    }

    pub(crate) fn gauge(name: &'static str, labels: Labels<'_>) -> Gauge {
        metrics::gauge!(name, labels)
    }

    pub(crate) fn describe_counter(name: &'static str, what: &'static str) {
        metrics::describe_counter!(name, Unit::Count, what);
    }

    /// A histogram's name and the upper bounds of its buckets. The fields are private, so every histogram is in [`ALL`](Self::ALL).
    #[derive(Clone, Copy, Debug)]
    pub(crate) struct Distribution {
        name: &'static str,
        bounds: &'static [f64],
    }

    macro_rules! distributions {
        ($($constant:ident = $name:literal in $bounds:ident;)*) => {
            impl Distribution {
                $(pub(crate) const $constant: Self = Self { name: $name, bounds: $bounds };)*

                /// Each histogram that a layer records.
                pub(crate) const ALL: &[Self] = &[$(Self::$constant),*];
            }
        };
    }

    distributions! {
        CLIENT_CALLS = "rpc.client.call.duration" in SECONDS;
        SERVER_CALLS = "rpc.server.call.duration" in SECONDS;
        ATTEMPTS = "tower_iroh_client_attempt_duration_seconds" in SECONDS;
        BATCH_ITEMS = "tower_iroh_batch_items" in ITEMS;
    }

    /// OpenTelemetry's advice begins at 5 ms, which is too coarse on a local network, and ends at 10 s, which streams exceed.
    const SECONDS: &[f64] = &[
        0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5,
        0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 30.0, 60.0,
    ];

    const ITEMS: &[f64] = &[
        1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 4096.0,
    ];

    impl Distribution {
        pub(crate) const fn name(self) -> &'static str {
            self.name
        }

        /// In ascending order, and never none.
        pub(crate) const fn bounds(self) -> &'static [f64] {
            self.bounds
        }
    }

    pub(crate) fn histogram(distribution: Distribution) -> Histogram {
        labelled_histogram(distribution, Vec::new())
    }

    pub(crate) fn labelled_histogram(distribution: Distribution, labels: Vec<Label>) -> Histogram {
        metrics::histogram!(distribution.name, labels)
    }
}

#[cfg(not(feature = "metrics"))]
mod off {
    use super::Labels;

    /// Any metric: nothing is recorded.
    #[derive(Debug)]
    pub(crate) struct Off;

    pub(crate) type Counter = Off;
    pub(crate) type Gauge = Off;
    pub(crate) type Histogram = Off;

    impl Off {
        pub(crate) fn increment<T>(&self, _: T) {}

        pub(crate) fn decrement<T>(&self, _: T) {}

        pub(crate) fn record(&self, _: f64) {}
    }

    pub(crate) struct Distribution;

    impl Distribution {
        pub(crate) const BATCH_ITEMS: Self = Self;
    }

    pub(crate) fn counter(_: &'static str, _: Labels<'_>) -> Counter {
        Off
    }

    pub(crate) fn gauge(_: &'static str, _: Labels<'_>) -> Gauge {
        Off
    }

    pub(crate) fn histogram(_: Distribution) -> Histogram {
        Off
    }

    pub(crate) fn describe_counter(_: &'static str, _: &'static str) {}
}

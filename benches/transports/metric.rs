//! What is read off a slice.

use crate::shared::{
    wire::Slice,
    workload::{Shape, Workload},
};

/// One figure of a slice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Metric {
    /// Calls, messages or connections per second.
    Rate,
    /// Payload per second, both directions together.
    Throughput,
    P50,
    P95,
    P99,
    /// Processor time per call, client and server together.
    Cpu,
}

impl Metric {
    /// What the tables show for a workload; the first is the one in the chart.
    pub fn of(workload: Workload) -> &'static [Self] {
        match workload.shape {
            Shape::Unary if workload.size > 64 << 10 => {
                &[Self::Throughput, Self::P50, Self::P99, Self::Cpu]
            }
            Shape::Unary if workload.size > 1 << 10 => &[
                Self::Rate,
                Self::Throughput,
                Self::P50,
                Self::P99,
                Self::Cpu,
            ],
            Shape::Unary if workload.callers == 1 => {
                &[Self::P50, Self::P95, Self::P99, Self::Rate, Self::Cpu]
            }
            Shape::Unary => &[Self::Rate, Self::P50, Self::P95, Self::P99, Self::Cpu],
            Shape::ServerStream { .. } => &[Self::Rate, Self::Throughput, Self::Cpu],
            Shape::PingPong => &[Self::P50, Self::P99, Self::Rate, Self::Cpu],
            Shape::Connect => &[Self::P50, Self::P95, Self::Rate, Self::Cpu],
        }
    }

    /// Its value in the unit of [`show`](Self::show); `None` where there is none.
    ///
    /// A slice without a single answer has a rate, zero, but no latency.
    pub fn read(self, slice: &Slice) -> Option<f64> {
        let micros = |ns: u64| (ns > 0).then(|| ns as f64 / 1e3);
        match self {
            Self::Rate => Some(slice.events as f64 / slice.seconds),
            Self::Throughput => Some(slice.bytes as f64 / slice.seconds / 1e6),
            Self::P50 => micros(slice.p50),
            Self::P95 => micros(slice.p95),
            Self::P99 => micros(slice.p99),
            Self::Cpu => (slice.events > 0)
                .then(|| Some(slice.cpu_ns? as f64 / 1e3 / slice.events as f64))?,
        }
    }

    /// Whether more is better.
    pub fn more_is_better(self) -> bool {
        matches!(self, Self::Rate | Self::Throughput)
    }

    /// Its name in a table.
    pub fn title(self) -> &'static str {
        match self {
            Self::Rate => "per second",
            Self::Throughput => "MB/s",
            Self::P50 => "p50",
            Self::P95 => "p95",
            Self::P99 => "p99",
            Self::Cpu => "CPU per call",
        }
    }

    /// A value as a reader wants it.
    pub fn show(self, value: f64) -> String {
        match self {
            Self::Rate if value >= 10_000.0 => format!("{:.1} k", value / 1e3),
            Self::Rate | Self::Throughput => format!("{value:.0}"),
            _ if value >= 10_000.0 => format!("{:.1} ms", value / 1e3),
            _ if value >= 100.0 => format!("{value:.0} us"),
            _ => format!("{value:.1} us"),
        }
    }
}

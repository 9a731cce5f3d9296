//! What the bench and an arm's process say to each other: one JSON object per line.

use serde::{Deserialize, Serialize};

/// From the bench, on the arm's standard input.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Command {
    /// A workload's name.
    pub workload: String,
    /// How long to run before anything counts.
    pub ramp_ms: u64,
    /// How long to measure.
    pub measure_ms: u64,
}

/// From the arm, on its standard output.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub enum Answer {
    /// Server and client are up. Said once.
    Ready(Hello),
    /// A slice was run to its end and every answer was the right one.
    Done(Slice),
    /// A call failed or its answer was not what was asked for.
    Failed(String),
}

/// What an arm says of itself.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Hello {
    /// Threads that its runtime works with.
    pub workers: usize,
    /// What a reader of the figures should know, for example the negotiated cipher.
    pub notes: Vec<String>,
}

/// What one slice measured.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Slice {
    /// Length of the window in seconds.
    pub seconds: f64,
    /// Calls (for a stream: messages) whose answer came within the window.
    pub events: u64,
    /// Payload bytes of those, both directions together.
    pub bytes: u64,
    /// Processor time of the whole process within the window, where the system tells.
    pub cpu_ns: Option<u64>,
    /// Quantiles of what began within the window, in nanoseconds; 0 where nothing did.
    pub p50: u64,
    /// The 95th percentile.
    pub p95: u64,
    /// The 99th percentile.
    pub p99: u64,
    /// The histogram behind the quantiles: nanoseconds and how often.
    pub latencies: Vec<(u64, u64)>,
}

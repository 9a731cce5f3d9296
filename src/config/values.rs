//! The choices that the configuration writes as one word.

use std::time::Duration;

use crate::server::Require;

/// The transports of a program: `transport.mode`.
///
/// It overrules every setting per service, so that one line takes every call back to TCP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Mode {
    /// TCP only.
    Grpc,
    /// iroh only.
    Iroh,
    /// Both: each service answers on both, and each caller chooses per service.
    #[default]
    Dual,
}

/// How calls of the group `raft` go in mode `dual`: `transport.migration.raft_transport`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum RaftTransport {
    /// Over TCP alone.
    #[default]
    AlwaysGrpc,
    /// Over iroh alone.
    AlwaysIroh,
    /// Over whichever serves better, by measured latency and health.
    Adaptive {
        /// A transport whose latency is below this is not left for a faster one. The word "adaptive" alone stands for 50 ms.
        latency_threshold: Duration,
    },
}

impl RaftTransport {
    /// The latency threshold of the word `"adaptive"` alone.
    pub const LATENCY_THRESHOLD: Duration = Duration::from_millis(50);
}

/// A choice that the configuration writes as one word.
pub(super) trait Words: Copy + PartialEq + 'static {
    const ALL: &'static [(&'static str, Self)];
}

impl Words for Mode {
    const ALL: &'static [(&'static str, Self)] = &[
        ("grpc", Self::Grpc),
        ("iroh", Self::Iroh),
        ("dual", Self::Dual),
    ];
}

impl Words for Require {
    const ALL: &'static [(&'static str, Self)] = &[
        ("all", Self::All),
        ("any", Self::Any),
        ("grpc", Self::Tcp),
        ("iroh", Self::Iroh),
    ];
}

impl Words for RaftTransport {
    const ALL: &'static [(&'static str, Self)] = &[
        ("always_grpc", Self::AlwaysGrpc),
        ("grpc", Self::AlwaysGrpc),
        ("always_iroh", Self::AlwaysIroh),
        ("iroh", Self::AlwaysIroh),
        (
            "adaptive",
            Self::Adaptive {
                latency_threshold: Self::LATENCY_THRESHOLD,
            },
        ),
    ];
}

//! The words of the configuration that stand for a choice.

use std::time::Duration;

/// Which transports there are: `transport.mode`.
///
/// It overrules everything that is said per service, so that one line takes every call back to TCP.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Mode {
    /// TCP only.
    Grpc,
    /// iroh only.
    Iroh,
    /// Both: each service answers on both, and whoever calls chooses per service.
    #[default]
    Dual,
}

/// Which of the mode's transports must be there for the server to run: `transport.require`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Require {
    /// Each of them. One that cannot be bound stops the server.
    #[default]
    All,
    /// At least one.
    Any,
    /// TCP; without iroh the server goes on, and says so.
    Grpc,
    /// iroh; without TCP the server goes on, and says so.
    Iroh,
}

/// How calls of the group `raft` go in mode `dual`: `transport.migration.raft_transport`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum RaftTransport {
    /// Over TCP and nothing else.
    #[default]
    AlwaysGrpc,
    /// Over iroh and nothing else.
    AlwaysIroh,
    /// Over whichever serves better, by measured latency and health.
    Adaptive {
        /// The latency below which a transport is good enough to stay. 50 ms where the file says only "adaptive".
        latency_threshold: Duration,
    },
}

impl RaftTransport {
    /// What `"adaptive"` alone means.
    pub const LATENCY_THRESHOLD: Duration = Duration::from_millis(50);
}

/// A choice that is written as one word.
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
        ("grpc", Self::Grpc),
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

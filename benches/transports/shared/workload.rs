//! What is asked of every arm.

/// One workload of the comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Workload {
    /// As written on the command line.
    pub name: &'static str,
    /// The kind of call.
    pub shape: Shape,
    /// Callers at a time; each has one call in flight.
    pub callers: usize,
    /// Bytes of payload per message.
    pub size: usize,
}

/// The kind of call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shape {
    /// Ask, wait for the echo, ask again.
    Unary,
    /// Streams of so many messages from the server, one stream after the other.
    ServerStream {
        /// Messages per stream.
        messages: u32,
    },
    /// One bidirectional stream on which each message waits for the one before it.
    PingPong,
    /// A new connection and one unary call on it, again and again.
    Connect,
}

const fn unary(name: &'static str, size: usize, callers: usize) -> Workload {
    Workload {
        name,
        shape: Shape::Unary,
        callers,
        size,
    }
}

/// Every workload, in the order in which a round runs them and the tables show them.
pub const ALL: [Workload; 9] = [
    unary("unary-64B-x1", 64, 1),
    unary("unary-64B-x8", 64, 8),
    unary("unary-64B-x64", 64, 64),
    unary("unary-64B-x256", 64, 256),
    unary("unary-16KiB-x32", 16 << 10, 32),
    unary("unary-1MiB-x4", 1 << 20, 4),
    Workload {
        name: "server-stream-1KiB",
        shape: Shape::ServerStream { messages: 1000 },
        callers: 1,
        size: 1 << 10,
    },
    Workload {
        name: "ping-pong-64B",
        shape: Shape::PingPong,
        callers: 1,
        size: 64,
    },
    Workload {
        name: "connect",
        shape: Shape::Connect,
        callers: 1,
        size: 64,
    },
];

/// The workload of that name.
pub fn named(name: &str) -> Option<Workload> {
    ALL.into_iter().find(|workload| workload.name == name)
}

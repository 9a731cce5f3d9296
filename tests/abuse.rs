//! Peers that break the rules, with honest callers beside them: what QUIC and HTTP/2 allow a stranger, against the default server.

// Nothing is public in a test binary.
#![allow(unreachable_pub)]

/// How long a test waits for something that is to happen. Two cores are shared with others, so this is no measure of speed.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(20);

#[path = "abuse/attacks.rs"]
mod attacks;
#[path = "abuse/http2.rs"]
mod http2;
#[path = "abuse/streams.rs"]
mod streams;
#[path = "abuse/support.rs"]
mod support;
#[path = "support/waiting.rs"]
#[allow(dead_code, reason = "the faults need all of it")]
mod waiting;
#[path = "abuse/windows.rs"]
mod windows;

//! The TCP arm over real sockets: who is let in, who is refused and how, and what a channel makes of a connection's end.

// Nothing is public in a test binary.
#![allow(unreachable_pub)]

#[path = "tcp/accepting.rs"]
mod accepting;
#[path = "tcp/connections.rs"]
mod connections;
#[path = "tcp/ending.rs"]
mod ending;
#[path = "faults/support.rs"]
#[allow(
    dead_code,
    unused_macros,
    unused_imports,
    reason = "its services and its waits"
)]
mod faulty;
#[path = "tcp/identity.rs"]
mod identity;
#[path = "tcp/lived.rs"]
mod lived;
#[path = "tcp/plaintext.rs"]
mod plaintext;
#[path = "tcp/refused.rs"]
mod refused;
#[path = "tcp/strangers.rs"]
mod strangers;
#[path = "tcp/support.rs"]
mod support;

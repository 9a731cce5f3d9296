//! What goes wrong, on purpose, between real iroh endpoints: each test names a fault and what the caller sees.
//!
//! The table in `docs/faults.md` lists them. Where a promise has a time bound it is measured; everything else waits for an
//! event, with a time-out that only a failing test reaches.

// Nothing is public in a test binary.
#![allow(unreachable_pub)]

#[path = "faults/bare.rs"]
mod bare;
#[path = "faults/dialling.rs"]
mod dialling;
#[path = "faults/documented.rs"]
mod documented;
#[path = "faults/drain.rs"]
mod drain;
#[path = "faults/garbage.rs"]
mod garbage;
#[path = "faults/handlers.rs"]
mod handlers;
#[path = "faults/idle.rs"]
mod idle;
#[path = "faults/killed.rs"]
mod killed;
#[path = "faults/lived.rs"]
mod lived;
#[cfg(target_os = "linux")]
#[path = "faults/lossy.rs"]
mod lossy;
#[path = "faults/rawlane.rs"]
mod rawlane;
#[path = "faults/refused.rs"]
mod refused;
#[path = "faults/relay.rs"]
mod relay;
#[path = "faults/silent.rs"]
mod silent;
#[path = "faults/slow_reader.rs"]
mod slow_reader;
#[path = "faults/strangers.rs"]
mod strangers;
#[path = "faults/support.rs"]
mod support;
#[cfg(target_os = "linux")]
#[path = "support/udp_way.rs"]
#[allow(dead_code, reason = "the soak needs all of it")]
mod udp_way;

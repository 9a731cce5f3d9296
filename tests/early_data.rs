//! Early data, TLS 1.3's 0-RTT: what a replay reaches, what it does not, and who may know whom.
//!
//! Between client and server stands a relay that can hold back, record and deliver again, so "before the handshake is complete" is an order of events
//! here and not a time. The handlers write down who had proved to be the caller when they began: nobody, in a call that was served early.

// Nothing is public in a test binary.
#![allow(unreachable_pub)]
#![cfg(feature = "authorize")]

#[path = "early_data/packets.rs"]
mod packets;
#[path = "early_data/refused.rs"]
mod refused;
#[path = "early_data/relay.rs"]
mod relay;
#[path = "early_data/replayed.rs"]
mod replayed;
#[path = "early_data/served.rs"]
mod served;
#[path = "early_data/support.rs"]
mod support;

//! Layers for gRPC over [tower](https://docs.rs/tower), and the vocabulary that they share with a transport.
//!
//! This crate knows `http`, `http-body` and gRPC's framing, and nothing of iroh: what is here works over any
//! transport, tonic's own TCP channel included.
//!
//! - [`Urgency`]: how soon a call's bytes should go, as RFC 9218 counts it.
//! - [`peek`]: how large a call's first message is, read from its first five bytes, without waiting for a body
//!   that has nothing to say yet.

pub mod peek;
pub mod urgency;

pub use urgency::Urgency;

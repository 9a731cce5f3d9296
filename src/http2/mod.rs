//! Lanes: a few long-lived HTTP/2 connections per peer, each on a byte stream of its own.
//!
//! Never a stream per call: a slow reader of small messages on a stream of its own makes QUIC give up the whole
//! connection, while HTTP/2 inside a stream keeps reading (`docs/decisions/lanes-not-streams.md`).

mod carries;
mod conduct;
mod connection;
mod connector;
mod driver;
mod frames;
mod header_list;
mod lanes;
mod observer;
mod permits;
mod set;
mod stream;

pub use connector::{Connector, ConnectorIo, Streams};
pub use lanes::{LaneConfig, Lanes};

pub(crate) use carries::Carries;
pub(crate) use connection::{Explain, Http2, Ready};
pub(crate) use frames::{Frames, Head};
pub(crate) use observer::Observer;
pub(crate) use set::{Gate, GateGuard, LanePermit, LaneSet, NewStream, NoStream, Opener};
pub(crate) use stream::REOPENING;

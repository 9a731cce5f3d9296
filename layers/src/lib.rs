//! Layers for gRPC over [tower](https://docs.rs/tower), and the vocabulary that they share with a transport.
//!
//! A gRPC call is not an HTTP request with one answer. Its status may come in the head, in the trailers, or never. Its body may be a
//! stream that lasts for days. Its deadline travels with it. The layers here handle that. They know nothing of iroh: each works in a
//! `ServiceBuilder` over any transport, tonic's own `Channel` included, and each has a feature of its own.
//!
//! | layer | side | what it does |
//! |---|---|---|
//! | [`classify`] | client, server | one verdict per attempt, from wherever the call ends |
//! | [`breaker`] | client | stops calling a peer that keeps failing, and finds out when it is back |
//! | [`fail_fast`] | client | turns prolonged waiting for a peer into an immediate UNAVAILABLE |
//! | [`deadline`] | client, server | one clock for queueing, dialling, headers and body |
//! | [`retry`] | client | retries a call when that is safe, within a budget |
//! | [`buffer`] | client | store and forward: holds calls until the peer is there |
//! | [`priority`] | client | decides how urgent a call is |
//! | [`select`] | client | chooses which of two transports carries a call, before anything is sent |
//! | [`batch`] | any | coalesces many small items into few calls |
//! | [`metrics`] | client, server | durations by method and code |
//! | [`trace`] | client, server | spans, and W3C trace context |
//! | [`authorize`] | server | who may call what, how often, and how large |
//!
//! [`rollout`] grows a canary of [`select`] by itself. [`prometheus`] shows a Prometheus server what the layers record.
//!
//! These shared parts need no feature:
//!
//! - [`Urgency`]: how soon a call's bytes should go, on the scale of RFC 9218.
//! - [`Deadline`]: the time at which a call expires, in a request's extensions and in its `grpc-timeout` header.
//! - [`Fault`]: what a transport or layer knows of a failure beyond its code: whose it is, and whether the peer may have begun the call.
//! - [`Idempotent`]: marks a call that may be executed twice, in a request's extensions.
//! - [`Methods`]: one table of the settings per method, for all layers; [`methods`] lists the settings.
//! - [`clock`]: one clock reading for all layers within one poll.
//! - [`MethodSet`]: the methods that a configuration lists.
//! - [`message_size`]: a bound on each message of a body, at its size on the wire.
//! - [`peek`]: the size of a call's first message, read from its first five bytes, without waiting for a body that has nothing ready.

pub mod clock;
pub mod deadline;
pub mod fault;
pub mod message_size;
pub mod methods;
pub mod peek;
pub mod urgency;

#[cfg(feature = "authorize")]
pub mod authorize;
#[cfg(feature = "batch")]
pub mod batch;
#[cfg(feature = "breaker")]
pub mod breaker;
#[cfg(feature = "buffer")]
pub mod buffer;
#[cfg(feature = "classify")]
pub mod classify;
#[cfg(feature = "fail-fast")]
pub mod fail_fast;
#[cfg(feature = "metrics")]
pub mod metrics;
#[cfg(feature = "priority")]
pub mod priority;
#[cfg(feature = "prometheus")]
pub mod prometheus;
#[cfg(feature = "retry")]
pub mod retry;
#[cfg(feature = "rollout")]
pub mod rollout;
#[cfg(feature = "select")]
pub mod select;
#[cfg(feature = "trace")]
pub mod trace;
#[cfg(any(feature = "retry", feature = "select"))]
pub mod unsent;

mod config_error;
mod headers;
#[cfg(any(feature = "breaker", feature = "fail-fast", feature = "select"))]
mod hidden;
mod idempotent;
mod meter;
mod mutex;
#[cfg(any(feature = "authorize", feature = "select"))]
mod named;
#[cfg(any(feature = "retry", feature = "select"))]
mod replay;
mod setters;
#[cfg(any(feature = "fail-fast", feature = "select"))]
mod watcher;

pub use config_error::ConfigError;
pub use deadline::Deadline;
pub use fault::{Fault, Incident, Origin};
pub use idempotent::Idempotent;
pub use methods::{MethodConfig, MethodEntry, MethodSet, Methods, MethodsBuilder};
pub use urgency::Urgency;

/// The error of every layer here. An error that a layer makes has a [`tonic::Status`] in its source chain, so its code survives any further box; an inner service's error passes as it is.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

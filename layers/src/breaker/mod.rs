//! A circuit breaker that knows what a gRPC failure is.
//!
//! It stops calling a peer that keeps failing, and finds out when the peer is back. A [`Circuit`] holds what it knows: one per peer and transport, shared by
//! all services that lead there and kept when a connection is replaced. A [`Registry`] keeps the circuits of many peers.
//!
//! | state | calls | until |
//! |---|---|---|
//! | closed | all | 5 failures in a row, or 2 link failures with no answer between them, or half of at least 20 calls within 10 s failed ([`BreakerConfig`]) |
//! | open | none: `poll_ready` is `Pending` | a wait with full jitter ends, under a ceiling of 1 s that doubles up to 30 s |
//! | half-open | one at a time, the probe | it succeeds (closed) or fails (open, for longer) |
//!
//! [`classify`](crate::classify) decides what a failure is: one verdict per attempt, from the trailers if need be. UNAVAILABLE, a link failure, a reset, an end
//! without a status and an answer that is not gRPC are failures. All calls that one lost connection ends count once, by their [`Incident`](crate::Incident).
//!
//! **An application error blocks no other call.** INTERNAL, UNKNOWN and DATA_LOSS in a gRPC answer show that the peer is there, as OK does;
//! [`application_errors`](BreakerConfigBuilder::application_errors) counts them as failures for the methods that it lists. RESOURCE_EXHAUSTED is the limit of
//! one caller or one call, and opens no closed circuit; a probe that gets it with a pushback reopens an open one. If a peer sends `grpc-retry-pushback-ms`, a circuit that opens for other reasons stays open for at least that
//! long (at most ten recovery times). What this side did does not count either: a stream that our own limits reset, or a proxy's answer about this caller (HTTP
//! 4xx). A neutral end counts nowhere. A probe with a neutral end gives its permit to the next call at once, or closes the circuit if the end was an answer other than
//! CANCELLED, within the call's deadline.
//!
//! A probe is a user's call, and may be a stream that lasts for days. So a probe closes the circuit once its head is no failure and no failure follows within
//! [`first_wait`](BreakerConfigBuilder::first_wait). If a probe has no answer after a [`recovery`](BreakerConfigBuilder::recovery) time, another one may try.
//! The ceiling's steps are forgotten one by one while the circuit is closed, so a peer that answers a probe and fails again is not tried every second.
//!
//! **Why not another.** tower has none. Most others read the response's head, where a failed gRPC call is a 200. They reject with an error of their own, which
//! removes the endpoint from a p2c balancer for ever. They count one lost connection with fifty calls on it fifty times.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use tower::ServiceBuilder;
//! use tower_iroh_layers::breaker::{BreakerConfig, BreakerLayer, Circuit};
//! use tower_iroh_proto::echo::{EchoRequest, echo_client::EchoClient};
//!
//! let config = BreakerConfig::builder().link_threshold(1).build()?;
//! let circuit = Circuit::new(config);
//! let nobody = tonic::transport::Endpoint::from_static("http://127.0.0.1:1").connect_lazy();
//! let channel = ServiceBuilder::new()
//!     .layer(BreakerLayer::new(circuit.clone()))
//!     .service(nobody);
//! let mut client = EchoClient::new(channel);
//! client.echo(EchoRequest::default()).await.unwrap_err();
//! assert!(!circuit.state().is_closed());
//! println!("{}", circuit.why());
//! circuit.reset();
//! # Ok(())
//! # }
//! ```
//!
//! **Composition.** Below a retry, so that each attempt counts and waits. Below whatever chooses between peers or transports: it sees an open circuit as not
//! ready. A generated client waits for readiness without a deadline, so put `fail_fast` or a deadline above, with [`Circuit::why`] as the reason. A transport
//! that dials reports a new connection with [`Circuit::sign_of_life`], and a silent peer that is heard again with [`Circuit::heard_again`]. It finds
//! [`Probing`] in a request for which it may dial at once. [`Circuit::observe_only`] shows what the circuit would do without doing it.
//!
//! **Readiness.** The circuit's comes first; while it is open the inner service is not polled. A readiness error of the inner service becomes the next call's
//! error and counts there. `call` takes the probe's permit. A call may be let through and then lose the race for the permit, or find the circuit open. It then
//! waits in its future with the ready inner service. After [`BreakerLayer::max_wait`], 2 s unless set, it fails with UNAVAILABLE, unsent. The inner service is
//! cloned for that.
//!
//! **Cancel safety.** A dropped future or body is a verdict (mostly a neutral one), and returns the permit. A dropped service leaves no waker behind. Each
//! change of state wakes all waiters. Each waiter has a timer of its own for the time at which the state changes, so runtimes may share a circuit, and the
//! circuit may outlive them. No task.
//!
//! **Recording.** [`BreakerLayer::recording`] replaces a metrics layer right above: each attempt is followed once for both.
//!
//! **Cost.** Closed and successful: two loads, a clock read, one atomic update of the window, a reference count; no lock, no allocation
//! (`tests/breaker_alloc.rs`). `benches/breaker.rs` measures it beside the bare call. Forced closed: two loads and a reference count, no clock read. About a
//! third is the clock and the window; most of the rest is the response's path through one more type. Only failures and a circuit that is not closed take the
//! lock.
//!
//! **Metrics** (feature `metrics`), each with `transport`: `tower_iroh_breaker_opened_total` by `rule` (`run`, `link`, `rate`, `probe`),
//! `tower_iroh_breaker_closed_total`, and `tower_iroh_breaker_not_closed`, the number of circuits that hold calls back now.

mod attempt;
mod backoff;
mod circuit;
mod config;
mod core;
mod future;
mod gate;
mod inner;
mod layer;
mod listeners;
mod meter;
mod probing;
mod registry;
mod ring;
mod service;
mod state;
mod waiter;

/// The gate's primitives; `tests/breaker_loom.rs` builds it of loom's.
mod sync {
    pub(super) use std::sync::{
        Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    };
}

pub use attempt::Attempt;
pub use circuit::{Circuit, CircuitBuilder};
pub use config::{BreakerConfig, BreakerConfigBuilder};
pub use future::BreakerFuture;
pub use layer::BreakerLayer;
pub use probing::Probing;
pub use registry::Registry;
pub use service::Breaker;
pub use state::{CircuitState, OpenReason, Rule, Statistics};

/// The observers of an attempt's end: the [recorder](BreakerLayer::recording), and the circuit once the attempt was let in.
pub type AttemptObservers<O> = (O, Option<Attempt>);

/// The body of a [`Breaker`]'s response. Its end is the end of the attempt.
pub type BreakerBody<B, O = ()> = crate::classify::TrackedBody<B, AttemptObservers<O>>;

//! A circuit breaker that knows what a gRPC failure is.
//!
//! It stops calling a peer that keeps failing, and finds out when it is back. What it knows is a [`Circuit`]: one per peer and transport,
//! shared by all that leads there and kept when a connection is replaced. A [`Registry`] keeps the circuits of many peers.
//!
//! | state | calls | until |
//! |---|---|---|
//! | closed | all | 5 failures in a row, or 2 of the link with no answer between them, or half of at least 20 in 10 s that failed ([`BreakerConfig`]) |
//! | open | none: `poll_ready` is `Pending` | a time with full jitter, under a ceiling of 1 s that doubles up to 30 s |
//! | half-open | one at a time, the probe | it succeeds (closed) or fails (open, for longer) |
//!
//! [`classify`](crate::classify) says what a failure is: one verdict per attempt, from the trailers if need be. UNAVAILABLE, a failure of the link, a
//! reset, an end without a status and an answer that is not gRPC are failures. Calls that one lost connection took along count once, by
//! their [`Incident`](crate::Incident).
//!
//! **What the application answers refuses no other call.** INTERNAL, UNKNOWN and DATA_LOSS in a gRPC answer show that the peer is there, as OK does;
//! [`application_errors`](BreakerConfigBuilder::application_errors) counts them as failures for the methods that it lists. RESOURCE_EXHAUSTED is the
//! limit of one caller or one call, and opens nothing. If a peer asks to be left alone with `grpc-retry-pushback-ms`, a circuit that opens for other
//! reasons stays open for at least that long (at most ten recovery times). Nor does what this side did count: a stream that our own limits reset, or
//! what a proxy says of this caller (HTTP 4xx). A neutral end counts nowhere; a probe that ends so gives its permit to the next call at once, or closes the
//! circuit if it was an answer.
//!
//! A probe is a call of a user, and may be a stream that lasts for days. So a probe with a head that is no failure, and no failure in the
//! following [`first_wait`](BreakerConfigBuilder::first_wait), closes the circuit; one without any answer for a [`recovery`](BreakerConfigBuilder::recovery) time lets another one try. The
//! ceiling's steps are forgotten one by one while the circuit is closed, so a peer that answers a probe and fails again is not
//! tried every second.
//!
//! **Why not another.** tower has none. Most look at the response's head, where a failed gRPC call is a 200; reject with an error of their own, which takes the endpoint
//! out of a p2c balancer for ever; and let one lost connection with fifty calls on it count fifty times.
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
//! **Composition.** Below a retry, so that each attempt counts and waits; below whatever chooses between peers or transports, which sees
//! an open one as not ready. A generated client waits for readiness without a deadline, so put
//! `fail_fast` or a deadline above it, with [`Circuit::why`] as the reason. Who dials tells the circuit of a new connection with
//! [`Circuit::sign_of_life`], whoever hears from a silent peer again with [`Circuit::heard_again`], and finds [`Probing`] in the request that may be dialled for at once. [`Circuit::observe_only`] shows what it would do before it does it.
//!
//! **Readiness.** The circuit's comes first; while it is open the inner service is not polled. A readiness error of the inner service is never passed on: it becomes the next
//! call's error and counts there. The probe's permit is taken in `call`. A call that was let through and then loses the race for the
//! permit, or finds the circuit open, waits in its future with the inner service that was ready. It waits no longer than [`BreakerLayer::max_wait`], 2 s unless set,
//! and then fails with UNAVAILABLE, unsent. The inner service is cloned for that.
//!
//! **Cancel safety.** A dropped future or body is a verdict (mostly a neutral one), and returns the permit. A dropped service leaves no waker
//! behind. Each change of state wakes all who wait, once; time wakes them by one timer per circuit and runtime, which is there only while somebody
//! waits. So a circuit may be shared by runtimes, and outlive them. No task.
//!
//! **Recording.** [`BreakerLayer::recording`] takes the place of a metrics layer right above: each attempt is followed once for both.
//!
//! **Cost.** Closed and successful: two loads, a look at the clock, one atomic update of the window, a reference count; no lock, no allocation
//! (`tests/breaker_alloc.rs`); `benches/breaker.rs` measures it beside the bare call. Forced closed: two loads and a reference count, no look at the clock. About a third is the clock and the window, most of the rest the way of the response through one more type. The lock is for failures and for a circuit that is not closed.
//!
//! **Metrics** (feature `metrics`), each with `transport`: `tower_iroh_breaker_opened_total` by `rule`
//! (`run`, `link`, `rate`, `probe`), `tower_iroh_breaker_closed_total`, and `tower_iroh_breaker_not_closed`, how many circuits hold calls
//! back now.

mod attempt;
mod backoff;
mod circuit;
mod config;
mod core;
mod future;
mod gate;
mod inner;
mod layer;
mod locked;
mod meter;
mod probing;
mod registry;
mod ring;
mod service;
mod state;
mod timer;
mod waiter;

/// What the gate is built of; `tests/breaker_loom.rs` builds it of loom's.
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

/// Who is told how an attempt ends: what [records](BreakerLayer::recording) it, and the circuit once the attempt was let in.
pub type AttemptObservers<O> = (O, Option<Attempt>);

/// The body of a [`Breaker`]'s response: its end is the attempt's.
pub type BreakerBody<B, O = ()> = crate::classify::TrackedBody<B, AttemptObservers<O>>;

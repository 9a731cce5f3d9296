//! A peer that has not been ready for a while fails calls at once, and says why.
//!
//! A generated client waits for readiness before there is a request, so no deadline ends that wait. This layer ends it: once the inner service has been not ready
//! for [`wait`](FailFastConfigBuilder::wait) (2 s), each call is answered with UNAVAILABLE ([`FailedFast`]) and never
//! reaches the inner service. Meanwhile one task waits for the inner service's readiness, so recovery is noticed without a caller that has to
//! try.
//!
//! **Why not tower's `timeout` or `load_shed`.** A timeout begins with the call, after readiness. Load shedding rejects whatever is not ready
//! this instant, a reconnect of 50 ms too. Both leave it to the next caller to find out that the peer is back. linkerd has a fail-fast of this kind; this one says why.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread", start_paused = true)]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use tower::ServiceBuilder;
//! use tower_iroh_layers::fail_fast::{FailFastConfig, FailFastLayer};
//! use tower_iroh_proto::echo::{EchoRequest, echo_client::EchoClient};
//!
//! let config = FailFastConfig::builder()
//!     .reason(|| "all of its calls are taken".into())
//!     .build()?;
//! let nobody = tonic::transport::Endpoint::from_static("http://127.0.0.1:1").connect_lazy();
//! let channel = ServiceBuilder::new()
//!     .layer(FailFastLayer::new(config))
//!     .concurrency_limit(0)
//!     .service(nobody);
//! let error = EchoClient::new(channel).echo(EchoRequest::default()).await.unwrap_err();
//! assert_eq!(error.code(), tonic::Code::Unavailable);
//! assert!(error.message().contains("all of its calls are taken"));
//! # Ok(())
//! # }
//! ```
//!
//! **Composition.** Above whatever is `Pending` while the peer is away: a breaker, with its `Circuit::why` as the reason, a selector, a pool that dials. Below a buffer or a
//! retry, whose business the UNAVAILABLE is; it is a [`Fault`](crate::Fault) of [`Origin::Ours`](crate::Origin::Ours), so it may be sent again and counts against nobody.
//! The wait begins anew after each recovery: over a breaker the task sees half-open as ready, the next call is the probe, and if that fails callers wait once more.
//! It cannot tell a peer that is away from one that is busy; where a full queue is `Pending` for seconds, put it
//! above this layer. It asks nothing of requests, so it works for any [`Service`](tower::Service).
//!
//! **Readiness** is the inner service's as long as calls go through. While they fail, `poll_ready` is ready and nobody but the task polls the inner
//! service; a service that had waited goes back as a clone, so that no place in a queue is held by somebody who does not come for it. A
//! readiness error of the inner service is the next call's error and never leaves `poll_ready`. The wait bounds readiness, not calls: one that was let through and that the inner
//! service then holds waits there in its future, until its deadline or what the inner service allows: a breaker holds a call that loses the probe's permit between
//! readiness and call for a `max_wait` of its own, to be set to the wait of this layer.
//!
//! **Cancel safety.** A dropped service leaves the count of those who wait, and the last of them ends the spell. A caller that is dropped while its
//! service stays cannot be seen; what nobody has looked at for twice the wait counts as another spell. The task is
//! aborted when the last clone is dropped, and if it dies calls go through again.
//!
//! **Cost.** Ready and nobody waiting: one load. Each waiting service has a timer of its own, and the task is there only while calls fail.
//!
//! **Metrics** (feature `metrics`): `tower_iroh_fail_fast_refused_total`, and `tower_iroh_fail_fast_failing`, how many services fail calls now.

mod config;
mod error;
mod future;
mod layer;
mod meter;
mod not_ready_since;
mod service;
mod shared;

pub use config::{FailFastConfig, FailFastConfigBuilder};
pub use error::FailedFast;
pub use future::FailFastFuture;
pub use layer::FailFastLayer;
pub use service::FailFast;

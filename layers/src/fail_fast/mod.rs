//! Fails calls at once, with a reason, when their peer has not been ready for a while.
//!
//! A generated client waits for readiness before there is a request, so no deadline ends that wait. This layer ends it. Once the inner service has been not
//! ready for [`wait`](FailFastConfigBuilder::wait) (2 s), each call is answered with UNAVAILABLE ([`FailedFast`]) and never reaches the inner service.
//! Meanwhile one task waits for the inner service's readiness, so that recovery is noticed without a trial call.
//!
//! **Why not tower's `timeout` or `load_shed`.** A timeout begins with the call, after readiness. Load shedding rejects at every instant that is not ready,
//! even during a reconnect of 50 ms. Both leave it to the next caller to find out that the peer is back. linkerd has a similar fail-fast; this one gives the
//! reason.
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
//! **Composition.** Above whatever is `Pending` while the peer is away: a breaker, with its `Circuit::why` as the reason, a selector, a pool that dials. Below
//! a retry, which handles the UNAVAILABLE. Beside a buffer it is only for the calls that pass by. The error is a [`Fault`](crate::Fault) of [`Origin::Ours`](crate::Origin::Ours), so it may be sent again and
//! counts against no peer. The wait starts anew after each recovery. Over a breaker the task sees half-open as ready, and the next call is the probe; if the
//! probe fails, callers wait once more. The layer cannot tell an absent peer from a busy one; if a full queue is `Pending` for seconds, put the queue above
//! this layer. It needs nothing from requests, so it works for any [`Service`](tower::Service).
//!
//! **Readiness** is the inner service's while calls go through. While calls fail, `poll_ready` is ready and only the task polls the inner service. A service
//! that had waited is replaced by a clone, so that it keeps no position in a queue that it will not use. A readiness error of the inner service is the next
//! call's error and never leaves `poll_ready`. The wait bounds readiness, not calls. A call that was let through and that the inner service then holds waits in
//! its future, until its deadline or the inner service's limit. A breaker holds a call that loses the probe's permit between readiness and call for a
//! `max_wait` of its own; set that to the wait of this layer.
//!
//! **Cancel safety.** A dropped service is no longer counted as waiting, and the last one ends the stretch of waiting. A dropped caller whose service stays
//! cannot be seen; a stretch that no service has polled for twice the wait counts as over. The task is aborted when the last clone is dropped. If the task
//! dies, calls go through again.
//!
//! **Cost.** Ready and nothing waiting: one load. Each waiting service has its own timer, and the task exists only while calls fail.
//!
//! **Metrics** (feature `metrics`): `tower_iroh_fail_fast_refused_total`, and `tower_iroh_fail_fast_failing`, the number of services that fail calls now.

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

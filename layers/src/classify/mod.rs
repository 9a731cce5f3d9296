//! One verdict per attempt, from wherever the call ends.
//!
//! An HTTP classifier sees a 200 and calls it success; in gRPC that is how failures begin. An attempt may end with the future's error, a trailers-only head,
//! trailers, an error in the body, a body that ends without a status, or a caller that drops the future or the body. [`track`] follows one attempt to the first
//! of these and tells an [`Observe`]r once, with an [`Outcome`]. [`Outcome::verdict`] says what that means for the peer's health.
//!
//! | what happened | verdict |
//! |---|---|
//! | OK; the body dropped after a message | [`Success`](Verdict::Success) |
//! | INVALID_ARGUMENT, NOT_FOUND, ALREADY_EXISTS, FAILED_PRECONDITION, OUT_OF_RANGE, UNIMPLEMENTED, UNAUTHENTICATED, PERMISSION_DENIED, ABORTED | `Success`: the peer answered |
//! | INTERNAL, DATA_LOSS, UNKNOWN in the head or the trailers | [`Application`](Verdict::Application): the peer is there, and its application failed this call |
//! | UNAVAILABLE; INTERNAL, DATA_LOSS, UNKNOWN without an answer, as after a reset; no status at the end; not gRPC; HTTP 5xx and other unexpected ones | [`Failure`](Verdict::Failure) |
//! | DEADLINE_EXCEEDED or CANCELLED in an answer, an error or a drop after the deadline has passed, before any message; DEADLINE_EXCEEDED as an error at any time, of a call with a deadline | `Failure` if the attempt had at least max(1 s, 4 x RTT), else [`Neutral`](Verdict::Neutral) |
//! | the same after a message | `Neutral`: a stream may be longer than its deadline |
//! | DEADLINE_EXCEEDED in an answer before the deadline, or without one | `Neutral`: the handler's own |
//! | CANCELLED otherwise; the future, or a body without a message, dropped | `Neutral` |
//! | HTTP 4xx without a gRPC status, as from a proxy that refuses the caller or the request's size; but 408 is a `Failure`, and 429 an `Overload` | `Neutral` |
//! | RESOURCE_EXHAUSTED | [`Overload`](Verdict::Overload) |
//! | [`Origin::Refused`](crate::Origin::Refused) | `Neutral`: the peer did not begin the call |
//! | [`Origin::Link`](crate::Origin::Link) | [`Link`](Verdict::Link), one per incident |
//! | [`Origin::Ours`](crate::Origin::Ours), a stream that this side reset included | `Neutral` |
//!
//! **Why not tower-http's `classify`.** It calls a stream without a `grpc-status` a success. It has no verdict for a dropped future or body (its
//! `on_early_drop` only reports one), and knows no deadline.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::sync::{Arc, atomic::{AtomicU32, Ordering}};
//! use tower::ServiceBuilder;
//! use tower_iroh_layers::classify::{ClassifyLayer, Outcome, Verdict};
//! use tower_iroh_proto::echo::{EchoRequest, echo_client::EchoClient};
//!
//! let failures = Arc::new(AtomicU32::new(0));
//! let counter = failures.clone();
//! let nobody = tonic::transport::Endpoint::from_static("http://127.0.0.1:1").connect_lazy();
//! let channel = ServiceBuilder::new()
//!     .layer(ClassifyLayer::new(move |outcome: &Outcome| {
//!         if matches!(outcome.verdict(None), Verdict::Failure | Verdict::Link(_)) {
//!             counter.fetch_add(1, Ordering::Relaxed);
//!         }
//!     }))
//!     .service(nobody);
//! EchoClient::new(channel).echo(EchoRequest::default()).await.unwrap_err();
//! assert_eq!(failures.load(Ordering::Relaxed), 1);
//! # Ok(())
//! # }
//! ```
//!
//! **Composition.** Below a retry it sees each attempt, above it each call. Below a deadline layer it reads the deadline from the request's extensions,
//! otherwise from `grpc-timeout`.
//!
//! **Readiness** is the inner service's. **Cancel safety:** dropping the future or the body is an end like any other, and is told. **Cost:** no lock, no
//! allocation; a clock read only where there is a deadline. **Metrics:** none of its own.

pub(crate) mod head;
mod layer;
mod outcome;
mod track;

pub use head::{Pushback, code_named, name_of};
pub use layer::{Classify, ClassifyLayer};
pub use outcome::{Ending, Outcome, Verdict};
#[cfg(any(feature = "breaker", feature = "metrics", feature = "trace"))]
pub(crate) use track::Tracking;
pub use track::{Observe, Recorder, Tracked, TrackedBody, track, untracked};

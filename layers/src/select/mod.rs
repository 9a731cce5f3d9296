//! Chooses which of two transports carries a call, before anything is sent.
//!
//! A [`Select`] stands over two services that lead to one peer, its [arms](Arm). The [`SelectPolicy`] in force chooses one arm for each call, and the call
//! stays there to its end. Connections may race; a request never goes to both.
//!
//! | a rule's [`Choice`] | its calls go |
//! |---|---|
//! | [`Fixed`](Choice::Fixed) | over this arm or fail |
//! | [`Prefer`](Choice::Prefer) | over this arm; over the other while this one is not ready, and once more over the other if this one failed before anything was sent |
//! | [`Canary`] | a share in basis points over one arm, sticky by key; the rest over the other |
//! | [`Adaptive`] | over the arm that answers sooner, with probes of the other |
//!
//! A rule is for methods, for a class of calls (a range of [`Urgency`](crate::Urgency)), or for all others, in this order. [`SelectHandle::swap`] exchanges the
//! whole policy while calls are open; a [rollout](crate::rollout) grows a canary by itself and rolls it back.
//!
//! **When a call may go over the other arm,** if the choice permits it:
//!
//! | what happened | then |
//! |---|---|
//! | the arm is not ready: an open breaker, a dial under way | the other one at once, if it is ready; after the [head start](SelectConfigBuilder::head_start), if one is set |
//! | it failed, and the peer provably has not begun the call: the link is down (UNAVAILABLE), or the peer refused the call ([`Fault`](crate::Fault)) | the other one, once |
//! | a full lane or pool (RESOURCE_EXHAUSTED, [`Origin::Ours`](crate::Origin::Ours)), a peer that has no room (RESOURCE_EXHAUSTED), a peer that admits nobody (PERMISSION_DENIED) | nothing: the other arm leads to the same peer |
//! | any failure after something may have been sent; any answer | nothing: a retry decides |
//! | neither is ready, or the one permitted arm is not | the call waits until an arm has been not ready for the limit (2 s), then UNAVAILABLE with the reason: [`NotReady`] |
//!
//! Calls return to an arm that they had to leave once it has been ready, with no failed call, for the [dwell](SelectConfigBuilder::dwell) (5 s). Meanwhile one
//! call a second probes it, which also closes a half-open breaker. Calls that an arm missed because it was not ready count against it wherever arms are
//! compared. The first connection is another matter: calls that come before it go over the other arm without a dwell afterwards, and count against the arm
//! only from its third second on. Otherwise a program's first calls would decide a comparison.
//!
//! **The reason** of each decision is a [`SelectReason`]: in a metric, in the call's span (`tower_iroh.arm`, `tower_iroh.select.reason`, if `trace` stands
//! above), in the response's extensions ([`Selected`]), and in a response header if that is switched on.
//!
//! **Why not tower's `Steer`, `Balance` or `Either`.** `Steer` is not ready until all its services are, so an absent arm stops the other. `Balance` chooses
//! before it has seen the request, and drops a service for ever after a readiness error. None of them falls back.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use tonic::transport::Endpoint;
//! use tower_iroh_layers::{MethodConfig, Methods};
//! use tower_iroh_layers::select::{Arm, Choice, SelectPolicy, SelectReason, Select, SelectHandle, Selected};
//! use tower_iroh_proto::{EchoService, echo::{EchoRequest, echo_client::EchoClient, echo_server::EchoServer}};
//!
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
//! let uri = format!("http://{}", listener.local_addr()?);
//! let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
//! let server = tonic::transport::Server::builder().add_service(EchoServer::new(EchoService));
//! tokio::spawn(server.serve_with_incoming(incoming));
//!
//! // The first arm leads nowhere; its dials fail before anything is sent.
//! let iroh = Endpoint::from_static("http://127.0.0.1:1").connect_lazy();
//! let tcp = Endpoint::new(uri)?.connect_lazy();
//! let over_tcp = MethodConfig::new().transport(Choice::Fixed(Arm::Second));
//! let methods = Methods::builder().method("grpc.health.v1.Health", over_tcp).build()?;
//! let policy = SelectPolicy::builder(Choice::Prefer(Arm::First)).methods(&methods).build()?;
//! let handle = SelectHandle::new(policy);
//! let mut client = EchoClient::new(Select::new(iroh, tcp, handle.clone()));
//!
//! let answer = client.echo(EchoRequest::default()).await?;
//! let selected: &Selected = answer.extensions().get().unwrap();
//! assert_eq!((selected.arm, selected.reason), (Arm::Second, SelectReason::FailedUnsent));
//!
//! // By another policy, from the next call on.
//! handle.swap(Arm::Second);
//! let answer = client.echo(EchoRequest::default()).await?;
//! assert_eq!(answer.extensions().get::<Selected>().unwrap().reason, SelectReason::Fixed);
//! assert_eq!(handle.decisions().fallbacks(), 1);
//! # Ok(())
//! # }
//! ```
//!
//! **Composition.** One per peer. Below retry, buffer and fail fast: each attempt is decided anew. A [`NotReady`] is a temporary fault of this side, so a
//! buffer holds its call and a retry does not repeat it. Over arms that [return](Select::returned) a request that never left, nothing is copied, and a retry
//! above gets the call back if neither arm takes it. Above a breaker per arm, which makes a failing arm not ready; without one every call finds out for itself.
//! An arm that reserves capacity in `poll_ready`, as a concurrency limit does, holds it until the unused service is dropped: acquire capacity in `call`
//! instead.
//!
//! **Readiness.** Ready when any arm is that some rule of the policy may use. With a policy of one arm this is exactly that arm's readiness. With two, a call
//! whose own arm is not ready waits in its future, as above. A readiness error fails the call that needs that arm, and never leaves `poll_ready`. While an arm
//! is not ready, a task waits for a clone of it. So nothing else polls the arm, and its return is noticed without a call. The task ends with the last service
//! (a handle does not keep it). If it dies with its runtime, calls poll the arm themselves.
//!
//! **Cancel safety.** Dropping a future drops its attempt or its wait, and the kept request. The task belongs to no call.
//!
//! **Sticky keys.** See [`Canary`]: an extension, a metadata header, the channel's own key, or, for a call without any of them, the call itself.
//!
//! **Cost.** A fixed choice: no lock, no box but for the response's extension, two clock reads, three with a deadline. With thousands of calls a second only
//! some are timed, at least one in sixteen; all are counted. A choice that may fall back, over arms that do not return a call, keeps the request until its
//! answer begins: a copy of its head, a box for that and one for the body, no copy of the message; an uncontended lock per frame of a streaming request. An
//! adaptive rule compares the arms ten times a second, in one of the calls. A rule's measurements take 16 KiB, a canary's 48 KiB. `benches/select.rs` measures
//! each beside the bare arm.
//!
//! **Metrics** (feature `metrics`): `tower_iroh_select_decisions_total` by `arm` and `reason`; `tower_iroh_select_fallbacks_total` by `from`, `to` and `reason`
//! (`not_ready`, `returning`, `failed_unsent`); `tower_iroh_select_not_ready_total` by `arm`, the calls that failed because it was not ready;
//! `tower_iroh_select_switches_total` by `to` and `reason` (`latency`, `preferred`, `failing`, `not_ready`), of adaptive rules; gauge
//! `tower_iroh_select_canary_share` by `canary`.

mod adaptive;
mod arm;
mod arm_health;
mod arms;
mod canary;
mod config;
mod core;
mod error;
mod flight;
mod future;
mod group;
mod handle;
pub(crate) mod histogram;
mod kept;
pub(crate) mod key;
mod layer;
mod meter;
mod policy;
mod reason;
mod service;
mod shared;
mod waiting;
mod watch;
mod window;

pub use adaptive::{Adaptive, AdaptiveBuilder};
pub use arm::Arm;
pub use arm_health::ArmState;
pub use arms::SelectState;
pub use canary::{Canary, CanaryBuilder};
pub use config::{SelectConfig, SelectConfigBuilder};
pub use error::NotReady;
pub use future::SelectFuture;
pub use group::Sample;
pub use handle::{CanaryStatistics, SelectHandle};
pub use histogram::Latencies;
pub use key::StickyKey;
pub use layer::SelectLayer;
pub use meter::Decisions;
pub use policy::{Choice, SelectPolicy, SelectPolicyBuilder};
pub use reason::{SELECTED, SelectReason, Selected};
pub use service::Select;
pub use window::ArmStatistics;

/// The body of a [`Select`]'s response. Its end is the end of the attempt.
pub type SelectBody<B> = crate::classify::TrackedBody<B, Sample>;

//! Decides over which of two transports a call goes, before anything is sent.
//!
//! A [`Select`] stands over two services that lead to one peer, its [arms](Arm). Each call goes over one of them, by the [`SelectPolicy`] that is in
//! force, and stays there to its end. Connections may race; a request never goes to both.
//!
//! | a rule's [`Choice`] | its calls go |
//! |---|---|
//! | [`Fixed`](Choice::Fixed) | over this arm or fail |
//! | [`Prefer`](Choice::Prefer) | over this arm; over the other while it is not ready, and once more over the other if it failed before anything was sent |
//! | [`Canary`] | a share in basis points over one arm, sticky by key; the rest over the other |
//! | [`Adaptive`] | over the arm that answers sooner, with probes of the other |
//!
//! A rule is for methods, for a class of calls (a range of [`Urgency`](crate::Urgency)), or for all others, in this order. [`SelectHandle::swap`] exchanges
//! the whole policy while calls are open; a [rollout](crate::rollout) lets a canary grow by itself and takes it back.
//!
//! **Who may go over the other arm,** if the choice lets it:
//!
//! | what happened | then |
//! |---|---|
//! | the arm is not ready: an open breaker, a dial under way | the other one at once, if that is ready; after the [head start](SelectConfigBuilder::head_start), where there is one |
//! | it failed, and the peer provably has not begun the call: the way to it is not there (UNAVAILABLE), or it refused to take it ([`Fault`](crate::Fault)) | the other one, once |
//! | a full lane or pool (RESOURCE_EXHAUSTED, [`Origin::Ours`](crate::Origin::Ours)), a peer that lets nobody in (PERMISSION_DENIED) | nothing: it is the same peer over the other arm |
//! | anything after something may have been sent; an answer, whatever it says | nothing: that is a retry's business |
//! | neither is ready, or the one that may be used is not | it waits, no longer than an arm may be not ready (2 s), then UNAVAILABLE with the reason: [`NotReady`] |
//!
//! An arm that calls had to leave is returned to when it has been ready, and no call over it has failed, for the [dwell](SelectConfigBuilder::dwell) (5 s); meanwhile one call a second looks how
//! it does, which also closes a half-open breaker. What an arm's calls missed by its not being ready counts against it wherever arms are compared.
//!
//! **The reason** of each decision is a [`SelectReason`]: in a metric, in the call's span (`tower_iroh.arm`, `tower_iroh.select.reason`, where
//! `trace` stands above), in the response's extensions ([`Selected`]), and in a response header if that is switched on.
//!
//! **Why not tower's `Steer`, `Balance` or `Either`.** `Steer` is not ready until all its services are, so an arm that is away stops the other. `Balance` chooses before it
//! has seen the request, and drops a service for ever whose readiness fails. None of them falls back.
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
//! **Composition.** One per peer. Below retry, buffer and fail fast: each attempt is decided anew, and a [`NotReady`] is a fault of this side that is temporary, so a buffer holds
//! its call and a retry leaves it. Over arms that [return](Select::returned) what never left, nothing is copied, and a retry above gets the call back if neither arm takes it. Above a breaker per arm, which makes an arm that fails not ready; without one every call finds out for itself. An arm that gives a place away in `poll_ready`, as a
//! concurrency limit does, keeps one for as long as the service lives that does not use it: put limits into the call.
//!
//! **Readiness.** Ready when an arm is that some rule of the policy may use. A policy that uses one arm only has that arm's readiness, exactly; with two, a call whose own
//! arm is not ready waits in its future, as above. An error of an arm's readiness is a failure of the call that needs that arm, and never leaves `poll_ready`. While an arm is not ready one task, for both, waits for a clone of it, so
//! nobody else polls it and its return is noticed without a call; the last of the services ends the task (a handle does not keep it), and if it dies with its runtime, calls look for themselves.
//!
//! **Cancel safety.** Dropping a future drops its attempt or its wait, and what is kept of the request. The task is no call's.
//!
//! **Sticky keys.** See [`Canary`]: an extension, a metadata header, the channel's own key, or, for a call that has none of them, the call itself.
//!
//! **Cost.** A fixed choice: no lock, no box but for the response's extension, two looks at the clock, three with a deadline; where there are thousands of calls a second only some of them are timed, one in
//! sixteen at least, and all are counted. A choice that may fall back, over arms that do not return a call, keeps the request until its
//! answer begins: a copy of its head, a box for that and one for the body, no copy of the message; an uncontended lock per frame of a request that is a stream. An adaptive rule compares the arms ten times a second, in
//! one of the calls. A rule's measurements take 16 KiB, a canary's 48 KiB. `benches/select.rs` measures each beside the bare arm.
//!
//! **Metrics** (feature `metrics`): `tower_iroh_select_decisions_total` by `arm` and `reason`; `tower_iroh_select_fallbacks_total` by `from`, `to` and `reason` (`not_ready`,
//! `returning`, `failed_unsent`); `tower_iroh_select_not_ready_total` by `arm`, calls that failed for want of it; `tower_iroh_select_switches_total` by `to` and `reason` (`latency`,
//! `preferred`, `failing`, `not_ready`), of adaptive rules; gauge `tower_iroh_select_canary_share` by `canary`.

mod adaptive;
mod arm;
mod arm_health;
mod arm_slot;
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

/// The body of a [`Select`]'s response: its end is the attempt's.
pub type SelectBody<B> = crate::classify::TrackedBody<B, Sample>;

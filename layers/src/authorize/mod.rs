//! Access control by method, rate and message size, for the identity that the transport proved. What no rule permits is refused.
//!
//! ```
//! use tower_iroh_layers::authorize::{AuthorizeLayer, Identity, AccessPolicy, PolicyHandle};
//! use tower_iroh_proto::{EchoService, echo::echo_server::EchoServer};
//!
//! # fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let policy = AccessPolicy::from_toml(r#"
//!     [roles.reader]
//!     methods = ["/tower_iroh.echo.v1.Echo/Echo", "/grpc.health.v1.Health/*"]
//!     [roles.admin]
//!     methods = ["*"]
//!
//!     [peers."2b8c0e17"]        # an identity, as the transport names it
//!     roles = ["reader"]
//!     limits = { rate = 50.0, burst = 100, concurrent = 8, max_message_bytes = 65536 }
//!     [peers."77aa01f3"]
//!     roles = ["admin"]
//!     [authenticated]           # any other peer with an identity
//!     roles = ["reader"]
//!     [anonymous]               # callers without one
//!     roles = []
//!
//!     [limits]                  # of each caller, as far as it has none of its own
//!     concurrent = 100
//! "#)?;
//! let handle = PolicyHandle::new(policy);
//! # #[derive(Clone)] struct Proven(&'static str);
//! // `Proven` is what the transport leaves in a request's extensions.
//! let layer = AuthorizeLayer::new(handle.clone(), |extensions: &http::Extensions| {
//!     extensions.get::<Proven>().map(|proven| Identity::from(proven.0))
//! });
//! let server = tonic::transport::Server::builder().layer(layer).add_service(EchoServer::new(EchoService));
//! # drop(server);
//!
//! // Later: nobody may anything any more, and what is open ends.
//! handle.reload_toml("")?;
//! # Ok(())
//! # }
//! ```
//!
//! **Decisions.** Each caller is exactly one of three kinds: without an identity (`[anonymous]`), listed (`[peers]`), or with another identity
//! (`[authenticated]`). Only the entry of its kind applies: a listed peer does not also get the roles of `[authenticated]`, so `roles = []` shuts it out. A
//! call is refused if there is no entry, or no role that has the method. Only `*` permits a path that is not exactly a method's. The caller sees
//! UNAUTHENTICATED if it has no identity and PERMISSION_DENIED if it has one, as trailers-only responses. The service never returns an error for a refusal, and
//! does not read the request's body. [`AccessPolicyBuilder`] builds the same in code. An unknown key, role or form of a method is an error with its line and
//! key. A peer's name in another spelling than its transport's matches no peer, and that peer gets what `[authenticated]` has. [`AccessPolicy::from_toml_with`]
//! takes a function that knows how names are spelled.
//!
//! **Identity** comes from an [`Identify`], such as a closure over the request's extensions: an iroh peer's id, the certificate of a TLS peer. Handlers find it
//! in their request's extensions as [`Identity`]. With tonic's TLS (feature `tls-ring` or a similar one):
//! ```ignore
//! |extensions: &http::Extensions| {
//!     let tls = extensions.get::<TlsConnectInfo<TcpConnectInfo>>()?;
//!     let certificate = tls.peer_certs()?.first()?.clone();
//!     Some(Identity::from(format!("x509-sha256:{}", hex(&sha256(&certificate)))))
//! }
//! ```
//!
//! **Reload** is atomic: one policy decides each call, and a text with a mistake leaves the old policy in force. A reload wakes every waiting call, and ends
//! the calls that the new policy does not permit: the handler and its stream are dropped, the caller gets the code in trailers, and a request's stream that
//! some task still holds fails. A call that is still permitted is not affected.
//!
//! One kind of call ends later. While a caller does not read a response and its flow-control window is full, the server does not poll the response at all. Such
//! a call ends when the caller reads on or its connection closes. Until then it keeps its permit and whatever its stream holds, and gives away no more than was
//! on its way already. To end such calls too, close the peer's connection: [`PolicyHandle::reloaded`] and [`AccessPolicy::admits`] say when, and with iroh
//! `tower_iroh::AcceptorBuilder::allow_list` does it.
//!
//! **Limits** are counted per identity. All anonymous callers count as one, across all servers that share a [`PolicyHandle`]. A value that an entry's own
//! `limits` leave unset comes from `[limits]`, so to exempt a caller give it a high limit. `rate` and `burst` go together as a token bucket; a refusal says in
//! `grpc-retry-pushback-ms` when there is a token. `concurrent` counts a call from its request to the end of the response's stream. Both count only calls that
//! begin while there is such a limit, not those that were open when a reload brought the first. `max_message_bytes` bounds each message at its size on the
//! wire; a larger one fails the request's stream before its bytes are taken in. Every limit fails with RESOURCE_EXHAUSTED.
//! [`AuthorizeLayer::max_message_bytes`] bounds the messages of every caller, whatever the policy. The size after decompression is a matter for
//! `max_decoding_message_size` of the generated server. At most 10,000 unlisted callers are tracked at a time; further ones are refused, listed ones never. A
//! caller is forgotten when its bucket is full and it has no open call.
//!
//! **Audit.** Each denial is an event of level WARN with the target `tower_iroh::audit` and the fields `identity`, `method`, `reason`, `generation`. Events are
//! limited to 100 per second on average, and 1,000 at once, for each of three kinds: anonymous callers, identities that the policy does not list, and
//! identities that it lists or that lost a permission which they had. So a flood of strangers does not hide the other events. `left_out` counts the events of
//! the same kind that were suppressed before this one; the tail of a flood is told with the next event, whenever that is. [`AuthorizeLayer::on_denial`] is told
//! of every denial, once each. With the feature `metrics` the counter `tower_iroh_authorize_denied_total{reason}` counts them. None of these contains a header
//! or a message.
//!
//! **Why not tonic's interceptors or tower-http's `auth`.** Both inspect one request's head once. They cannot end an open stream, count open calls, or know a
//! gRPC message's size.
//!
//! **Composition.** On a server, inside the layers that measure (`MetricsLayer::server`), so that they see denials, and outside every layer that does work.
//! Pass it to `Server::builder().layer(..)`, for all services of the server: a router takes a single service only if that service has no errors, and the
//! services of the layers here fail with [`BoxError`](crate::BoxError). This layer does not limit how many connections a peer has; the accepting side does,
//! with iroh `tower_iroh::AcceptorBuilder`. **Readiness** is the inner service's. **Cancel safety:** permits live in the future, then in the response's body,
//! and return when either is dropped. A waiting call is woken by a reload through its own registration, which leaves with the call. **Cost:** up to three hash
//! map lookups and three small allocations (the call's record, its identity in the extensions, a box for the request's body, if it has one); a lock only for
//! callers with a rate or concurrency limit, and for a call that waits.

mod audit;
mod body;
mod bucket;
mod builder;
mod error;
mod file;
mod future;
mod handle;
mod identity;
mod layer;
mod limiter;
mod limits;
mod policy;
mod request;
mod service;
mod watch;

pub use audit::{Denial, DenialReason};
pub use body::AuthorizedBody;
pub use builder::AccessPolicyBuilder;
pub use error::PolicyError;
pub use future::AuthorizeFuture;
pub use handle::PolicyHandle;
pub use identity::{Identify, Identity};
pub use layer::AuthorizeLayer;
pub use limits::Limits;
pub use policy::{AccessPolicy, Decision};
pub use service::Authorize;

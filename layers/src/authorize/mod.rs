//! Who may call what, how often, and how large: by the identity that the transport proved, and closed where nothing is said.
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
//! **Decisions.** A caller is exactly one of three: without an identity (`[anonymous]`), listed (`[peers]`), or with another
//! identity (`[authenticated]`). Its entry says everything about it: a listed peer does not get the roles of
//! `[authenticated]` too, so `roles = []` shuts it out. No entry, no role that has the method: refused; a path that is not
//! exactly a method's is permitted by `*` only. The caller sees UNAUTHENTICATED if it has no identity and PERMISSION_DENIED
//! if it has one, as trailers-only responses; the service never returns an error for it, and does not read the request's
//! body. [`AccessPolicyBuilder`] makes the same in code. An unknown key, role or form of a method is an error with its line and
//! key. A peer's name that is spelled otherwise than its transport does it names nobody, and that peer gets what
//! `[authenticated]` has: [`AccessPolicy::from_toml_with`] takes a function that knows how names are spelled.
//!
//! **Identity** comes from an [`Identify`], such as a closure over the request's extensions: an iroh peer's id, the
//! certificate of a TLS peer. Handlers find it in their request's extensions as [`Identity`]. With tonic's TLS (feature
//! `tls-ring` or another of its kind):
//! ```ignore
//! |extensions: &http::Extensions| {
//!     let tls = extensions.get::<TlsConnectInfo<TcpConnectInfo>>()?;
//!     let certificate = tls.peer_certs()?.first()?.clone();
//!     Some(Identity::from(format!("x509-sha256:{}", hex(&sha256(&certificate)))))
//! }
//! ```
//!
//! **Reload** is atomic: each call is decided by one policy, and a text with a mistake leaves the old one in force. It wakes
//! each call that waits, whatever for, and ends those that the new policy would not permit: the handler and its stream are
//! dropped, the caller gets the code in trailers, and a request's stream that some task still holds fails. A call that is
//! still permitted does not notice.
//!
//! One kind of call is reached later. A response whose caller does not read it, so that its flow-control window is full, is
//! not polled by the server at all: it ends when the caller reads on or its connection closes, and until then it holds its
//! place and whatever its stream holds. It gives away no more than was on its way already. Whoever wants such calls ended
//! too closes the peer's connection.
//!
//! **Limits** are counted per identity; all anonymous callers are one, and so are all servers that share a [`PolicyHandle`].
//! What an entry's own `limits` do not say is as in `[limits]`, so whom no limit should hold gets a high one. `rate` and
//! `burst` go together: a token bucket, and a refusal says in `grpc-retry-pushback-ms` when there is a token. `concurrent`
//! counts from the request to the end of the response's stream. Both count calls that begin while there is such a limit:
//! those that were open when a reload brought the first take no place. `max_message_bytes` is that of each message as it
//! comes over the wire, and a larger one fails the request's stream before its bytes are taken in. All are
//! RESOURCE_EXHAUSTED. [`AuthorizeLayer::max_message_bytes`] bounds the messages of every caller, whatever the policy. What a message becomes when it is decompressed is for `max_decoding_message_size` of the generated
//! server. At most 10,000 callers that are not listed are kept account of; more at a time are refused, listed ones are not.
//! One is forgotten when its bucket is full and no call is open.
//!
//! **Audit.** Each denial is an event of level WARN with the target `tower_iroh::audit` and the fields `identity`, `method`,
//! `reason`, `generation`. There is room for 100 per second on average, and 1,000 at once, for each of three kinds: of
//! anonymous callers, of identities that the policy does not list, and of those that it lists or that lost a permission which
//! they had; so no flood of strangers hides what happens to the others. `left_out` says for how many of the same kind
//! there was no room before this one: the tail of a flood is told with the next event, whenever that is.
//! [`AuthorizeLayer::on_denial`] is told of all, once each. With the feature `metrics` the counter
//! `tower_iroh_authorize_denied_total{reason}` counts them. Neither has any header or message in it.
//!
//! **Why not tonic's interceptors or tower-http's `auth`.** Both look at one request's head once: they cannot end a stream
//! that is open, count what is, or know a gRPC message's size.
//!
//! **Composition.** On a server, inside the layers that measure (`MetricsLayer::server`), so that they see denials, and
//! outside of all that does work. It goes to `Server::builder().layer(..)`, for all services of the server: a router takes a
//! service by itself only if it has no errors, and what a layer here makes has [`BoxError`](crate::BoxError). How many
//! connections a peer may have is not this room's: that is for whoever accepts them, with iroh
//! `tower_iroh::AcceptorBuilder`. **Readiness** is the inner service's. **Cancel safety:** permits live in the future, then
//! in the response's body, and return when either is dropped. A waiting call is woken by a reload through its own
//! registration, which leaves with it. **Cost:** up to three lookups in hash maps and three small allocations (what is known
//! of the call, its identity in the extensions, the request's body, if it has one, in a box); a lock only for callers with a
//! rate or a number of calls, and for a call that waits.

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

//! Decides once how urgent a call is, and marks it for whatever orders calls below.
//!
//! [`PriorityLayer`] gives each request an [`Urgency`](crate::Urgency), which [`Urgency::of`](crate::Urgency::of) finds. An urgency other than the default is
//! in RFC 9218's `priority` header: for the layers below, the peer, gateways, and a transport that has only HTTP/2 to express it. The first of these that has
//! an urgency decides:
//!
//! 1. the urgency in the request's extensions, which the caller put there;
//! 2. the request's `priority` header (a malformed one counts as absent and fails nothing);
//! 3. the method's urgency in the [table of methods](crate::methods);
//! 4. the configuration's fallback, [`Urgency::INTERACTIVE`](crate::Urgency::INTERACTIVE) unless set.
//!
//! In cases 3 and 4 size counts too: a first message of 64 KiB or more makes the call [`BULK`](crate::Urgency::BULK) unless it is less urgent already. Size
//! only lowers the urgency, and never overrules a caller's choice. It does overrule the table: a method that carries heartbeats today may carry a snapshot
//! tomorrow, and one large message in a lane for small ones delays them all.
//!
//! **Why not tower's.** Neither tower nor tower-http has a notion of urgency; tower's `Filter` and `steer` choose a service, not an order.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use tower::ServiceBuilder;
//! use tower_iroh_layers::{MethodConfig, Methods, Urgency, priority::PriorityLayer};
//! use tower_iroh_proto::echo::{EchoRequest, echo_client::EchoClient};
//! # use tower_iroh_proto::{EchoService, echo::echo_server::EchoServer};
//! # let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
//! # let address = format!("http://{}", listener.local_addr()?);
//! # let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
//! # let echo = EchoServer::new(EchoService);
//! # tokio::spawn(tonic::transport::Server::builder().add_service(echo).serve_with_incoming(incoming));
//!
//! let methods = Methods::builder()
//!     .method("/raft.v1.Raft/Vote", MethodConfig::new().urgency(Urgency::HIGHEST))
//!     .method("/raft.v1.Raft/*", MethodConfig::new().urgency(Urgency::CONTROL))
//!     .build()?;
//! let channel = ServiceBuilder::new()
//!     .layer(PriorityLayer::default().methods(methods))
//!     .service(tonic::transport::Endpoint::new(address)?.connect_lazy());
//! let mut client = EchoClient::new(channel);
//!
//! // This call is interactive; were it large, it would be bulk.
//! client.echo(EchoRequest::default()).await?;
//! // This one says itself what it is.
//! let mut request = tonic::Request::new(EchoRequest::default());
//! request.extensions_mut().insert(Urgency::BULK);
//! client.echo(request).await?;
//! # Ok(())
//! # }
//! ```
//!
//! **Composition.** Above whatever reads the urgency: the buffer and the lanes. On a server [`ReadPriorityLayer`] puts the header's urgency into the
//! extensions, where a handler finds it with `Request::extensions`.
//!
//! **Readiness** is the inner service's. **Cancel safety:** the call's future is the inner one's; nothing is left behind. **Cost:** a table lookup, and a
//! header where the urgency is not the default. The size rule reads what the body has ready and does not wait. It costs one box per call, and gives back a body
//! that ends with its last frame. It skips the body if it could change nothing: the request chose an urgency, or its urgency is not above the one that the rule
//! gives.
//!
//! **Metrics** (feature `metrics`): `tower_iroh_priority_calls_total{urgency}`, and `tower_iroh_priority_lowered_total`, the number of calls that size made
//! less urgent.

mod config;
mod meter;
mod read;
mod service;

pub use config::{PriorityConfig, PriorityConfigBuilder};
pub use read::{ReadPriority, ReadPriorityLayer};
pub use service::{Priority, PriorityLayer};

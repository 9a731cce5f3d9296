//! A span per call, and its trace context in metadata.
//!
//! The trace travels in the headers `traceparent` and `tracestate` of [W3C Trace Context](https://www.w3.org/TR/trace-context/). The server's layer reads them,
//! makes the call a child, and gives the handler a [`TraceContext`]: in the request's extensions, and as the task's context while the handler and its
//! response's body are polled. The client's layer takes the context from the request's extensions, else from existing headers, else from the task, and writes
//! the headers. So a service that calls another passes its trace on without a line of code.
//!
//! The span, `rpc` with the target `tower_iroh::rpc` and level INFO, lasts to the end of the stream. If no subscriber wants it, the layer is not part of the
//! trace: the client passes on the ids that it was given, or none, and starts no trace. Either way `traceparent` is written as version 00, with the flags that
//! this version knows. A `tracestate` of more than 512 bytes loses its members above 128 bytes first, and then the last ones. A header that cannot be read
//! counts as absent.
//!
//! | field | value |
//! |---|---|
//! | `rpc.system.name` | `grpc` |
//! | `rpc.method` | `package.Service/Method` |
//! | `rpc.response.status_code` | `OK`, `UNAVAILABLE`, ...: recorded at the end |
//! | `trace_id`, `span_id`, `parent_id` | hexadecimal; no `parent_id` in a trace that begins here, or if a [`Propagator`] has the parent from `tracing` |
//! | `otel.kind`, `otel.name` | `client` or `server`; the method |
//! | `otel.status_code` | `ERROR`, recorded at the end of a call that failed: on a server only for the server's own failures |
//! | `tower_iroh.arm`, `tower_iroh.select.reason` | the transport that carried the call and why, if the layer `select` stands below |
//!
//! OpenTelemetry's conventions have more. `server.address` is missing, since the layers below choose the peer and the path to it. `rpc.method` is the called
//! path; it is not compared with a list of methods, which would make an unknown one `_OTHER`. On a server it may be any text of a stranger, and its first 200
//! bytes are kept. If only existing methods should have spans, put an `AuthorizeLayer` outside of this layer.
//!
//! ```
//! use tower::ServiceBuilder;
//! use tower_iroh_layers::trace::TraceLayer;
//! use tower_iroh_proto::echo::echo_client::EchoClient;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() {
//! let channel = tonic::transport::Endpoint::from_static("http://127.0.0.1:7001").connect_lazy();
//! let client = EchoClient::new(ServiceBuilder::new().layer(TraceLayer::client()).service(channel));
//! # drop(client);
//! # }
//! ```
//!
//! **Why not tower-http's `trace`.** It carries no context, and takes a response's head for its end.
//!
//! **tracing-opentelemetry** makes its own ids, so its spans of two processes join only if the wire has its ids. A [`Propagator`] gives them to the layer.
//! tracing-opentelemetry reads the fields `otel.kind`, `otel.name` and `otel.status_code`. This one is for tracing-opentelemetry 0.34:
//!
//! ```
//! use opentelemetry::trace::{SpanContext, TraceContextExt, TraceFlags, TraceState};
//! use tower_iroh_layers::trace::{Propagator, TraceContext, TraceLayer};
//! use tracing::Span;
//! use tracing_opentelemetry::OpenTelemetrySpanExt;
//!
//! #[derive(Debug)]
//! struct OpenTelemetry;
//!
//! impl Propagator for OpenTelemetry {
//!     fn join(&self, span: &Span, parent: Option<&TraceContext>) -> Option<TraceContext> {
//!         if let Some(parent) = parent {
//!             let (trace, id) = (parent.trace_id().into(), parent.span_id().into());
//!             let flags = TraceFlags::new(parent.flags());
//!             let parent = SpanContext::new(trace, id, flags, true, TraceState::default());
//!             let parent = opentelemetry::Context::new().with_remote_span_context(parent);
//!             span.set_parent(parent).ok()?;
//!         }
//!         let context = span.context();
//!         let ids = context.span().span_context().clone();
//!         let trace = u128::from_be_bytes(ids.trace_id().to_bytes());
//!         let id = u64::from_be_bytes(ids.span_id().to_bytes());
//!         TraceContext::new(trace, id, ids.trace_flags().to_u8())
//!     }
//! }
//!
//! let client = TraceLayer::client().propagator(&OpenTelemetry);
//! let server = TraceLayer::server().propagator(&OpenTelemetry);
//! ```
//!
//! **Composition.** Outermost on a client, above a retry, so that one call is one span and all attempts carry its ids; outermost on a server.
//! [`TraceLayer::recording`] replaces a metrics layer right below: each call is followed once for both. **Readiness** is the inner service's. **Cancel
//! safety:** a drop ends the span, as CANCELLED. A handler's spawned task has no context: [`TraceContext::scope`] carries it there. **Cost:** without a
//! subscriber and a context, a lookup in the headers and the task; with a span, the subscriber's cost.

mod context;
mod future;
mod layer;
mod propagator;
mod service;
mod state;

pub use context::{TRACEPARENT, TRACESTATE, TraceContext, TraceParentError};
pub use future::{SpanEnd, Traced, TracedBody};
pub use layer::TraceLayer;
pub use propagator::Propagator;
pub use service::Trace;

//! One deadline for queueing, dialling, headers and body.
//!
//! [`Deadline`] is the time at which a call expires. A request's extensions carry it through the stack, so that all layers use one clock. [`header`] reads and
//! writes the `grpc-timeout` that tells the peer how much time is left. Both exist without the feature `deadline`, which adds a layer for each side.
//!
//! **[`DeadlineLayer`], for outgoing calls.** A call's deadline is the earliest of its `grpc-timeout`, a `Deadline` in its extensions, the
//! [inherited](Deadline::inherited) deadline of the incoming call that is being served, and the layer's default. It covers everything below: waiting for the
//! inner service, dialling, the head, and the response's body to its end. When the request is handed on, `grpc-timeout` is rewritten with the time left: by the
//! layer itself if it stands alone, by a [`StampLayer`] at the inner end if layers below it hold calls back. When the deadline passes, whatever the call waits
//! for is dropped, which resets its stream, and the caller gets DEADLINE_EXCEEDED: an [`Elapsed`]. A call whose deadline has passed at the start is never
//! handed on. A CANCELLED within 5 ms of the deadline becomes DEADLINE_EXCEEDED too, as does a time-out of tonic's transport: the peer and the transport watch
//! the same clock, and tonic reports CANCELLED for it.
//!
//! **[`ServerDeadlineLayer`], for incoming calls.** It reads `grpc-timeout`, up to a maximum if one is set, and puts the `Deadline` into the request's
//! extensions. The handler's own calls inherit it. The layer answers DEADLINE_EXCEEDED when the handler, or a response's stream, is late. While a caller does
//! not read and its flow-control window is full, the server does not poll the stream. Such a stream ends when the caller reads on or its connection closes,
//! whatever the maximum; to end it sooner, close the peer's connection. Cancellation needs no layer: when a caller leaves, the server drops the handler, and
//! with it the calls that the handler made.
//!
//! **Why not tonic's time-outs or tower's `Timeout`.** They begin when a request is handed to the connection, so waiting for a connection is unbounded. They
//! end with the head, so a stream is unbounded. They do not tell the peer what is left, and the caller gets CANCELLED or UNKNOWN.
//!
#![cfg_attr(feature = "deadline", doc = "```")]
#![cfg_attr(not(feature = "deadline"), doc = "```ignore")]
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::Duration;
//! use tower::ServiceBuilder;
//! use tower_iroh_layers::deadline::DeadlineLayer;
//! use tower_iroh_proto::echo::{EchoRequest, echo_client::EchoClient};
//!
//! // Somebody who takes the connection and never says a word.
//! let silent = std::net::TcpListener::bind("127.0.0.1:0")?;
//! let uri = format!("http://{}", silent.local_addr()?);
//! let channel = ServiceBuilder::new()
//!     .layer(DeadlineLayer::builder().default_timeout(Duration::from_millis(20)).build()?)
//!     .service(tonic::transport::Endpoint::new(uri)?.connect_lazy());
//! let status = EchoClient::new(channel).echo(EchoRequest::default()).await.unwrap_err();
//! assert_eq!(status.code(), tonic::Code::DeadlineExceeded);
//! # Ok(())
//! # }
//! ```
//!
//! And on a server: `Server::builder().layer(ServerDeadlineLayer::new())`.
//!
//! **From an incoming to an outgoing call.** While the handler or its response's body is polled, [`Deadline::inherited`] returns the incoming call's deadline,
//! and a `DeadlineLayer` on the same task uses it automatically. A spawned task does not inherit:
//!
//! ```
//! use tower_iroh_layers::Deadline;
//!
//! # fn handler(incoming: tonic::Request<()>) {
//! let deadline = incoming.extensions().get::<Deadline>().copied();
//! tokio::spawn(async move {
//!     let mut outgoing = tonic::Request::new(());
//!     if let Some(deadline) = deadline {
//!         outgoing.extensions_mut().insert(deadline);
//!     }
//!     // client.call(outgoing)
//! });
//! # }
//! # tokio::runtime::Runtime::new().unwrap().block_on(async { handler(tonic::Request::new(())) });
//! ```
//!
//! **Composition.** On a client above everything that may wait or repeat: retry, buffer, fail fast, breaker. Put a [`StampLayer`] below them, or the peer is
//! told the time that was left before they waited. On a server outside of everything that may be late, inside of metrics. Pass it to
//! `Server::builder().layer(..)`, not around one service, since its errors are not `Infallible`.
//!
//! **Readiness.** The client's service is always ready. A generated client waits for readiness before a request exists, so no deadline could cover that wait.
//! Instead each call clones the inner service and makes the clone ready inside the response future. So the inner service is asked for readiness once per call,
//! and whatever it reserves belongs to the call and is released with it. Backpressure is felt in the future. The server's readiness is the inner service's.
//!
//! **Cancel safety.** A dropped future or body drops what it wraps and its timer, and leaves nothing behind; no other call waits for it. A response body that
//! is not polled is not watched: only the caller's own task runs here.
//!
//! **Cost.** No lock, no task. Without a deadline: a clone of the inner service. With one: three clock reads, a header and an extension; a boxed timer, only
//! where something has to be waited for. **Metrics:** none; the code is in the call's.

pub mod header;
mod point;

#[cfg(feature = "deadline")]
mod client;
#[cfg(feature = "deadline")]
mod clock;
#[cfg(feature = "deadline")]
mod error;
#[cfg(feature = "deadline")]
mod limited;
#[cfg(feature = "deadline")]
mod scope;
#[cfg(feature = "deadline")]
mod server;

pub use point::Deadline;

#[cfg(feature = "deadline")]
pub use client::{
    ClientDeadline, ClientDeadlineBody, ClientDeadlineFuture, DeadlineBuilder, DeadlineLayer,
    Stamp, StampLayer,
};
#[cfg(feature = "deadline")]
pub use error::{Elapsed, Stage};
#[cfg(feature = "deadline")]
pub use server::{
    ServerDeadline, ServerDeadlineBody, ServerDeadlineBuilder, ServerDeadlineFuture,
    ServerDeadlineLayer,
};

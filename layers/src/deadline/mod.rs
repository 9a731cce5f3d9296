//! One clock for queueing, dialling, headers and body.
//!
//! [`Deadline`] is the point in time when a call's time is over, kept in a request's extensions on its way through a stack, so that
//! all layers go by one clock; [`header`] reads and writes the `grpc-timeout` that tells the peer how much of it is left. Both are there without the
//! feature `deadline`, which adds a layer for each side.
//!
//! **[`DeadlineLayer`], for outgoing calls.** A call's deadline is the earliest of its `grpc-timeout`, a `Deadline` in its extensions, the
//! [inherited](Deadline::inherited) one of the incoming call that is being served, and the layer's default. It covers whatever is below: waiting for the inner
//! service, dialling, the head, and the response's body to its end. `grpc-timeout` is written anew with what is left when the request is handed on: by the layer itself if it
//! stands alone, by a [`StampLayer`] at the inner end where layers below it hold calls back. Once it has passed, what the call waited
//! for is dropped, which resets its stream, and the caller gets DEADLINE_EXCEEDED: an [`Elapsed`]. A call whose time is over at first is never handed on.
//! A CANCELLED within 5 ms of the deadline becomes DEADLINE_EXCEEDED too, as does a time-out of tonic's transport: the peer and the transport
//! watch the same clock, and tonic has that code for it.
//!
//! **[`ServerDeadlineLayer`], for incoming calls.** It reads `grpc-timeout`, within a maximum where one is set, puts the `Deadline` into the request's extensions, lets the
//! handler's own calls inherit it, and answers DEADLINE_EXCEEDED when the handler, or a response's stream, is late. A stream whose caller does not
//! read, so that its flow-control window is full, is not polled by the server: it ends when the caller reads on or its connection closes, whatever
//! the maximum, and closing the peer's connection is the way to end it sooner. Cancellation needs no layer: a server drops the handler whose caller
//! left, and with it the calls that it made.
//!
//! **Why not tonic's time-outs or tower's `Timeout`.** They begin when a request is handed to the connection, so waiting for one is unbounded;
//! they end with the head, so a stream is; they do not tell the peer what is left; and the caller gets CANCELLED or UNKNOWN.
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
//! **From an incoming to an outgoing call.** While the handler or its response's body is polled, [`Deadline::inherited`] knows the incoming
//! call's deadline, and a `DeadlineLayer` on the same task takes it up by itself. A spawned task does not inherit:
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
//! **Composition.** On a client above everything that may wait or repeat: retry, buffer, fail fast, breaker; with a [`StampLayer`] below them, or the
//! peer is told what was left before they waited. On a server outside of what may be
//! late, inside of metrics; to `Server::builder().layer(..)` and not around one service, since its errors are not `Infallible`.
//!
//! **Readiness.** The client's service is always ready and owns no readiness: a generated client waits for readiness before a request exists, so no deadline could
//! cover that wait. Each call clones the inner service and makes its clone ready inside the response future, so the inner service is asked for readiness once per call, and whatever it
//! reserves for that belongs to the call and goes with it. Backpressure is felt in the future. The server's readiness is the inner service's.
//!
//! **Cancel safety.** A future or body that is dropped drops what it wraps and its timer, and leaves nothing behind; nobody else waits for it.
//! A response body that nobody polls is not watched: nothing runs here but the caller's own task.
//!
//! **Cost.** No lock, no task. Without a deadline: a clone of the inner service. With one: three looks at the clock, a header and an
//! extension; a timer, in a box, only where something has to be waited for. **Metrics:** none; the code is in the call's.

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

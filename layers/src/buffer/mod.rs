//! Store and forward: calls that wait for a peer which is not there, and get its real answer when it is.
//!
//! A [`Buffer`] stands before one peer. It serves methods that [wait for ready](crate::MethodConfig::wait_for_ready) by the [table](crate::methods), and calls that carry
//! [`WaitForReady`]; all others pass by. A call that it serves goes straight to the peer if nobody waits and the peer is ready. Otherwise it waits, in the order
//! of urgency and then of arrival, until the service below is ready; then it is sent, and its caller gets what comes back.
//!
//! - **Bounds.** At most 1,000 calls and 16 MiB of messages are held, each for at most 300 s and never past its
//!   [`Deadline`](crate::Deadline). A call is held while it waits, and while it is in flight without an answer, since it may come back: its
//!   room is kept for it. A call that goes straight through when there is no room goes without being held; nothing is kept of it, and it
//!   can't come back. So a ready peer's calls are never refused, however many. When a call has to wait and there is no room, [`Overflow`]
//!   says who of those that wait has to go: whoever arrives (the default), whoever has waited longest, or whoever is least urgent.
//! - **Ends.** Every call ends in the answer, in the error that came from below, or in a [`BufferError`] that says which limit it hit:
//!   RESOURCE_EXHAUSTED for want of room, UNAVAILABLE for the time to live, DEADLINE_EXCEEDED for the deadline. So does a call that came back
//!   and has no time left, or was not held; the message has the attempt's own words then.
//! - **Sent once.** What was handed over is sent again only if it provably did not arrive
//!   ([`Fault::not_processed`](crate::Fault::not_processed)) and time may mend that: the peer refused it
//!   ([`Origin::Refused`](crate::Origin::Refused)), the way to it failed with UNAVAILABLE, or a layer below rejected it for the moment
//!   ([`Fault::is_temporary`](crate::Fault::is_temporary)), as a fail-fast does. Where the call is idempotent, by the table
//!   or by [`Idempotent`](crate::Idempotent), also if the transport failed with UNAVAILABLE or UNKNOWN after it may have arrived, until
//!   [five attempts](BufferConfigBuilder::max_attempts) may have. It goes back to where it stood, and its time goes on. All else is
//!   delivered: a peer's own answer, whatever it says, a dial that policy refused (PERMISSION_DENIED, UNAUTHENTICATED), an endpoint of ours
//!   that is closed.
//! - **Accounts.** [`BufferStats`]: accepted = delivered + failed + expired + dropped + cancelled + in flight + waiting, at every moment.
//!
//! A body that is a stream can't be held: such calls pass by too, whatever their method.
//!
//! **Why not tower's `Buffer`.** That one makes a service `Clone` by way of a task and a channel. It has no time limit, no bytes, no order
//! but arrival and no way to send again; a caller who left is found when his turn comes; and one error from `poll_ready` breaks it for
//! ever.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use tower::Layer;
//! use tower_iroh_layers::{MethodConfig, Methods, buffer::{BufferConfig, BufferLayer}};
//! use tower_iroh_proto::{EchoService, echo::{EchoRequest, echo_client::EchoClient, echo_server::EchoServer}};
//!
//! // A peer that will be there later.
//! let address = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
//! let channel = tonic::transport::Endpoint::new(format!("http://{address}"))?.connect_lazy();
//!
//! let waits = MethodConfig::new().wait_for_ready(true);
//! let methods = Methods::builder().method("tower_iroh.echo.v1.Echo", waits).build()?;
//! let buffer = BufferLayer::new(BufferConfig::default()).methods(methods).layer(channel);
//! let handle = buffer.handle();
//! let mut client = EchoClient::new(buffer);
//! let call = tokio::spawn(async move {
//!     client.echo(EchoRequest { payload: "keep this".into() }).await
//! });
//! while handle.stats().waiting == 0 {
//!     tokio::task::yield_now().await;
//! }
//!
//! let listener = tokio::net::TcpListener::bind(address).await?;
//! let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
//! let server = tonic::transport::Server::builder().add_service(EchoServer::new(EchoService));
//! tokio::spawn(server.serve_with_incoming(incoming));
//! let answer = call.await??.into_inner();
//! assert_eq!(answer.payload, "keep this");
//! assert_eq!(handle.stats().delivered, 1);
//! # Ok(())
//! # }
//! ```
//!
//! **Composition.** Below a deadline layer, so that no call waits longer than its caller does, and below a retry, so that a call that is
//! made again waits like any other; a [`BufferError`] is final for it. Above whatever is not ready while the peer is away. Over a service
//! that is always ready and fails, as tonic's `Channel` does, it works too, by sending again: after a failure one call finds out whether
//! the peer is back, and the others keep their order; the next try is 10 ms later, then twice as long each time up to 1 s, until one is
//! answered. Who finds out and gets no answer for a second is not waited for: the next tries.
//!
//! A layer below may reject a call for the moment ([`Origin::Ours`](crate::Origin::Ours) and temporary): a selection does so if the
//! transport that this call needs is away. That says nothing of the peer, so the pace stays as it is. The call alone waits, 10 ms and then
//! twice as long each time up to 1 s, and all others go before it, new ones too.
//!
//! A fail-fast is best given to those who pass by alone, with [`BufferLayer::passing`]; below the buffer it
//! would hide the peer's return for up to that second.
//! [`BufferLayer`] makes a buffer for each service that it wraps, so one for each peer; a clone of a [`Buffer`] is the same buffer.
//!
//! **Readiness.** Always ready: who waits, waits in the response future, under its deadline. The service below is polled by a clone, in the
//! future of a call that finds nobody waiting, else by the driver. An error of its readiness is treated as that of an attempt, by the head
//! of the queue.
//!
//! **Cancel safety.** A future that is dropped while it waits takes its call and bytes out at once; in flight, it drops the call. A future
//! that is alive and polled no more holds nobody up: calls that have waited are begun by the driver, in order, and followed by a task of
//! their own that keeps the answer. The driver is a task that begins with the first who waits and ends with the last, on the runtime of the
//! first; it needs no service to be alive, only callers. If that runtime ends first, those who wait are told ([`BufferReason::Stopped`]).
//!
//! **Cost.** Straight through: three short locks, and, where it is held, a copy of the request's head in case it comes back. To wait: one
//! allocation more, a copy of a message under 4 KiB (a generated client's 8 KiB buffer is not kept for it while it waits), O(log n) to
//! come, to leave and to be sent, and a task to follow it. No timer runs while nobody waits.
//!
//! **Metrics** (feature `metrics`): gauges `tower_iroh_buffer_waiting` and `tower_iroh_buffer_bytes`;
//! `tower_iroh_buffer_calls_total{outcome}` with delivered, failed, expired, dropped, cancelled and rejected. All buffers add up.

mod config;
mod driver;
mod entry;
mod error;
mod future;
mod handle;
mod held;
mod layer;
mod meter;
mod probe_backoff;
mod queue;
mod service;
mod shared;

pub use config::{BufferConfig, BufferConfigBuilder};
pub use entry::Overflow;
pub use error::{BufferError, BufferReason};
pub use future::BufferFuture;
pub use handle::{BufferHandle, BufferStats};
pub use layer::BufferLayer;
pub use service::{Buffer, Served, WaitForReady};

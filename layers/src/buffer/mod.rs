//! Store and forward: calls wait for a peer that is away, and get its real answer when it is back.
//!
//! A [`Buffer`] stands before one peer. It serves methods that [wait for ready](crate::MethodConfig::wait_for_ready) by the [table](crate::methods), and calls
//! that carry [`WaitForReady`]; all others pass by. A served call goes straight to the peer if no call waits and the peer is ready. Otherwise it waits, ordered
//! by urgency and then by arrival, until the service below is ready. Then it is sent, and its caller gets the answer.
//!
//! - **Bounds.** At most 1,000 calls and 16 MiB of messages are held, each for at most 300 s and never past its [`Deadline`](crate::Deadline). A call is held
//!   while it waits. It is also held while it is in flight without an answer, since it may come back: its capacity stays reserved. Without free capacity a call
//!   that goes straight through is not held: nothing of it is kept, and it cannot come back. So a ready peer's calls are never refused, however many. When a
//!   call has to wait and there is no capacity, [`Overflow`] says which waiting call is dropped: the one that arrives (the default), the oldest, or the least
//!   urgent.
//! - **Ends.** Every call ends in the answer, in the error from below, or in a [`BufferError`] that names the limit: RESOURCE_EXHAUSTED for capacity,
//!   UNAVAILABLE for the time to live, DEADLINE_EXCEEDED for the deadline. The same holds for a call that came back and has no time left, or was not held; the
//!   message then includes the attempt's own.
//! - **Sent once.** A call that was handed over is sent again only if it provably did not arrive ([`Fault::not_processed`](crate::Fault::not_processed)) and
//!   time may help: the peer refused it ([`Origin::Refused`](crate::Origin::Refused)), the link failed with UNAVAILABLE, or a layer below rejected it for the
//!   moment ([`Fault::is_temporary`](crate::Fault::is_temporary)), as a fail-fast does. An idempotent call (by the table or by
//!   [`Idempotent`](crate::Idempotent)) is also sent again if the transport failed with UNAVAILABLE or UNKNOWN after the call may have arrived, until [five
//!   attempts](BufferConfigBuilder::max_attempts) may have arrived. A call goes back to its old position, and its time goes on. Everything else is delivered:
//!   any answer of the peer, a dial that policy refused (PERMISSION_DENIED, UNAUTHENTICATED), an endpoint of ours that is closed.
//! - **Accounts.** [`BufferStats`]: accepted = delivered + failed + expired + dropped + cancelled + in flight + waiting, at every moment.
//!
//! A streaming body can't be held: such calls pass by too, whatever their method.
//!
//! **Why not tower's `Buffer`.** It makes a service `Clone` with a task and a channel. It has no time limit, no byte limit, no order but arrival, and cannot
//! send again. It finds out that a caller has left only when the call's turn comes. One error from `poll_ready` breaks it for ever.
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
//! **Composition.** Below a deadline layer, so that no call waits longer than its caller does. Below a retry, so that a repeated call waits like any other; a
//! [`BufferError`] is final for the retry. Above whatever is not ready while the peer is away. It also works over a service that is always ready and fails, as
//! tonic's `Channel` does, by sending again. After a failure one call probes the peer, and the others keep their order. The next try is 10 ms later, then twice
//! as long each time up to 1 s, until one is answered. A probe without an answer for a second is not waited for: the next call tries.
//!
//! A layer below may reject a call for the moment ([`Origin::Ours`](crate::Origin::Ours) and temporary). A selection does so if the transport that this call
//! needs is away. That says nothing of the peer, so the pace stays as it is. Only this call waits, 10 ms and then twice as long each time up to 1 s, and all
//! others go before it, new ones too.
//!
//! Give a fail-fast only to the calls that pass by, with [`BufferLayer::passing`]. Below the buffer it would hide the peer's return for up to that second.
//! [`BufferLayer`] makes one buffer for each service that it wraps, so one per peer; a clone of a [`Buffer`] is the same buffer.
//!
//! **Readiness.** Always ready: a call that waits does so in its response future, under its deadline. A clone polls the service below, in the future of a call
//! that finds no other waiting, else in the driver. A readiness error counts as a failed attempt of the queue's head.
//!
//! **Cancel safety.** A future that is dropped while it waits removes its call and bytes at once; in flight, it drops the call. A future that is alive but no
//! longer polled blocks no other: the driver begins waiting calls in order, and a task per call follows each and keeps the answer. The driver is a task that
//! begins with the first waiting call and ends with the last, on the runtime of the first. It needs no live service, only callers. If that runtime ends first,
//! the waiting calls fail ([`BufferReason::Stopped`]).
//!
//! **Cost.** Straight through: three short locks, and for a held call a copy of the request's head in case it comes back. To wait: one more allocation, a copy
//! of a message under 4 KiB (so that a generated client's 8 KiB buffer is not kept meanwhile), O(log n) to enter, leave and be sent, and a task to follow it.
//! No timer runs while no call waits.
//!
//! **Metrics** (feature `metrics`): gauges `tower_iroh_buffer_waiting` and `tower_iroh_buffer_bytes`; `tower_iroh_buffer_calls_total{outcome}` with delivered,
//! failed, expired, dropped, cancelled and rejected. All buffers add to the same series.

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

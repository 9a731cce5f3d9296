//! Coalesces many small items into few calls.
//!
//! [`BatchLayer`] turns a `Service<Vec<T>>` into a `Service<T>`. An item that arrives while nothing is in flight is sent at once, alone. Items
//! that arrive while a batch is in flight form the next batch. So a quiet caller pays no delay, and a busy one pays for one call per batch, not
//! per item. One batch is in flight at a time. Items are sent in the order of their calls, across batches too, and the receiver sees that
//! order.
//!
//! - A batch has at most 128 items and 1 MiB, measured by a size function that the caller provides. A larger item goes alone.
//! - A window, at most 10 ms and zero unless set, lets an item wait for others when nothing is in flight.
//! - The inner service answers with one result per item, in order, and each caller gets its own. Where single items can fail, make the result a
//!   `Result`.
//! - An error reaches every caller of the batch as a [`BatchError`] with the same source, so each sees its gRPC code. A count of results that
//!   differs from the count of items is an INTERNAL error to all of them: nothing is lost silently, and no caller gets another's result.
//!
//! **Why not tower's `buffer`, or a channel and a task.** `Buffer` queues requests and does not join them. A hand-made task seldom defines what
//! happens to an item whose caller has left, to order, or to an error that two hundred callers have to see.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), tower_iroh_layers::BoxError> {
//! use bytes::Bytes;
//! use tower::{Service, ServiceBuilder, ServiceExt, service_fn};
//! use tower_iroh_layers::batch::{BatchConfig, BatchLayer};
//! use tower_iroh_proto::echo::{EchoRequest, echo_client::EchoClient};
//! # use tower_iroh_proto::{EchoService, echo::echo_server::EchoServer};
//! # let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
//! # let address = format!("http://{}", listener.local_addr()?);
//! # let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
//! # let echo = EchoServer::new(EchoService);
//! # tokio::spawn(tonic::transport::Server::builder().add_service(echo).serve_with_incoming(incoming));
//!
//! let channel = tonic::transport::Endpoint::new(address)?.connect_lazy();
//! let client = EchoClient::new(channel);
//! // One call carries a byte of each item, and its answer a byte for each.
//! let send = service_fn(move |items: Vec<u8>| {
//!     let mut client = client.clone();
//!     async move {
//!         let request = EchoRequest { payload: items.into() };
//!         let answer = client.echo(request).await?.into_inner();
//!         Ok::<_, tonic::Status>(answer.payload.to_vec())
//!     }
//! });
//! let mut batch = ServiceBuilder::new()
//!     .layer(BatchLayer::new(BatchConfig::default(), |_: &u8| 1))
//!     .service(send);
//! let mut answers = Vec::new();
//! for item in 0..100 {
//!     answers.push(batch.ready().await?.call(item));
//! }
//! for (item, answer) in answers.into_iter().enumerate() {
//!     assert_eq!(usize::from(answer.await?), item);
//! }
//! # Ok(())
//! # }
//! ```
//!
//! **Composition.** Put it above the client of a service, where the items are. Below it a batch is one call: one deadline, one verdict, one
//! retry. Over a retry that resends a batch, the peer must be able to take an item twice. The worker's task sends the batch and inherits
//! nothing from the waiting callers, neither a deadline nor a trace: put a default deadline below.
//!
//! **Readiness.** The service is ready while fewer than 1,024 items wait. A ready handle reserves capacity for its call; a clone reserves none.
//! The worker waits for the inner service's readiness. A readiness error fails the batch that would have been sent.
//!
//! **Cancel safety.** A future dropped while its item waits takes the item out and frees its capacity. If it is dropped while the item is in
//! flight, its result is discarded and the others' are kept. When all callers of a batch have left, its call is dropped, so a call that hangs
//! blocks nobody. The worker is a task on the runtime of the first caller. It lives while items wait or are in flight, that is while their
//! callers' futures live, even after the service is dropped. If it ends earlier, callers that wait or are in flight get an error.
//!
//! **Cost.** A lock, a map entry and a one-shot channel per item; a task per burst; no timer without a window.
//!
//! **Metrics** (feature `metrics`): `tower_iroh_batch_items`, a histogram of items per batch; `tower_iroh_batch_failed_total`, batches
//! whose callers all got an error.

mod config;
mod error;
mod future;
mod layer;
mod meter;
mod pending;
mod service;
mod shared;
mod worker;

pub use config::{BatchConfig, BatchConfigBuilder};
pub use error::BatchError;
pub use future::BatchFuture;
pub use layer::BatchLayer;
pub use service::Batch;

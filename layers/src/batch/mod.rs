//! Many small items in few calls.
//!
//! [`BatchLayer`] makes a `Service<T>` of a `Service<Vec<T>>`. An item that arrives while nothing is in flight is sent at once, alone;
//! those that arrive while a batch is in flight are the next batch. So a quiet caller pays no delay, and a busy one pays for a call per
//! batch and not per item. There is one batch in flight at a time, and items are sent in the order of their calls: whoever receives them
//! sees that order, across batches too.
//!
//! - A batch has at most 128 items and 1 MiB, by a size function that the caller provides. An item larger than that goes alone.
//! - A window, at most 10 ms and zero unless set, lets an item wait for company when nothing is in flight.
//! - The inner service answers with one result per item, in order, and each caller gets its own. Where items can fail one by one, let the
//!   result be a `Result`.
//! - An error reaches every caller of that batch as a [`BatchError`] with the same source, so each sees its gRPC code. Another number of
//!   results than of items is an INTERNAL error to all of them: nothing is lost silently, and nobody gets another's result.
//!
//! **Why not tower's `buffer`, or a channel and a task.** `Buffer` queues requests and does not join them; a hand-made task seldom says
//! what becomes of an item whose caller has left, of order, or of an error that two hundred callers have to see.
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
//! **Composition.** It stands above the client of a service, where the items are, and below it a batch is one call: one deadline, one
//! verdict, one retry. Over a retry that sends a batch again the peer must be able to take an item twice. A batch is sent by the worker's task,
//! which inherits nothing from those who wait, neither a deadline nor a trace: put a default deadline below.
//!
//! **Readiness.** The service is ready while fewer than 1,024 items wait; a ready handle keeps the room for its call, and a clone has none.
//! The inner service's readiness is awaited by the worker, and one that fails fails the batch that would have been sent.
//!
//! **Cancel safety.** A future dropped while its item waits takes the item out; its room goes to the next caller. Dropped while the item is
//! in flight, its result is thrown away, and the others' are not; when all callers of a batch have left, its call is dropped, so that one
//! that hangs holds nobody up. The worker is a task on the runtime of whoever made the first call; it lives while items wait or fly, which
//! is while their callers' futures live, whether or not the service still does. Should it end before, those who wait are told, and those in
//! flight too.
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

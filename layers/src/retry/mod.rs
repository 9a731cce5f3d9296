//! Retries a call when that is safe, within a budget.
//!
//! The rules are those of gRPC's proposal [A6]; the numbers are the defaults of [`RetryPolicy`].
//!
//! | the attempt ended with | sent again |
//! |---|---|
//! | provably not begun by the peer: REFUSED_STREAM, a GOAWAY below the call ([`Origin::Refused`](crate::Origin::Refused)) | any method, at once, then with backoff; at most twice |
//! | provably not begun, UNAVAILABLE: a failed dial, a request that never left | any method, with backoff; at most twice, counted with those above; not after a dial that used its whole time-out ([`Fault::timed_out`](crate::Fault::timed_out)) |
//! | one of the policy's codes (UNAVAILABLE), perhaps processed | [idempotent](crate::MethodConfig::idempotent) methods and calls with [`Idempotent`], with backoff, until the peer may have seen the call three times, while the budget lasts |
//! | anything else; a rejection by this side ([`Origin::Ours`](crate::Origin::Ours)); a response's head without a status | never |
//!
//! - **The end of an attempt** is an error, a trailers-only head, or an HTTP status that is not 200: servers and proxies answer errors in these forms. Any
//!   other head commits the call to its attempt: trailers or a lost connection after it go to the caller.
//! - **Backoff:** 100 ms, doubled up to 1 s, with 20 % jitter. A server's `grpc-retry-pushback-ms` replaces the wait and restarts the backoff. A negative or
//!   unreadable value ends the retries, and so does one above 60 s: no call sleeps for days on a peer's request.
//! - **Deadline:** a wait that would pass the call's deadline does not begin; the caller gets the last answer at once. The `grpc-timeout` of each
//!   further attempt has the time left.
//! - **`grpc-previous-rpc-attempts`** tells the peer how many attempts it may have seen before.
//! - **Budget:** [`RetryBudget`], per channel and for all methods. An attempt that the peer has not begun is neither charged nor withheld.
//! - **Body:** what was sent is kept, up to 256 KiB, until the call is committed. A unary request is one piece that all attempts share. A streaming request is
//!   recorded. The next attempt gets the record and then goes on with the source; the previous attempt can read no more from it, whatever its transport still
//!   does. A request that has outgrown the limit, or that failed itself, is not sent again.
//!
//! The caller always gets the last attempt's own response or error, with its code.
//!
//! **Why not tower's `retry`.** It clones requests, and tonic's bodies and streams do not clone. It knows no status in a head, no pushback, no commit, and not
//! what the peer has not begun.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use tower::ServiceBuilder;
//! use tower_iroh_layers::{MethodConfig, Methods, retry::{RetryLayer, RetryPolicy}};
//! use tower_iroh_proto::echo::{EchoRequest, echo_client::EchoClient};
//!
//! let policy = RetryPolicy::builder()
//!     .initial_backoff(std::time::Duration::from_millis(1))
//!     .build()?;
//! let methods = Methods::builder()
//!     .method("/tower_iroh.echo.v1.Echo/Echo", MethodConfig::new().idempotent(true))
//!     .build()?;
//! let nobody = tonic::transport::Endpoint::from_static("http://127.0.0.1:1").connect_lazy();
//! let channel = ServiceBuilder::new().layer(RetryLayer::new(policy).methods(methods)).service(nobody);
//! // Dials three times, and says what the last one said.
//! let status = EchoClient::new(channel).echo(EchoRequest::default()).await.unwrap_err();
//! assert_eq!(status.code(), tonic::Code::Unavailable);
//! # Ok(())
//! # }
//! ```
//!
//! **Composition.** Below the deadline layer, which bounds all attempts together. Above buffer, fail fast and breaker, so that each attempt is counted and may
//! take another path. Request extensions are cloned onto each attempt. The buffer below resends what it holds by itself, and reads [`Idempotent`] too. When the
//! buffer gives up, its error is final here, so attempts do not multiply. Both read the same [table of methods](crate::methods).
//!
//! **Readiness** is the inner service's, reserved for the first attempt. A further attempt makes a clone of it ready in the future; a readiness error counts as
//! that attempt's failure. A breaker that opened meanwhile is not ready, so a retry waits for the breaker or for the deadline.
//!
//! **Cancel safety.** Dropping the future drops the attempt, the wait, and the kept request; no task runs for it. The body of a replaced attempt is woken so
//! that it finds out and lets go.
//!
//! **Cost.** Over a service that [returns](RetryLayer::returned) a request that never left, only idempotent calls are copied, and other calls cost a clone of
//! the inner service. Otherwise, per call: a clone of the request's head and of the inner service, a box for what is kept and one for the body that is sent; no
//! lock for a unary request. A streaming request takes an uncontended lock per frame. The response is not wrapped.
//!
//! **Metrics,** only when attempts fail: `tower_iroh_retry_retries_total` by `reason` (`code`, `refused`, `unreached`), `tower_iroh_retry_given_up_total` by
//! `reason` (`attempts`, `budget`, `body`, `deadline`, `pushback`), and `tower_iroh_retry_budgets_exhausted`, the number of budgets that withhold retries.
//!
//! [A6]: https://github.com/grpc/proposal/blob/master/A6-client-retries.md

mod budget;
mod call;
mod error;
mod future;
mod layer;
mod meter;
mod policy;
mod service;
mod tally;

pub use budget::RetryBudget;
pub use error::RetryError;
pub use future::RetryFuture;
pub use layer::RetryLayer;
pub use policy::{RetryPolicy, RetryPolicyBuilder};
pub use service::Retry;

pub use crate::Idempotent;

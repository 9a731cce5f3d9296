//! One table of settings per method: timeout, wait for ready, idempotent, retry policy, buffering, urgency, transport.
//!
//! Each layer takes the same [`Methods`] and reads its own part of a method's [`MethodEntry`]. A method is either idempotent or not: retry, buffer and early
//! data all read that one setting.
//!
//! | setting | read by | default without an entry |
//! |---|---|---|
//! | [`timeout`](MethodConfig::timeout) | the [deadline](crate::deadline) layer; the shortest of this, the call's `grpc-timeout` and the inherited deadline counts | the layer's default timeout |
//! | [`wait_for_ready`](MethodConfig::wait_for_ready) | the [buffer](crate::buffer), which holds such calls until the peer is there | calls with `WaitForReady` wait |
//! | [`buffer_ttl`](MethodConfig::buffer_ttl) | the buffer: the longest wait of such a call | the buffer's time to live |
//! | [`idempotent`](MethodConfig::idempotent) | [retry](crate::retry), buffer, and a transport with early data | calls with [`Idempotent`](crate::Idempotent) are |
//! | [`retry`](MethodConfig::retry) | the retry layer; the budget stays one per channel | the layer's policy |
//! | [`urgency`](MethodConfig::urgency) | the [priority](crate::priority) layer, for calls that set none | the layer's fallback |
//! | [`transport`](MethodConfig::transport) | the [selection](crate::select)'s policy | the policy's default and its urgency rules |
//!
//! **Precedence.** A lookup gives one entry: the method's own, else its service's, else the default (`*`). A setting that an entry leaves unset comes from its
//! service's entry, else from the default.
//!
//! ```
//! use std::time::Duration;
//! use tower_iroh_layers::{MethodConfig, Methods, Urgency};
//!
//! let methods = Methods::builder()
//!     .method("*", MethodConfig::new().timeout(Duration::from_secs(5)))
//!     .method("/shop.v1.Stock/*", MethodConfig::new().idempotent(true))
//!     .method("/shop.v1.Stock/Take", MethodConfig::new().idempotent(false).urgency(Urgency::CONTROL))
//!     .build()?;
//! let get = methods.get("/shop.v1.Stock/Get");
//! assert!(get.is_idempotent() && get.timeout() == Some(Duration::from_secs(5)));
//! assert!(!methods.get("/shop.v1.Stock/Take").is_idempotent());
//!
//! let error = Methods::builder()
//!     .method("/shop.v1.Stock/Get", MethodConfig::new().timeout(Duration::ZERO))
//!     .build()
//!     .unwrap_err();
//! assert!(error.to_string().starts_with("methods.\"/shop.v1.Stock/Get\".timeout = 0ns: "));
//! # Ok::<(), tower_iroh_layers::ConfigError>(())
//! ```
//!
//! **Service config.** With the feature `service-config`, `MethodsBuilder::service_config` reads gRPC's JSON form of such a table.

mod config;
mod pattern;
#[cfg(feature = "service-config")]
mod service_config;
mod table;

pub use config::{MethodConfig, MethodEntry};
pub use pattern::MethodSet;
pub use table::{Methods, MethodsBuilder};

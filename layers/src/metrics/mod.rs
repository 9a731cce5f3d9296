//! How long calls take, how many are open and how they end, through the [`metrics`](https://docs.rs/metrics) facade.
//!
//! A call is recorded once, at the end of its stream, with the code in its trailers, or the code that a caller would have seen
//! ([`classify`](crate::classify)). [`MetricsLayer::client`] stands above a retry layer and sees calls; [`MetricsLayer::attempt`] stands below, one per
//! transport, and sees attempts; [`MetricsLayer::server`] stands outermost on a server.
//!
//! | name | kind | labels |
//! |---|---|---|
//! | `rpc.client.call.duration`, `rpc.server.call.duration` | histogram, seconds | `rpc.system.name`, `rpc.method`, `rpc.response.status_code`, `error.type` |
//! | `tower_iroh_client_attempt_duration_seconds` | histogram, seconds | the same, and `transport` |
//! | `tower_iroh_client_calls_in_flight`, `tower_iroh_server_calls_in_flight` | gauge | |
//! | `tower_iroh_client_attempts_in_flight` | gauge | `transport` |
//! | `tower_iroh_client_call_errors_total` | counter | `origin` |
//! | `tower_iroh_client_attempt_errors_total` | counter | `origin`, `transport` |
//!
//! Names and labels that OpenTelemetry defines are [its current ones](https://opentelemetry.io/docs/specs/semconv/rpc/rpc-metrics/) (release candidate, 1.40
//! and later). `rpc.system.name` is `grpc`. `rpc.method` is `package.Service/Method`, and `rpc.service` no longer exists. `rpc.response.status_code` is the
//! code's name, such as `UNAVAILABLE`. `error.type` is present when the call failed; on a server that is only UNKNOWN, DEADLINE_EXCEEDED, UNIMPLEMENTED,
//! INTERNAL, UNAVAILABLE and DATA_LOSS. A Prometheus exporter writes dots as underscores. `origin` is whose failure it was ([`Origin`](crate::Origin)):
//! `peer`, `refused`, `link`, `ours`, or `unknown` if only a code is known; a caller that left is no error. `transport` is on calls only with
//! [`MetricsLayer::transport`], and `peer` only with [`MetricsLayer::peer_label`].
//!
//! The facade has no buckets: an exporter has to set them. [`prometheus`](crate::prometheus) (feature `prometheus`) sets those of every layer; its page has an
//! example.
//!
//! **Bounded.** Method names are recorded up to a cap (256); beyond it the method is `_OTHER`. A server learns a name only from a call that ended with OK, and
//! from then on records the method's calls by name, whatever their code. So invented paths, and a method that has never ended with OK, are `_OTHER` and take
//! no space. The peers of a peer label have their own cap and `_OTHER`. A server learns a peer's name by the same rule, so refused strangers do not fill the
//! cap. The peer's calls that began earlier count as open calls of `_OTHER`. [`methods_from_ok`](MetricsLayer::methods_from_ok) has a client that passes on
//! the calls of others learn methods by that rule too.
//!
//! **The recorder.** Every layer looks up its handles once, when it first records something, and keeps them. So install a recorder before a channel's first
//! call, not necessarily before the channel is built: a layer that was first used without a recorder stays silent.
//!
//! **Why not a tower-http layer.** `InFlightRequests` only counts; no other layer knows how a gRPC call ends.
//!
//! **Composition.** See above. A call that a deadline layer above ends is DEADLINE_EXCEEDED here too, as with [`classify`](crate::classify). **Readiness** is
//! the inner service's; the wait for it is not part of a duration. **Cancel safety:** a dropped future or body, and a call that panics, is recorded as
//! CANCELLED and is no longer in flight. **Cost:** no lock and no allocation for a known method (a test counts), two clock reads; `docs/layers.md` has
//! figures.

mod capped;
mod layer;
mod registry;
mod series;
mod service;

pub use layer::MetricsLayer;
pub use service::{Metrics, MetricsRecorder, Record};

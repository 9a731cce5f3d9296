//! The breaker's contracts, over its public interface and a peer that plays a script.

mod clock;
mod compose;
mod handle;
#[cfg(feature = "metrics")]
mod metrics;
mod peer;
mod probe;
mod random;
#[cfg(feature = "fail-fast")]
mod rate_limited;
mod trip;

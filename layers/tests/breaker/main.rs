//! The breaker's contracts, over its public interface and a peer that plays a script.

mod clock;
mod compose;
mod handle;
mod peer;
mod probe;
mod trip;

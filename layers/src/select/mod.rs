//! Decides over which of two transports a call goes, before anything is sent.

mod adaptive;
mod arm;
mod arms;
mod canary;
mod config;
mod core;
mod error;
mod flight;
mod future;
mod group;
mod handle;
mod histogram;
mod kept;
mod key;
mod layer;
mod meter;
mod policy;
mod reason;
mod service;
mod shared;
mod standing;
mod waiting;
mod watch;
mod window;

pub mod rollout;

pub use adaptive::{Adaptive, AdaptiveBuilder};
pub use arm::Arm;
pub use arms::SelectState;
pub use canary::{Canary, CanaryBuilder};
pub use config::{SelectConfig, SelectConfigBuilder};
pub use error::NotReady;
pub use future::SelectFuture;
pub use group::Sample;
pub use handle::{CanaryStatistics, SelectHandle};
pub use histogram::Latencies;
pub use key::StickyKey;
pub use layer::SelectLayer;
pub use meter::Decisions;
pub use policy::{Choice, Policy, PolicyBuilder};
pub use reason::{Reason, SELECTED, Selected};
pub use service::Select;
pub use standing::ArmState;
pub use window::ArmStatistics;

/// The body of a [`Select`]'s response: its end is the attempt's.
pub type SelectBody<B> = crate::classify::TrackedBody<B, Sample>;

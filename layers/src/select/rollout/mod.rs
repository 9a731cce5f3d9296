//! Lets a canary grow by itself, and takes it back when the new arm is worse.

mod config;
mod driver;
mod error;
mod file;
mod gate;
mod handle;
mod machine;

pub use config::{RolloutConfig, RolloutConfigBuilder};
pub use error::RolloutError;
pub use gate::{Gates, GatesBuilder};
pub use handle::Rollout;
pub use machine::{Phase, RolloutState};

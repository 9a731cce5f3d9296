//! Grows a canary by itself, and rolls it back when the new arm is worse.
//!
//! A [`Rollout`] moves one [`Canary`](crate::select::Canary)'s share through stages: 5, 25, 50 and 100 %. At each stage it compares the arms once a second,
//! over the canary's window and over three windows. Only the stage's own calls count:
//!
//! | the [gates](Gates) say | the rollout |
//! |---|---|
//! | passed, with enough calls, and the stage has lasted its dwell (5 min) | goes to the next stage; after the last it is complete |
//! | too few calls, or a difference that may be chance | holds, and says why |
//! | the new arm's error rate or p99 is clearly worse than its limit allows | rolls back: the share is 0 until an operator resumes the rollout |
//! | the new arm clearly fails more than half of its calls, or one in ten where too little is known of the old arm | rolls back, whatever the old arm is like |
//!
//! It changes only the share, so growing only adds keys. When the old arm has too few calls, as at 100 %, the new arm is compared with the old arm's results
//! from when it had enough. A call that fell back because the new arm was not ready, or had just come back, counts as an error of the new arm, even though its
//! caller did not notice.
//!
//! The calls need different keys, or none. If all calls of a process share [one key](crate::select::SelectConfigBuilder::sticky_key) they all go over one arm,
//! and [`Rollout::start`] refuses that.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use std::time::Duration;
//! use tower_iroh_layers::{
//!     rollout::{Gates, Phase, Rollout, RolloutConfig},
//!     select::{Arm, Canary, Choice, SelectPolicy, SelectHandle},
//! };
//!
//! let canary = Canary::builder("shop-to-iroh", Arm::First).key_header("x-tenant").build()?;
//! let select = SelectHandle::new(SelectPolicy::builder(Choice::Canary(canary)).build()?);
//! # let file = std::env::temp_dir().join(format!("tower-iroh-doc-{}.toml", std::process::id()));
//!
//! let gates = Gates::builder().max_error_difference(0.005).build()?;
//! let config = RolloutConfig::builder("shop-to-iroh")
//!     .stages([500, 2_500, 5_000, 10_000])
//!     .dwell(Duration::from_secs(600))
//!     .gates(gates)
//!     .state_file(&file)
//!     .build()?;
//! let rollout = Rollout::start(config, select.clone())?;
//! // It begins as soon as its state is saved.
//! rollout.subscribe().wait_for(|state| state.share == 500).await?;
//!
//! rollout.roll_back("somebody called");
//! assert_eq!(rollout.state().phase, Phase::RolledBack);
//! assert_eq!(select.canary("shop-to-iroh").unwrap().canary.share(), 0);
//! # std::fs::remove_file(file)?;
//! # Ok(())
//! # }
//! ```
//!
//! **By hand.** [`pause`](Rollout::pause), [`roll_back`](Rollout::roll_back) and a [`set_stage`](Rollout::set_stage) to a smaller share act at once.
//! [`resume`](Rollout::resume) and a larger share are in force once they are saved, or at once without a file. [`subscribe`](Rollout::subscribe) tells each
//! change. A paused rollout still rolls back. A complete rollout no longer compares.
//!
//! **After a restart** it goes on from its file: the same stage, with the dwell so far. Time while it did not run does not count, and neither does a changed
//! clock. Measurements are not in the file, so the rollout holds until there are enough calls again. The file is replaced as a whole, before a larger share is
//! in force and after a smaller one; the dwell is saved every 10 s. While the file cannot be written nothing grows. Changed stages after a restart never mean a
//! larger share. A damaged file, or one of another rollout, closes the canary: [`Rollout::start`] sets the share to 0 and says which line is wrong.
//!
//! **Policies.** Under every policy the rollout sets the share of this canary. While the policy has no such canary, the rollout waits.
//!
//! **Ownership.** One task, which ends with the last clone of the [`Rollout`]; the share then stays as it is. The task blocks nothing: a thread for blocking
//! work writes the file.
//!
//! **Metrics** (feature `metrics`): `tower_iroh_rollout_steps_total` by `canary` and `step` (`advanced`, `completed`, `rolled_back`), and the selection's gauge
//! `tower_iroh_select_canary_share`.

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

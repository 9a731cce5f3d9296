//! What belongs to one identity, whatever its names: its channels, the choice between its transports, its rollout.

use std::sync::{Arc, Mutex, OnceLock};

use iroh::EndpointId;
use tower_iroh_layers::{
    BoxError, ConfigError,
    rollout::{Rollout, RolloutConfig},
    select::SelectHandle,
};

use super::Over;
use crate::{channel::Channel, lock::lock};

/// How the rollout to a peer goes.
pub(super) type Plan = Arc<dyn Fn(EndpointId) -> Result<RolloutConfig, ConfigError> + Send + Sync>;

/// It leaves the directory with the last name of its identity. What is made for it after that ends with the caller that made it.
#[derive(Default)]
pub(super) struct PeerSlot {
    channels: [OnceLock<Channel>; 3],
    pub(super) select: OnceLock<SelectHandle>,
    rollout: Mutex<Begun>,
}

#[derive(Default)]
struct Begun {
    /// The plan that the rollout goes by: one that runs, or begins, or could not begin.
    by: Option<Plan>,
    running: Option<Rollout>,
}

impl PeerSlot {
    pub(super) fn channel(&self, over: Over) -> &OnceLock<Channel> {
        &self.channels[match over {
            Over::One(transport) => transport as usize,
            Over::Chosen => 2,
        }]
    }

    /// How many channels there are.
    pub(super) fn channels(&self) -> usize {
        self.channels.iter().filter(|it| it.get().is_some()).count()
    }

    /// The rollout that runs.
    pub(super) fn rollout(&self) -> Option<Rollout> {
        lock(&self.rollout).running.clone()
    }

    /// Ends the rollout, where it is not by this plan. Returns whether one by this plan is to [begin](Self::begin).
    ///
    /// The directory is locked meanwhile, so that an older plan never takes the place of a newer one.
    pub(super) fn claim(&self, plan: Option<&Plan>) -> bool {
        let mut begun = lock(&self.rollout);
        let is_same = match (&begun.by, plan) {
            (Some(by), Some(plan)) => Arc::ptr_eq(by, plan),
            (None, None) => true,
            _ => false,
        };
        if !is_same {
            *begun = Begun {
                by: plan.cloned(),
                running: None,
            };
        }
        !is_same && plan.is_some()
    }

    /// Begins a rollout that was claimed. It asks the program and reads a file, so nothing is locked meanwhile.
    pub(super) fn begin(&self, id: EndpointId, plan: &Plan) {
        let Some(select) = self.select.get() else {
            return;
        };
        let rollout = plan(id)
            .map_err(BoxError::from)
            .and_then(|config| Rollout::start(config, select.clone()).map_err(BoxError::from));
        match rollout {
            Ok(rollout) => {
                let mut begun = lock(&self.rollout);
                // Otherwise another plan came meanwhile, and this rollout ends here.
                if begun.by.as_ref().is_some_and(|by| Arc::ptr_eq(by, plan)) {
                    begun.running = Some(rollout);
                }
            }
            Err(error) => {
                let cause = error.source().map(ToString::to_string).unwrap_or_default();
                tracing::error!(peer = %id.fmt_short(), cause, "the rollout did not begin: {error}");
            }
        }
    }
}

//! The rollouts to the peers of a directory.

use std::{collections::HashMap, sync::Arc};

use iroh::EndpointId;
use tower_iroh_layers::{
    BoxError, ConfigError,
    select::{
        SelectHandle,
        rollout::{Rollout, RolloutConfig},
    },
};

/// Of its own lock: beginning a rollout reads a file.
#[derive(Default)]
pub(super) struct Rollouts {
    pub(super) plan: Option<Plan>,
    pub(super) running: HashMap<EndpointId, Rollout>,
}

/// How the rollout to a peer goes.
pub(super) type Plan = Arc<dyn Fn(EndpointId) -> Result<RolloutConfig, ConfigError> + Send + Sync>;

impl Rollouts {
    /// Begins the rollout to a peer, where there is to be one and is none.
    pub(super) fn start(&mut self, id: EndpointId, select: &SelectHandle) {
        let Some(plan) = self.plan.clone() else {
            return;
        };
        if self.running.contains_key(&id) {
            return;
        }
        let begun = plan(id)
            .map_err(BoxError::from)
            .and_then(|config| Rollout::start(config, select.clone()).map_err(BoxError::from));
        match begun {
            Ok(rollout) => drop(self.running.insert(id, rollout)),
            Err(error) => {
                let cause = error.source().map(ToString::to_string).unwrap_or_default();
                tracing::error!(peer = %id.fmt_short(), cause, "the rollout did not begin: {error}");
            }
        }
    }
}

use std::{fmt, sync::Arc, time::SystemTime};

use tokio::{runtime::Handle, sync::watch, task::AbortHandle};

use super::{
    RolloutConfig, RolloutError, RolloutState,
    driver::{Shared, run},
    file,
    gate::Baseline,
    machine::Machine,
};
use crate::{ConfigError, select::SelectHandle};

/// A running rollout. Clones are the same rollout. Its task ends with the last of them, and the canary's share then stays as it is.
#[derive(Clone)]
pub struct Rollout {
    shared: Arc<Shared>,
    _task: Arc<Task>,
}

struct Task(AbortHandle);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl Rollout {
    /// Begins, or continues from the state file. From now on the rollout sets the canary's share, whatever policy is put in force.
    ///
    /// Reads the small state file on the calling thread. A thread for blocking work writes it. If there is no file yet, the share stays 0 until the first state
    /// is saved; [`subscribe`](Self::subscribe) tells when. While the state cannot be saved, [`RolloutState::unsaved`] says why.
    ///
    /// # Errors
    /// When the policy has no such canary, all calls share one [key](crate::select::SelectConfigBuilder::sticky_key), the file cannot be read or is not a state
    /// of this rollout, or there is no tokio runtime. The share is then 0: a rollout in an unknown state exposes no call.
    pub fn start(config: RolloutConfig, select: SelectHandle) -> Result<Self, RolloutError> {
        let name = config.canary.clone();
        let started = Self::try_start(config, &select);
        if started.is_err() {
            // If there is no such canary there is nothing to close.
            let _ = select.set_share(&name, 0);
        }
        started
    }

    fn try_start(config: RolloutConfig, select: &SelectHandle) -> Result<Self, RolloutError> {
        let runtime = Handle::try_current().map_err(|_| RolloutError::NoRuntime)?;
        let (canary, old) = match select.canary(&config.canary) {
            Some(seen) => (seen.canary, Baseline::of(&seen.longer[1])),
            None => {
                // To be told which there are.
                let missing = select
                    .policy()
                    .as_ref()
                    .clone()
                    .with_share(&config.canary, 0);
                return Err(match missing {
                    Err(error) => RolloutError::NoCanary(error),
                    Ok(_) => RolloutError::NoCanary(ConfigError::new(
                        "select.canary.name",
                        &config.canary,
                        "it came just now",
                    )),
                });
            }
        };
        if let Some(key) = select.sticky_key() {
            return Err(RolloutError::SharedKey(ConfigError::new(
                "select.sticky_key",
                format_args!("{key:?}"),
                "must be unset for a rollout, which compares calls over both arms; to keep calls together set the canary's key_header, or a StickyKey in requests",
            )));
        }
        let path = config.state_file.clone();
        let saved = match &path {
            Some(path) => file::load(path, &canary, select.name(canary.to()))?,
            None => None,
        };
        let tick = config.tick;
        let config = Arc::new(config);
        let now = SystemTime::now();
        let is_saved = saved.is_some();
        let mut machine = match saved {
            Some(saved) => Machine::restore(config, saved.state, saved.baseline),
            None => Machine::new(config, now),
        };
        // What the old arm was like until now, if nothing else is known of it.
        machine.baseline = machine.baseline.or(old);
        let shared = Shared::new(select.clone(), canary.to(), path, machine, is_saved, now);
        let shared = Arc::new(shared);
        let task = runtime.spawn(run(shared.clone(), tick));
        Ok(Self {
            _task: Arc::new(Task(task.abort_handle())),
            shared,
        })
    }

    /// The state now.
    pub fn state(&self) -> RolloutState {
        self.shared.state.borrow().clone()
    }

    /// Follows the state. Copy what [`borrow`](watch::Receiver::borrow) returns: while the reference lives, the rollout cannot tell of a change and waits.
    pub fn subscribe(&self) -> watch::Receiver<RolloutState> {
        self.shared.state.subscribe()
    }

    /// Stops growing, at once. It still rolls back if it must.
    pub fn pause(&self) {
        self.shared.order(Machine::pause);
    }

    /// Continues after a pause. After a rollback it starts anew at the first stage, and earlier measurements do not count.
    ///
    /// With a state file this is in force as soon as it is saved.
    pub fn resume(&self) {
        self.shared.order(Machine::resume);
    }

    /// Goes to a stage, counted from 0, and starts its dwell. After a rollback the rollout runs again.
    ///
    /// With a state file a larger share is in force as soon as it is saved, a smaller one at once.
    ///
    /// # Errors
    /// When there is no such stage.
    pub fn set_stage(&self, stage: usize) -> Result<(), ConfigError> {
        self.shared
            .order(|machine, now| machine.set_stage(stage, now))
    }

    /// Takes all calls back to the old arm at once; `why` becomes the [`RolloutState::note`].
    pub fn roll_back(&self, why: impl Into<String>) {
        let why = why.into();
        self.shared
            .order(|machine, now| machine.roll_back(now, why));
    }
}

impl fmt::Debug for Rollout {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Rollout")
            .field("canary", &self.shared.canary)
            .field("state", &self.state())
            .finish_non_exhaustive()
    }
}

//! What is in force of a configuration, and who may change it.

use std::{
    fmt,
    path::PathBuf,
    sync::{Arc, Mutex, Weak},
};

use tokio::sync::watch;
use tower_iroh_layers::ConfigError;

use super::{Config, reload::State};
use crate::lock::lock;

/// It outlives the watch that changes it, so that the next watch begins with what is in force and not with the start.
pub(super) struct InForce {
    /// The last configuration that was accepted.
    pub(super) accepted: watch::Sender<Arc<Config>>,
    /// Locked by one look at a time, on a thread where blocking is allowed.
    pub(super) state: Mutex<State>,
    /// The file that the current watch follows; gone with that watch.
    followed: Mutex<Weak<PathBuf>>,
}

impl InForce {
    /// What is in force at the start.
    pub(super) fn new(config: Arc<Config>, policy: Option<String>) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State::new(config.clone(), policy)),
            accepted: watch::Sender::new(config),
            followed: Mutex::default(),
        })
    }

    /// Claims it for a watch, which holds the claim for as long as it lives.
    pub(super) fn claim(&self, path: PathBuf) -> Result<Arc<PathBuf>, ConfigError> {
        let mut followed = lock(&self.followed);
        if let Some(other) = followed.upgrade() {
            let accepted = format!(
                "one watch at a time is accepted, and {} is followed already; drop that ConfigWatch first",
                other.display()
            );
            return Err(ConfigError::new(
                "config_watch.path",
                path.display(),
                accepted,
            ));
        }
        let claim = Arc::new(path);
        *followed = Arc::downgrade(&claim);
        Ok(claim)
    }
}

impl fmt::Debug for InForce {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("InForce").finish_non_exhaustive()
    }
}

use std::{io, path::PathBuf};

use crate::ConfigError;

/// Why a rollout did not begin. The canary's share is 0 then, if there is such a canary.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RolloutError {
    /// The state file could not be read.
    #[error("the rollout's state {} cannot be read", path.display())]
    Unreadable {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The state file is not one, or another rollout's. What is to be done is for people: mend it, or remove it to begin at the first stage.
    #[error("the rollout's state {} line {line}: {what}; mend the file, or remove it to begin at the first stage", path.display())]
    Corrupt {
        /// Which.
        path: PathBuf,
        /// Where; one more than there are for what is missing.
        line: usize,
        /// What is wrong.
        what: String,
    },
    /// The policy in force has no canary of the name.
    #[error("there is no canary to roll out")]
    NoCanary(#[source] ConfigError),
    /// All calls of the selection share one key, so they would all go over one arm and there would be nothing to compare.
    #[error("a rollout cannot compare the arms if all calls share one key")]
    SharedKey(#[source] ConfigError),
    /// It was started outside of a tokio runtime.
    #[error("a rollout needs a tokio runtime")]
    NoRuntime,
}

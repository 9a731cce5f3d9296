use std::{io, path::PathBuf};

use crate::ConfigError;

/// Why a rollout did not begin. The canary's share is then 0, if there is such a canary.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RolloutError {
    /// The state file could not be read.
    #[error("the rollout's state {} cannot be read", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The cause.
        #[source]
        source: io::Error,
    },
    /// The state file is damaged, or another rollout's. A person has to mend it, or remove it to begin at the first stage.
    #[error("the rollout's state {} line {line}: {what}; mend the file, or remove it to begin at the first stage", path.display())]
    Corrupt {
        /// The file.
        path: PathBuf,
        /// The line; one more than the file has if something is missing.
        line: usize,
        /// The error.
        what: String,
    },
    /// The policy in force has no canary of this name.
    #[error("there is no canary to roll out")]
    NoCanary(#[source] ConfigError),
    /// All calls of the selection share one key, so they would all go over one arm and there would be nothing to compare.
    #[error("a rollout cannot compare the arms if all calls share one key")]
    SharedKey(#[source] ConfigError),
    /// It was started outside of a tokio runtime.
    #[error("a rollout needs a tokio runtime")]
    NoRuntime,
}

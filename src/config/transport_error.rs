use std::{
    io,
    path::{Path, PathBuf},
};

use tower_iroh_layers::{ConfigError, authorize::PolicyError};

use crate::{
    peer::identity::IdentityError,
    server::{BindError, ServerError},
};

/// Why there is no [`Transport`](crate::Transport).
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum TransportError {
    /// A setting is not accepted.
    #[error("the transport's settings are not valid")]
    Config(#[from] ConfigError),
    /// The identity file cannot be used.
    #[error("there is no identity")]
    Identity(#[from] IdentityError),
    /// The policy file cannot be read.
    #[error("cannot read the policy {}", path.display())]
    ReadPolicy {
        /// The policy file.
        path: PathBuf,
        /// The cause.
        source: io::Error,
    },
    /// The policy file is not a valid policy.
    #[error("the policy {} is not valid", path.display())]
    Policy {
        /// The policy file.
        path: PathBuf,
        /// The cause.
        source: PolicyError,
    },
    /// A transport could not be bound.
    #[error(transparent)]
    Bind(BindError),
    /// The server could not be made.
    #[error("there is no server")]
    Server(#[from] ServerError),
}

impl TransportError {
    pub(super) fn policy(path: &Path, source: PolicyError) -> Self {
        let path = path.to_owned();
        Self::Policy { path, source }
    }
}

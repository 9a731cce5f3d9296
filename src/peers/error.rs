use tonic::Status;

use crate::peer::TransportKind;
use tower_iroh_layers::ConfigError;

/// A channel that cannot be made.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PeersError {
    /// No peer has this name.
    #[error("no peer has the name {0:?}; add it to the directory first")]
    Unknown(String),
    /// The directory has no links over this transport.
    #[error("the directory has no links over {0}")]
    NoTransport(TransportKind),
    /// The settings of the channel are not valid.
    #[error("the channel's settings are not valid")]
    Channel(#[from] ConfigError),
}

impl From<PeersError> for Status {
    /// NOT_FOUND for a name that no peer has, FAILED_PRECONDITION otherwise.
    fn from(error: PeersError) -> Self {
        match &error {
            PeersError::Unknown(_) => Self::not_found(error.to_string()),
            PeersError::NoTransport(_) => Self::failed_precondition(error.to_string()),
            PeersError::Channel(cause) => Self::failed_precondition(format!("{error}: {cause}")),
        }
    }
}

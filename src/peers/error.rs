use tonic::Status;

use crate::peer::TransportKind;
use tower_iroh_layers::ConfigError;

/// Why there is no channel.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PeersError {
    /// Nobody has this name.
    #[error("no peer is called {0:?}")]
    Unknown(String),
    /// There are no links over this transport.
    #[error("no call can go over {0} here: the directory has no links over it")]
    NoTransport(TransportKind),
    /// The channel cannot be made with its settings.
    #[error("the channel cannot be made")]
    Channel(#[from] ConfigError),
}

impl From<PeersError> for Status {
    /// NOT_FOUND for a name that nobody has, FAILED_PRECONDITION for settings that cannot be.
    fn from(error: PeersError) -> Self {
        match &error {
            PeersError::Unknown(_) => Self::not_found(error.to_string()),
            PeersError::NoTransport(_) => Self::failed_precondition(error.to_string()),
            PeersError::Channel(cause) => Self::failed_precondition(format!("{error}: {cause}")),
        }
    }
}

use std::fmt;

use crate::peer::TransportKind;
use tower_iroh_layers::ConfigError;

/// Why a [`Server`](super::Server) did not start, or ended.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ServerError {
    /// A setting is not valid.
    #[error("the server's settings are not valid")]
    Config(#[from] ConfigError),
    /// A required transport could not be bound. The other one, if it was bound, has been released.
    #[error(transparent)]
    Bind(BindError),
    /// One of two transports was required, and neither could be bound.
    #[error("{iroh}; {tcp}")]
    Neither {
        /// Why iroh could not be bound.
        iroh: BindError,
        /// Why TCP could not be bound.
        #[source]
        tcp: BindError,
    },
    /// tonic's server failed.
    #[error("the server failed")]
    Serve(#[source] tonic::transport::Error),
}

/// A transport that could not be bound.
#[derive(Debug)]
pub struct BindError {
    transport: TransportKind,
    place: String,
    source: super::BoxError,
}

impl BindError {
    pub(crate) fn new(
        transport: TransportKind,
        place: impl fmt::Display,
        source: impl Into<super::BoxError>,
    ) -> Self {
        Self {
            transport,
            place: place.to_string(),
            source: source.into(),
        }
    }

    /// The cause in words, for a log.
    pub(super) fn source_text(&self) -> String {
        self.source.to_string()
    }

    /// Which transport.
    pub fn transport(&self) -> TransportKind {
        self.transport
    }
}

impl fmt::Display for BindError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            transport, place, ..
        } = self;
        write!(f, "cannot listen over {transport} ({place})")
    }
}

impl std::error::Error for BindError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        Some(&*self.source)
    }
}

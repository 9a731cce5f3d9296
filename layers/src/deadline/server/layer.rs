use std::time::Duration;

use tower::Layer;

use super::ServerDeadline;
use crate::{ConfigError, setters::setters};

/// Gives each incoming call one deadline: see the [module](crate::deadline).
#[derive(Clone, Copy, Debug, Default)]
pub struct ServerDeadlineLayer {
    limits: ServerDeadlineBuilder,
}

impl ServerDeadlineLayer {
    /// A layer that enforces the deadlines of calls, and gives none to those without.
    pub fn new() -> Self {
        Self::default()
    }

    /// Builds a layer with settings.
    pub fn builder() -> ServerDeadlineBuilder {
        ServerDeadlineBuilder::default()
    }
}

/// Settings of a [`ServerDeadlineLayer`].
#[derive(Clone, Copy, Debug, Default)]
pub struct ServerDeadlineBuilder {
    pub(super) default_timeout: Option<Duration>,
    pub(super) max_timeout: Option<Duration>,
}

impl ServerDeadlineBuilder {
    setters! {
        /// The time of a call without a deadline; none by default.
        pub fn default_timeout(limit: Duration) => default_timeout = Some(limit);

        /// The most time that any call has, with a deadline or without; none by default. It does not end a response whose caller does not
        /// read, until the caller reads on or its connection closes: meanwhile the server does not poll the response.
        pub fn max_timeout(limit: Duration) => max_timeout = Some(limit);
    }

    /// The layer.
    ///
    /// # Errors
    /// When a time-out is zero, or the default is above the maximum.
    pub fn build(self) -> Result<ServerDeadlineLayer, ConfigError> {
        const DEFAULT: &str = "deadline.default_timeout";
        if let Some(limit) = self.default_timeout {
            ConfigError::lasting(DEFAULT, limit)?;
        }
        if let Some(limit) = self.max_timeout {
            ConfigError::lasting("deadline.max_timeout", limit)?;
        }
        if let (Some(limit), Some(most)) = (self.default_timeout, self.max_timeout) {
            let accepted = format!("must be at most deadline.max_timeout, {most:?}");
            ConfigError::require(limit <= most, DEFAULT, limit, accepted)?;
        }
        Ok(ServerDeadlineLayer { limits: self })
    }
}

impl<S> Layer<S> for ServerDeadlineLayer {
    type Service = ServerDeadline<S>;

    fn layer(&self, inner: S) -> ServerDeadline<S> {
        ServerDeadline::new(inner, self.limits)
    }
}

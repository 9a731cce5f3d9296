use std::time::Duration;

use tower::Layer;

use super::ServerDeadline;
use crate::ConfigError;

/// Gives each incoming call one clock: see the [module](crate::deadline).
#[derive(Clone, Copy, Debug, Default)]
pub struct ServerDeadlineLayer {
    limits: ServerDeadlineBuilder,
}

impl ServerDeadlineLayer {
    /// A layer that keeps the deadlines which calls come with, and gives none to those without.
    pub fn new() -> Self {
        Self::default()
    }

    /// What has settings.
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
    /// What a call has that comes without a deadline; none by default.
    pub fn default_timeout(mut self, limit: Duration) -> Self {
        self.default_timeout = Some(limit);
        self
    }

    /// The most that any call has, with a deadline or without; none by default. It does not reach a response whose caller does not read
    /// it, until the caller does or its connection closes: the server does not poll that meanwhile.
    pub fn max_timeout(mut self, limit: Duration) -> Self {
        self.max_timeout = Some(limit);
        self
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
        if let (Some(limit), Some(most)) = (self.default_timeout, self.max_timeout)
            && limit > most
        {
            let accepted = format!("must be at most deadline.max_timeout, {most:?}");
            return Err(ConfigError::new(
                DEFAULT,
                format_args!("{limit:?}"),
                accepted,
            ));
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

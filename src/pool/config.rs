//! What a pool is configured with, over either transport.

use std::time::Duration;

use tokio::runtime::Handle;
use tower_iroh_layers::ConfigError;

use super::{Allowed, backoff::Bounds};

/// Settings of a pool; each is documented at its setter on [`LinksBuilder`](super::LinksBuilder).
#[derive(Clone, Debug)]
pub(crate) struct PoolConfig {
    pub(super) max_connections: usize,
    pub(crate) dial_timeout: Duration,
    pub(super) backoff: Bounds,
    pub(crate) idle_timeout: Duration,
    pub(crate) health_interval: Duration,
    pub(super) runtime: Option<Handle>,
    pub(super) allowed: Allowed,
}

impl Default for PoolConfig {
    fn default() -> Self {
        Self {
            max_connections: 100,
            dial_timeout: Duration::from_secs(10),
            backoff: Bounds {
                min: Duration::from_millis(100),
                max: Duration::from_secs(30),
            },
            idle_timeout: Duration::from_secs(300),
            health_interval: Duration::from_secs(30),
            runtime: None,
            allowed: Allowed::default(),
        }
    }
}

impl PoolConfig {
    /// The runtime that was given.
    pub(crate) fn runtime(&self) -> Option<Handle> {
        self.runtime.clone()
    }

    /// Refuses what cannot be, by name.
    pub(crate) fn validate(&self) -> Result<(), ConfigError> {
        ConfigError::nonzero("links.max_connections", self.max_connections)?;
        if self.max_connections > tokio::sync::Semaphore::MAX_PERMITS {
            return Err(ConfigError::new(
                "links.max_connections",
                self.max_connections,
                format!("at most {}", tokio::sync::Semaphore::MAX_PERMITS),
            ));
        }
        ConfigError::lasting("links.dial_timeout", self.dial_timeout)?;
        ConfigError::lasting("links.backoff.min", self.backoff.min)?;
        ConfigError::lasting("links.backoff.max", self.backoff.max)?;
        ConfigError::lasting("links.idle_timeout", self.idle_timeout)?;
        ConfigError::lasting("links.health_interval", self.health_interval)?;
        if self.backoff.min > self.backoff.max {
            return Err(ConfigError::new(
                "links.backoff.min",
                format_args!("{:?}", self.backoff.min),
                format!("must not exceed links.backoff.max ({:?})", self.backoff.max),
            ));
        }
        Ok(())
    }
}

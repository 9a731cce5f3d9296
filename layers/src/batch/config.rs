use std::time::Duration;

use tokio::sync::Semaphore;

use crate::{ConfigError, setters::setters};

/// Longer than this, a window would be felt.
const LONGEST_WINDOW: Duration = Duration::from_millis(10);

/// How large a batch may be, and how long an item may wait for company.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BatchConfig {
    pub(super) max_items: usize,
    pub(super) max_bytes: usize,
    pub(super) max_waiting: usize,
    pub(super) window: Duration,
}

impl BatchConfig {
    /// A builder with the defaults.
    pub fn builder() -> BatchConfigBuilder {
        BatchConfigBuilder::default()
    }
}

impl Default for BatchConfig {
    /// Batches of at most 128 items and 1 MiB, no window, 1,024 items that wait.
    fn default() -> Self {
        Self {
            max_items: 128,
            max_bytes: 1 << 20,
            max_waiting: 1024,
            window: Duration::ZERO,
        }
    }
}

/// Makes a [`BatchConfig`].
#[derive(Clone, Copy, Debug, Default)]
#[must_use]
pub struct BatchConfigBuilder {
    config: BatchConfig,
}

impl BatchConfigBuilder {
    setters! {
        /// How many items a batch may have. 128 unless set.
        pub fn max_items(items: usize) => config.max_items = items;

        /// How many bytes a batch may have, by the size function. 1 MiB unless set. An item that is larger by itself goes alone.
        pub fn max_bytes(bytes: usize) => config.max_bytes = bytes;

        /// How many items may wait, beside those in flight; beyond it the service is not ready. 1,024 unless set.
        pub fn max_waiting(items: usize) => config.max_waiting = items;

        /// How long an item may wait for company when nothing is in flight. Zero unless set, which sends at once; 10 ms at most.
        pub fn window(window: Duration) => config.window = window;
    }

    /// The configuration.
    ///
    /// # Errors
    /// A limit of zero, a window above 10 ms, or fewer items that may wait than a batch has.
    pub fn build(self) -> Result<BatchConfig, ConfigError> {
        let config = self.config;
        ConfigError::nonzero("batch.max_items", config.max_items)?;
        ConfigError::nonzero("batch.max_bytes", config.max_bytes)?;
        let range = config.max_items..=Semaphore::MAX_PERMITS;
        let accepted = format!(
            "{} (max_items) to {} is accepted",
            range.start(),
            range.end()
        );
        let waiting = config.max_waiting;
        ConfigError::require(
            range.contains(&waiting),
            "batch.max_waiting",
            waiting,
            accepted,
        )?;
        let window = config.window;
        ConfigError::require(
            window <= LONGEST_WINDOW,
            "batch.window",
            window,
            "at most 10 ms",
        )?;
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edges_are_refused_and_named() {
        let field = |builder: BatchConfigBuilder| {
            let error = builder.build().expect_err("refused");
            error.field()
        };
        let builder = BatchConfig::builder;
        assert_eq!(builder().build(), Ok(BatchConfig::default()));
        assert!(builder().window(LONGEST_WINDOW).build().is_ok());
        let long = builder().window(LONGEST_WINDOW + Duration::from_nanos(1));
        assert_eq!(field(long), "batch.window");
        assert_eq!(field(builder().max_items(0)), "batch.max_items");
        assert_eq!(field(builder().max_bytes(0)), "batch.max_bytes");
        assert_eq!(field(builder().max_waiting(127)), "batch.max_waiting");
        let endless = builder().max_waiting(usize::MAX);
        assert_eq!(field(endless), "batch.max_waiting");
    }
}

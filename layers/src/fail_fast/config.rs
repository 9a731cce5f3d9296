use std::{sync::Arc, time::Duration};

use crate::{ConfigError, hidden::Hidden, setters::setters};

pub(super) type Reason = Arc<dyn Fn() -> String + Send + Sync>;

/// How long a service may be not ready, and the reason to report.
#[derive(Clone, Debug)]
pub struct FailFastConfig {
    pub(super) wait: Duration,
    pub(super) reason: Option<Hidden<Reason>>,
    pub(super) disabled: bool,
}

impl FailFastConfig {
    /// A wait of 2 s, and no reason.
    ///
    /// Two seconds cover a usual reconnect: a dial over a relay after a try or two, or a circuit breaker's first wait (at most 1 s) and its
    /// probe. They are well under usual deadlines, 5 s and more, so a caller still has time to go elsewhere.
    pub const WAIT: Duration = Duration::from_secs(2);

    /// Never fails calls: a call waits for as long as its caller does.
    pub fn disabled() -> Self {
        Self {
            disabled: true,
            ..Self::default()
        }
    }

    /// The wait; `None` if it is [disabled](Self::disabled).
    pub fn max_wait(&self) -> Option<Duration> {
        (!self.disabled).then_some(self.wait)
    }

    /// Sets `reason` if there is none.
    pub fn or_reason(mut self, reason: impl Fn() -> String + Send + Sync + 'static) -> Self {
        self.reason.get_or_insert_with(|| Hidden(Arc::new(reason)));
        self
    }

    /// Begins with the defaults.
    pub fn builder() -> FailFastConfigBuilder {
        FailFastConfigBuilder(Self::default())
    }
}

impl Default for FailFastConfig {
    /// [`WAIT`](Self::WAIT), and no reason.
    fn default() -> Self {
        Self {
            wait: Self::WAIT,
            reason: None,
            disabled: false,
        }
    }
}

/// Makes a [`FailFastConfig`].
#[derive(Clone, Debug)]
#[must_use]
pub struct FailFastConfigBuilder(FailFastConfig);

/// A wait beyond all deadlines would never act.
const LONGEST: Duration = Duration::from_secs(3600);

impl FailFastConfigBuilder {
    setters! {
        /// How long the inner service may be not ready before calls fail; above zero and at most an hour. 2 s unless set.
        pub fn wait(wait: Duration) => 0.wait = wait;

        /// Called for each call that fails, for its message: a circuit breaker's `why`, for example. It must not block.
        pub fn reason(reason: impl Fn() -> String + Send + Sync + 'static) => 0.reason = Some(Hidden(Arc::new(reason)));
    }

    /// Checks the settings.
    ///
    /// # Errors
    /// When the wait is zero or longer than an hour.
    pub fn build(self) -> Result<FailFastConfig, ConfigError> {
        let wait = self.0.wait;
        ConfigError::lasting("fail_fast.wait", wait)?;
        let accepted = format!("must be at most {LONGEST:?}");
        ConfigError::require(wait <= LONGEST, "fail_fast.wait", wait, accepted)?;
        Ok(self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_and_for_ever_are_refused() {
        let build = |wait| FailFastConfig::builder().wait(wait).build();
        for wait in [Duration::ZERO, Duration::MAX] {
            assert_eq!(build(wait).expect_err("refused").field(), "fail_fast.wait");
        }
        assert!(build(FailFastConfig::WAIT).is_ok());
    }
}

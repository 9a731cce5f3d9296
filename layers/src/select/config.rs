use std::{sync::Arc, time::Duration};

use super::{Arm, StickyKey};
use crate::{ConfigError, hidden::Hidden, setters::setters};

type Why = Arc<dyn Fn(Arm) -> String + Send + Sync>;

/// The settings for every policy: how long to wait for an arm, and when to return to it.
#[derive(Clone, Debug)]
pub struct SelectConfig {
    pub(super) wait: Option<Duration>,
    pub(super) head_start: Duration,
    pub(super) dwell: Duration,
    pub(super) probe_every: Duration,
    pub(super) max_buffered: usize,
    pub(super) sticky_key: Option<StickyKey>,
    pub(super) response_header: bool,
    pub(super) why: Option<Hidden<Why>>,
}

impl Default for SelectConfig {
    fn default() -> Self {
        Self {
            wait: Some(Duration::from_secs(2)),
            head_start: Duration::ZERO,
            dwell: Duration::from_secs(5),
            probe_every: Duration::from_secs(1),
            max_buffered: 256 << 10,
            sticky_key: None,
            response_header: false,
            why: None,
        }
    }
}

impl SelectConfig {
    /// Begins with the defaults.
    pub fn builder() -> SelectConfigBuilder {
        SelectConfigBuilder(Self::default())
    }
}

/// Makes a [`SelectConfig`].
#[derive(Clone, Debug)]
#[must_use]
pub struct SelectConfigBuilder(SelectConfig);

/// Above all deadlines, none of them would act.
const LONGEST: Duration = Duration::from_secs(3600);

impl SelectConfigBuilder {
    setters! {
        /// How long an arm may be not ready before the calls that need it fail: 2 s, as with [`fail_fast`](https://docs.rs/tower-iroh-layers).
        /// `None` leaves it to their deadlines.
        pub fn wait(wait: impl Into<Option<Duration>>) => 0.wait = wait.into();

        /// How long a preferred arm may be not ready before its calls go over the other one: zero unless set. It lets a dial that has just begun win against
        /// an arm that is ready already.
        pub fn head_start(time: Duration) => 0.head_start = time;

        /// How long an arm has to be ready, with no failed call, before the calls that left it return: 5 s.
        pub fn dwell(dwell: Duration) => 0.dwell = dwell;

        /// How often a call probes an arm that has just come back: once a second.
        pub fn probe_every(time: Duration) => 0.probe_every = time;

        /// How much of one request is kept, until its answer begins, in case the arm fails before anything was sent; in bytes: 256 KiB. A unary request is one
        /// piece and costs no copy. A larger request does not fall back once more than this was read.
        pub fn max_buffered(bytes: usize) => 0.max_buffered = bytes;

        /// The key for canaries of calls without one: none, so each call is its own key. With the caller's own identity all its calls stay on one arm, after a
        /// restart too. Use it for a canary whose share is set by hand: a [rollout](crate::rollout) compares calls over both arms, and refuses it.
        pub fn sticky_key(key: StickyKey) => 0.sticky_key = Some(key);

        /// Whether each response has a header [`tower-iroh-selected`](super::SELECTED): no unless set. The header is for people; programs find
        /// [`Selected`](super::Selected) in the response's extensions.
        pub fn response_header(yes: bool) => 0.response_header = yes;

        /// Returns why an arm is not ready, for the message of a failed call: a circuit breaker's `why`, for example. It must not block.
        pub fn why(why: impl Fn(Arm) -> String + Send + Sync + 'static) => 0.why = Some(Hidden(Arc::new(why)));
    }

    /// Checks the settings.
    ///
    /// # Errors
    /// When a time that must not be is zero, a time is longer than an hour, or the head start is not below the wait.
    pub fn build(self) -> Result<SelectConfig, ConfigError> {
        let built = self.0;
        let wait = built.wait.unwrap_or(LONGEST);
        ConfigError::lasting("select.wait", wait)?;
        ConfigError::lasting("select.probe_every", built.probe_every)?;
        for (field, value) in [
            ("select.wait", wait),
            ("select.head_start", built.head_start),
            ("select.dwell", built.dwell),
            ("select.probe_every", built.probe_every),
        ] {
            ConfigError::require(
                value <= LONGEST,
                field,
                value,
                "at most an hour is accepted",
            )?;
        }
        let head_start = built.head_start;
        let accepted = format!("must be below select.wait, {wait:?}");
        ConfigError::require(head_start < wait, "select.head_start", head_start, accepted)?;
        Ok(built)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_cannot_be_are_refused() {
        let new = SelectConfig::builder;
        let field = |builder: SelectConfigBuilder| builder.build().expect_err("refused").field();
        assert_eq!(field(new().wait(Duration::ZERO)), "select.wait");
        assert_eq!(field(new().wait(Duration::MAX)), "select.wait");
        assert_eq!(field(new().dwell(Duration::MAX)), "select.dwell");
        assert_eq!(
            field(new().probe_every(Duration::ZERO)),
            "select.probe_every"
        );
        let two = Duration::from_secs(2);
        assert_eq!(field(new().head_start(two)), "select.head_start");
        assert!(new().head_start(two).wait(None).build().is_ok());
        assert!(new().dwell(Duration::ZERO).build().is_ok());
    }
}

use std::{ops::RangeInclusive, time::Duration};

use crate::{ConfigError, MethodSet, setters::setters};

/// When a circuit opens, and for how long.
///
/// | setting | default |
/// |---|---|
/// | [`failure_threshold`](BreakerConfigBuilder::failure_threshold) | 5 failures in a row |
/// | [`link_threshold`](BreakerConfigBuilder::link_threshold) | 2 link failures in a row |
/// | [`failure_rate`](BreakerConfigBuilder::failure_rate) | 0.5 |
/// | [`min_calls`](BreakerConfigBuilder::min_calls) | 20 |
/// | [`window`](BreakerConfigBuilder::window) | 10 s |
/// | [`first_wait`](BreakerConfigBuilder::first_wait) | 1 s |
/// | [`recovery`](BreakerConfigBuilder::recovery) | 30 s |
/// | [`observe_only`](BreakerConfigBuilder::observe_only) | no |
/// | [`application_errors`](BreakerConfigBuilder::application_errors) | for no method |
#[derive(Clone, Debug, PartialEq)]
pub struct BreakerConfig {
    pub(super) run: Option<u32>,
    pub(super) link: u32,
    pub(super) rate: f64,
    pub(super) min_calls: u32,
    pub(super) window: Duration,
    pub(super) first_wait: Duration,
    pub(super) recovery: Duration,
    pub(super) observe_only: bool,
    /// The methods whose application errors count.
    counted: MethodSet,
    counts_all: bool,
}

impl Default for BreakerConfig {
    fn default() -> Self {
        Self {
            run: Some(5),
            link: 2,
            rate: 0.5,
            min_calls: 20,
            window: Duration::from_secs(10),
            first_wait: Duration::from_secs(1),
            recovery: Duration::from_secs(30),
            observe_only: false,
            counted: MethodSet::default(),
            counts_all: false,
        }
    }
}

impl BreakerConfig {
    /// Begins with the defaults.
    pub fn builder() -> BreakerConfigBuilder {
        BreakerConfigBuilder {
            config: Self::default(),
            application_errors: Vec::new(),
        }
    }

    /// Whether an application error from the method at `path` counts.
    #[inline]
    pub(super) fn counts_application(&self, path: &str) -> bool {
        self.counts_all || self.counted.contains(path)
    }
}

/// Makes a [`BreakerConfig`].
#[derive(Clone, Debug)]
#[must_use]
pub struct BreakerConfigBuilder {
    config: BreakerConfig,
    application_errors: Vec<String>,
}

/// The window's shortest and longest value; a bucket of its ring is a tenth of it.
const WINDOW: RangeInclusive<Duration> = Duration::from_millis(100)..=Duration::from_secs(3600);
/// A bucket of the ring can hold more than this.
const MOST_CALLS: u32 = 100_000;
const LONGEST_WAIT: Duration = Duration::from_secs(86_400);

impl BreakerConfigBuilder {
    setters! {
        /// This many failures in a row open the circuit; `None` switches the rule off. Link failures count here too.
        pub fn failure_threshold(failures: impl Into<Option<u32>>) => config.run = failures.into();

        /// This many link failures in a row open the circuit. One lost connection counts once, however many calls it ended. Any answer from the
        /// peer ends the run, even a failure.
        pub fn link_threshold(failures: u32) => config.link = failures;

        /// The share of the calls in the window that must have failed, above 0 and at most 1.
        pub fn failure_rate(share: f64) => config.rate = share;

        /// The share counts only once the window has this many calls; at most 100,000.
        pub fn min_calls(calls: u32) => config.min_calls = calls;

        /// The length of the window for the share, 100 ms to an hour. It slides by tenths.
        pub fn window(window: Duration) => config.window = window;

        /// The longest that the circuit stays open the first time. Each further opening doubles it, up to [`recovery`](Self::recovery). The wait
        /// is drawn from zero to this (full jitter), so that a thousand clients do not come back at once.
        pub fn first_wait(wait: Duration) => config.first_wait = wait;

        /// The longest that the circuit stays open without trying again; at most a day. Also how long a probe may go without any answer before
        /// another one is let in.
        pub fn recovery(time: Duration) => config.recovery = time;

        /// Whether circuits begin without enforcing anything: they record, and say what they would do.
        pub fn observe_only(observe_only: bool) => config.observe_only = observe_only;
    }

    /// Counts INTERNAL, UNKNOWN and DATA_LOSS in answers of the peer's application for these methods: `/pkg.Svc/Method`, `/pkg.Svc/*` or
    /// `pkg.Svc` for all methods of a service, `*` for all methods. Adds to those listed before. None unless set.
    ///
    /// Such an answer shows that the peer is there. So a listed method can make the circuit refuse all other methods of the peer too.
    pub fn application_errors<M: Into<String>>(
        mut self,
        methods: impl IntoIterator<Item = M>,
    ) -> Self {
        let methods = methods.into_iter().map(Into::into);
        self.application_errors.extend(methods);
        self
    }

    /// Checks the settings.
    ///
    /// # Errors
    /// When a setting is zero, not a number or out of its range, contradicts another, or names no method.
    pub fn build(self) -> Result<BreakerConfig, ConfigError> {
        let mut config = self.config;
        ConfigError::nonzero("breaker.failure_threshold", config.run.unwrap_or(1))?;
        ConfigError::nonzero("breaker.link_threshold", config.link)?;
        ConfigError::share("breaker.failure_rate", config.rate)?;
        ConfigError::require(
            config.rate > 0.0,
            "breaker.failure_rate",
            config.rate,
            "must be above 0, or one failure would be too many",
        )?;
        ConfigError::within("breaker.min_calls", config.min_calls, 1..=MOST_CALLS)?;
        ConfigError::within("breaker.window", config.window, WINDOW)?;
        ConfigError::lasting("breaker.first_wait", config.first_wait)?;
        ConfigError::lasting("breaker.recovery", config.recovery)?;
        ConfigError::within(
            "breaker.recovery",
            config.recovery,
            config.first_wait..=LONGEST_WAIT,
        )?;
        let (all, methods): (Vec<_>, Vec<_>) =
            (self.application_errors.iter()).partition(|method| *method == "*");
        config.counts_all = !all.is_empty();
        config.counted = MethodSet::try_new("breaker.application_errors", methods)?;
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_defaults_are_accepted_and_are_the_mission_s() {
        let config = BreakerConfig::builder().build().expect("defaults");
        assert_eq!(config, BreakerConfig::default());
        assert_eq!(
            (config.run, config.recovery),
            (Some(5), Duration::from_secs(30))
        );
    }

    #[test]
    fn zero_nan_and_contradictions_are_refused() {
        let new = BreakerConfig::builder;
        for (field, builder) in [
            ("breaker.failure_threshold", new().failure_threshold(0)),
            ("breaker.link_threshold", new().link_threshold(0)),
            ("breaker.failure_rate", new().failure_rate(f64::NAN)),
            ("breaker.failure_rate", new().failure_rate(0.0)),
            ("breaker.failure_rate", new().failure_rate(1.01)),
            (
                "breaker.failure_rate",
                new().failure_rate(f64::NEG_INFINITY),
            ),
            ("breaker.min_calls", new().min_calls(0)),
            ("breaker.min_calls", new().min_calls(u32::MAX)),
            ("breaker.window", new().window(Duration::ZERO)),
            ("breaker.window", new().window(Duration::MAX)),
            ("breaker.first_wait", new().first_wait(Duration::ZERO)),
            ("breaker.recovery", new().recovery(Duration::ZERO)),
            ("breaker.recovery", new().recovery(Duration::MAX)),
            (
                "breaker.recovery",
                new().first_wait(Duration::from_secs(31)),
            ),
            (
                "breaker.application_errors",
                new().application_errors(["/*/Get"]),
            ),
        ] {
            let error = builder.build().expect_err(field);
            assert_eq!(error.field(), field);
        }
        let off = new().failure_threshold(None).build();
        assert_eq!(off.expect("the rule can be off").run, None);
    }
}

//! Which arm is better, by measurements.

mod controller;
mod core;

use std::time::Duration;

use super::{
    Arm,
    canary::{basis_points, window},
};
use crate::{ConfigError, setters::setters};

pub(super) use controller::Controller;

/// Calls go over the arm that answers sooner.
///
/// The time to the response's head and the failures of real calls are measured, in a sliding window per arm. A small share of the calls probes the arm that is
/// not in use. One arm is [preferred](AdaptiveBuilder::prefer). Calls leave it when the other arm's [quantile](AdaptiveBuilder::quantile) is better by both
/// minimum gains. They return when the other arm is no longer better by half of them. With a [threshold](AdaptiveBuilder::latency_threshold) they leave
/// while the preferred arm's quantile is at least the threshold and the other arm's is lower or unknown. They return when it is below the threshold by the minimum
/// gain ratio, or when the other arm is worse by both minimum gains. An arm that is not ready, or of whose calls
/// too many fail, loses. If, with few calls, a minute of probes does not tell enough of the preferred arm, calls return to it too. In all cases there is at
/// most one switch per [dwell](AdaptiveBuilder::dwell).
///
/// The arms are compared by the calls of one rule of the policy: give naturally slow calls a rule of their own.
#[derive(Clone, Debug, PartialEq)]
pub struct Adaptive {
    prefer: Arm,
    quantile: f64,
    window: Duration,
    min_samples: u64,
    min_gain: Duration,
    min_gain_ratio: f64,
    dwell: Duration,
    probe_share: u32,
    probe_every: Duration,
    max_failures: f64,
    threshold: Option<Duration>,
}

impl Default for Adaptive {
    fn default() -> Self {
        Self {
            prefer: Arm::First,
            quantile: 0.9,
            window: Duration::from_secs(10),
            min_samples: 5,
            min_gain: Duration::from_millis(1),
            min_gain_ratio: 0.2,
            dwell: Duration::from_secs(5),
            probe_share: 100,
            probe_every: Duration::from_secs(1),
            max_failures: 0.25,
            threshold: None,
        }
    }
}

impl Adaptive {
    pub(super) fn window(&self) -> Duration {
        self.window
    }

    /// Begins with the defaults.
    pub fn builder() -> AdaptiveBuilder {
        AdaptiveBuilder(Self::default())
    }
}

/// Makes an [`Adaptive`].
#[derive(Clone, Debug)]
#[must_use]
pub struct AdaptiveBuilder(Adaptive);

impl AdaptiveBuilder {
    setters! {
        /// The arm to begin with, and to return to: the first.
        pub fn prefer(arm: Arm) => 0.prefer = arm;

        /// The quantile of the latencies that is compared: 0.9, which nine of ten calls do not exceed.
        pub fn quantile(quantile: f64) => 0.quantile = quantile;

        /// How long a sample counts: 10 s; 1 s to an hour.
        pub fn window(window: Duration) => 0.window = window;

        /// How many samples within the window an arm needs to be judged: 5.
        pub fn min_samples(samples: u64) => 0.min_samples = samples;

        /// The absolute gain that the other arm needs: 1 ms.
        pub fn min_gain(gain: Duration) => 0.min_gain = gain;

        /// The relative gain that it needs too, as a share: 0.2, so a fifth less.
        pub fn min_gain_ratio(share: f64) => 0.min_gain_ratio = share;

        /// The shortest time between two switches: 5 s.
        pub fn dwell(dwell: Duration) => 0.dwell = dwell;

        /// The share of the traffic that probes the arm that is not in use, in basis points: 100, one call in a hundred. 0 leaves probing to
        /// [`probe_every`](Self::probe_every).
        pub fn probe_share(basis_points: u32) => 0.probe_share = basis_points;

        /// After this long without a probe, one of the next calls is a probe: 1 s. While calls come steadily there is a probe within twice this time. With few
        /// calls about one in five is a probe.
        pub fn probe_every(time: Duration) => 0.probe_every = time;

        /// An arm loses if at least this share of its calls fails: 0.25.
        pub fn max_failures(share: f64) => 0.max_failures = share;

        /// Calls stay on the preferred arm while its quantile is below this, however much better the other is. No threshold unless set.
        pub fn latency_threshold(threshold: Duration) => 0.threshold = Some(threshold);
    }

    /// Checks the settings.
    ///
    /// # Errors
    /// When the quantile or a share is not within 0 to 1, the window is not within 1 s to 1 h, another time is longer than an hour, or a number that must not
    /// be is zero.
    pub fn build(self) -> Result<Adaptive, ConfigError> {
        const LONGEST: Duration = Duration::from_secs(3600);
        let built = self.0;
        ConfigError::share("select.adaptive.quantile", built.quantile)?;
        window("select.adaptive.window", built.window)?;
        ConfigError::nonzero("select.adaptive.min_samples", built.min_samples)?;
        ConfigError::share("select.adaptive.min_gain_ratio", built.min_gain_ratio)?;
        basis_points("select.adaptive.probe_share", built.probe_share)?;
        ConfigError::share("select.adaptive.max_failures", built.max_failures)?;
        ConfigError::require(
            built.max_failures > 0.0,
            "select.adaptive.max_failures",
            built.max_failures,
            "above 0.0 is accepted: an arm without a failure would fail",
        )?;
        ConfigError::within(
            "select.adaptive.min_gain",
            built.min_gain,
            Duration::ZERO..=LONGEST,
        )?;
        for (field, value) in [
            ("select.adaptive.dwell", built.dwell),
            ("select.adaptive.probe_every", built.probe_every),
            (
                "select.adaptive.latency_threshold",
                built.threshold.unwrap_or(LONGEST),
            ),
        ] {
            ConfigError::within(field, value, Duration::from_nanos(1)..=LONGEST)?;
        }
        Ok(built)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_cannot_be_are_refused() {
        let new = Adaptive::builder;
        let field = |builder: AdaptiveBuilder| builder.build().expect_err("refused").field();
        assert_eq!(field(new().quantile(1.1)), "select.adaptive.quantile");
        assert_eq!(field(new().quantile(f64::NAN)), "select.adaptive.quantile");
        assert_eq!(
            field(new().window(Duration::ZERO)),
            "select.adaptive.window"
        );
        assert_eq!(field(new().min_samples(0)), "select.adaptive.min_samples");
        assert_eq!(
            field(new().min_gain_ratio(-0.1)),
            "select.adaptive.min_gain_ratio"
        );
        assert_eq!(field(new().dwell(Duration::ZERO)), "select.adaptive.dwell");
        assert_eq!(field(new().dwell(Duration::MAX)), "select.adaptive.dwell");
        assert_eq!(
            field(new().probe_share(10_001)),
            "select.adaptive.probe_share"
        );
        assert_eq!(
            field(new().probe_every(Duration::ZERO)),
            "select.adaptive.probe_every"
        );
        assert_eq!(
            field(new().max_failures(0.0)),
            "select.adaptive.max_failures"
        );
        assert_eq!(
            field(new().latency_threshold(Duration::ZERO)),
            "select.adaptive.latency_threshold"
        );
        assert_eq!(new().build(), Ok(Adaptive::default()));
    }
}

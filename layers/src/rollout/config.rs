use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use super::Gates;
use crate::{ConfigError, select::Canary, setters::setters};

/// How a canary's share grows, and its conditions.
#[derive(Clone, Debug)]
pub struct RolloutConfig {
    pub(super) canary: String,
    pub(super) stages: Vec<u32>,
    pub(super) dwell: Duration,
    pub(super) gates: Gates,
    pub(super) tick: Duration,
    pub(super) state_file: Option<PathBuf>,
}

impl RolloutConfig {
    /// Begins with the defaults, for the canary of this name.
    pub fn builder(canary: impl Into<String>) -> RolloutConfigBuilder {
        RolloutConfigBuilder(Self {
            canary: canary.into(),
            stages: vec![500, 2500, 5000, Canary::WHOLE],
            dwell: Duration::from_secs(300),
            gates: Gates::default(),
            tick: Duration::from_secs(1),
            state_file: None,
        })
    }

    /// The canary's name.
    pub fn canary(&self) -> &str {
        &self.canary
    }

    /// The stages, in basis points.
    pub fn stages(&self) -> &[u32] {
        &self.stages
    }
}

/// Makes a [`RolloutConfig`].
#[derive(Clone, Debug)]
#[must_use]
pub struct RolloutConfigBuilder(RolloutConfig);

/// More often than this the look at the arms would keep a processor busy.
const SHORTEST_TICK: Duration = Duration::from_millis(1);
const LONGEST_DWELL: Duration = Duration::from_secs(30 * 86_400);

impl RolloutConfigBuilder {
    /// The shares, in ascending order, in basis points: 500, 2,500, 5,000 and 10,000.
    pub fn stages(mut self, basis_points: impl IntoIterator<Item = u32>) -> Self {
        self.0.stages = basis_points.into_iter().collect();
        self
    }

    setters! {
        /// The shortest time of a stage: 5 min; at most 30 days. Only time while the rollout runs counts.
        pub fn dwell(dwell: Duration) => 0.dwell = dwell;

        /// The conditions on the new arm.
        pub fn gates(gates: Gates) => 0.gates = gates;

        /// How often the arms are compared: every second.
        pub fn tick(tick: Duration) => 0.tick = tick;
    }

    /// The file that keeps its state over a restart: none unless set. Two rollouts need two files.
    pub fn state_file(mut self, path: impl AsRef<Path>) -> Self {
        self.0.state_file = Some(path.as_ref().to_owned());
        self
    }

    /// Checks the settings.
    ///
    /// # Errors
    /// When there is no stage, a stage is 0, above 10,000 or not above the one before it, the dwell is not within 1 ms to 30 days, or the tick is not within 1
    /// ms and the dwell.
    pub fn build(self) -> Result<RolloutConfig, ConfigError> {
        let built = self.0;
        let stages = &built.stages;
        let rising = stages.windows(2).all(|pair| pair[0] < pair[1]);
        let within = stages
            .iter()
            .all(|share| (1..=Canary::WHOLE).contains(share));
        ConfigError::require(
            !stages.is_empty() && rising && within,
            "rollout.stages",
            stages,
            "rising shares of 1 to 10000 basis points are accepted",
        )?;
        ConfigError::within("rollout.dwell", built.dwell, SHORTEST_TICK..=LONGEST_DWELL)?;
        ConfigError::within("rollout.tick", built.tick, SHORTEST_TICK..=built.dwell)?;
        Ok(built)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_that_cannot_be_are_refused() {
        let new = || RolloutConfig::builder("n");
        let field = |builder: RolloutConfigBuilder| builder.build().expect_err("refused").field();
        for bad in [&[][..], &[0], &[10_001], &[5, 5], &[500, 400]] {
            assert_eq!(field(new().stages(bad.iter().copied())), "rollout.stages");
        }
        assert_eq!(field(new().dwell(Duration::ZERO)), "rollout.dwell");
        assert_eq!(field(new().dwell(Duration::MAX)), "rollout.dwell");
        assert_eq!(field(new().tick(Duration::ZERO)), "rollout.tick");
        assert_eq!(field(new().tick(Duration::from_secs(301))), "rollout.tick");
        assert!(new().build().is_ok());
    }
}

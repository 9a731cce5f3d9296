//! The policy of the selection: which call goes over which transport.

use std::{collections::HashSet, time::Duration};

use iroh::EndpointId;

use super::{Config, Mode, RaftTransport, settings::RAFT};
use tower_iroh_layers::{
    ConfigError, MethodConfig, Methods,
    rollout::{Gates, RolloutConfig},
    select::{Adaptive, Arm, Canary, Choice, SelectPolicy},
};

impl Config {
    /// The name of the rollout's canary. The name is its salt, so that the same keys move first in each program.
    pub const ROLLOUT: &str = "rollout";

    /// Whether a rollout moves calls of this program.
    pub fn rolls_out(&self) -> bool {
        let moves_all = self.rollout_services().is_empty();
        self.rollout_enabled()
            && self.effective_mode() == Mode::Dual
            && self.enable_peer_connector()
            && (moves_all || self.methods_of(self.rollout_services()).next().is_some())
    }

    /// The settings of the rollout to a peer: its stages and gates, and with `rollout.state_folder` its file, whose name is the peer's identity.
    ///
    /// # Errors
    /// None for a valid configuration.
    pub fn rollout(&self, peer: EndpointId) -> Result<RolloutConfig, ConfigError> {
        let gates = Gates::builder()
            .max_error_difference(self.rollout_max_error_difference())
            .max_p99_ratio(self.rollout_max_p99_ratio())
            .max_p99_difference(self.rollout_max_p99_difference())
            .min_samples(u64::from(self.rollout_min_samples()))
            .build()?;
        // Whole basis points: the stages were checked.
        let stages = self
            .rollout_stages()
            .iter()
            .map(|percent| (percent * 100.0).round() as u32);
        // Below a millisecond the comparison would keep a processor busy.
        let dwell = self.rollout_dwell().max(Duration::from_millis(1));
        let rollout = RolloutConfig::builder(Self::ROLLOUT)
            .stages(stages)
            .dwell(dwell)
            .tick(dwell.min(Duration::from_secs(1)))
            .gates(gates);
        match self.rollout_state_folder() {
            Some(folder) => rollout.state_file(folder.join(format!("{peer}.rollout"))),
            None => rollout,
        }
        .build()
    }

    /// Which of this program's calls go over which transport. A rollout's share begins at zero; its controller sets it.
    ///
    /// # Errors
    /// None for a valid configuration.
    pub fn policy(&self) -> Result<SelectPolicy, ConfigError> {
        match self.effective_mode() {
            Mode::Grpc => return SelectPolicy::builder(Choice::Fixed(Arm::Second)).build(),
            Mode::Iroh => return SelectPolicy::builder(Choice::Fixed(Arm::First)).build(),
            Mode::Dual if !self.enable_peer_connector() => {
                return SelectPolicy::builder(Choice::Fixed(Arm::Second)).build();
            }
            Mode::Dual => {}
        }
        let canary = match self.rolls_out() {
            true => {
                let canary = Canary::builder(Self::ROLLOUT, Arm::First);
                let canary = match self.rollout_key_header() {
                    Some(name) => canary.key_header(name),
                    None => canary,
                };
                let canary = canary.window(self.rollout_window()).build()?;
                Some(Choice::Canary(canary))
            }
            false => None,
        };
        let moves_all = self.rollout_services().is_empty();
        let (default, moved) = match canary {
            Some(canary) if moves_all => (canary, None),
            moved => (Choice::Prefer(Arm::Second), moved),
        };
        let methods = self.table(moved)?;
        SelectPolicy::builder(default).methods(&methods).build()
    }

    /// The table of methods, with the choice for the groups that a rollout moves.
    pub(super) fn table(&self, moved: Option<Choice>) -> Result<Methods, ConfigError> {
        let iroh = match self.fallback_to_grpc() {
            true => Choice::Prefer(Arm::First),
            false => Choice::Fixed(Arm::First),
        };
        let raft = match self.raft_transport() {
            RaftTransport::AlwaysGrpc => Choice::Fixed(Arm::Second),
            RaftTransport::AlwaysIroh => Choice::Fixed(Arm::First),
            RaftTransport::Adaptive { latency_threshold } => Choice::Adaptive(
                Adaptive::builder()
                    .prefer(Arm::First)
                    .latency_threshold(latency_threshold)
                    .build()?,
            ),
        };
        let waits = MethodConfig::new().wait_for_ready(true);
        let mut builder = Methods::builder().methods(self.methods_of(self.buffer_for()), waits);
        for (pattern, config) in &self.methods {
            builder = builder.method(pattern, config.clone());
        }
        // A method has one transport: that of the most particular list that it is in.
        let mut taken = HashSet::new();
        for (groups, choice) in [
            (&[RAFT.to_owned()][..], Some(raft)),
            (self.prefer_iroh_for(), Some(iroh)),
            (self.rollout_services(), moved),
        ] {
            for method in self.methods_of(groups).map(spelled) {
                if let Some(choice) = &choice
                    && taken.insert(method.clone())
                {
                    let config = MethodConfig::new().transport(choice.clone());
                    builder = builder.method(method, config);
                }
            }
        }
        builder.build()
    }
}

/// One spelling for both of a whole service's.
pub(super) fn spelled(method: &str) -> String {
    match method.starts_with('/') {
        true => method.to_owned(),
        false => format!("/{method}/*"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tower_iroh_layers::Urgency;

    const GROUPS: &str = r#"
        transport.services.vm_ops = ["/c.Cluster/CreateVm", "/c.Cluster/StartVm"]
        transport.services.status = ["c.Status"]
        transport.services.raft = ["/c.Cluster/SendRaftMessage", "/c.Status/Leader"]
    "#;

    /// The choice for a call, with these lines in the file.
    fn choice(lines: &str, path: &str) -> Choice {
        let config = Config::from_toml(&format!("{GROUPS}\n{lines}")).expect(lines);
        let policy = config.policy().expect(lines);
        policy.choice(path, Urgency::default()).clone()
    }

    const PREFER: &str = "transport.migration.prefer_iroh_for = [\"health\", \"status\"]";
    const HEALTH: &str = "/grpc.health.v1.Health/Check";
    const STATUS: &str = "/c.Status/Get";
    const VM: &str = "/c.Cluster/CreateVm";
    const RAFT: &str = "/c.Cluster/SendRaftMessage";
    const OTHER: &str = "/a.B/C";

    #[test]
    fn dual_goes_by_the_list() {
        for path in [HEALTH, STATUS] {
            assert_eq!(choice(PREFER, path), Choice::Prefer(Arm::First), "{path}");
        }
        for path in [VM, OTHER] {
            assert_eq!(choice(PREFER, path), Choice::Prefer(Arm::Second), "{path}");
        }
        let strict = format!("{PREFER}\ntransport.migration.fallback_to_grpc = false");
        assert_eq!(choice(&strict, STATUS), Choice::Fixed(Arm::First));
        assert_eq!(choice(&strict, OTHER), Choice::Prefer(Arm::Second));
    }

    #[test]
    fn a_mode_overrules_the_list_and_raft() {
        for (line, arm) in [
            ("transport.mode = \"grpc\"", Arm::Second),
            ("transport.mode = \"iroh\"", Arm::First),
            ("transport.iroh.enabled = false", Arm::Second),
            ("transport.iroh.enable_peer_connector = false", Arm::Second),
        ] {
            let lines =
                format!("{PREFER}\n{line}\ntransport.migration.raft_transport = \"adaptive\"");
            for path in [HEALTH, RAFT, OTHER] {
                assert_eq!(choice(&lines, path), Choice::Fixed(arm), "{line}");
            }
        }
    }

    #[test]
    fn raft_goes_before_every_list() {
        for (word, arm) in [("always_grpc", Arm::Second), ("always_iroh", Arm::First)] {
            let lines = format!("{PREFER}\ntransport.migration.raft_transport = \"{word}\"");
            for path in [RAFT, "/c.Status/Leader"] {
                assert_eq!(choice(&lines, path), Choice::Fixed(arm), "{path}");
            }
            assert_eq!(choice(&lines, STATUS), Choice::Prefer(Arm::First));
        }
        let lines =
            "transport.migration.raft_transport = { adaptive = { latency_threshold_ms = 20 } }";
        let threshold = std::time::Duration::from_millis(20);
        let adaptive = Adaptive::builder().latency_threshold(threshold).build();
        assert_eq!(
            choice(lines, RAFT),
            Choice::Adaptive(adaptive.expect("valid"))
        );
    }

    #[test]
    fn a_rollout_moves_its_services_or_all_that_is_left() {
        let canary = |choice| matches!(choice, Choice::Canary(canary) if canary.share() == 0 && canary.to() == Arm::First);
        let some = format!("{PREFER}\ntransport.rollout.services = [\"vm_ops\"]");
        assert!(canary(choice(&some, VM)));
        assert_eq!(choice(&some, OTHER), Choice::Prefer(Arm::Second));
        let all = format!("{PREFER}\ntransport.rollout.enabled = true");
        assert!(canary(choice(&all, VM)) && canary(choice(&all, OTHER)));
        assert_eq!(choice(&all, HEALTH), Choice::Prefer(Arm::First));
        let off = "transport.rollout = { enabled = false, services = [\"vm_ops\"] }";
        assert_eq!(choice(off, VM), Choice::Prefer(Arm::Second));
    }

    #[test]
    fn a_rollout_goes_by_its_table() {
        let peer = iroh::SecretKey::from_bytes(&[1; 32]).public();
        let config = Config::from_toml(
            "transport.rollout = { stages = [0.01, 33.33, 100], dwell_secs = 0.5, state_folder = \"kept\" }",
        );
        let config = config.expect("valid");
        let rollout = config.rollout(peer).expect("valid");
        assert_eq!(rollout.stages(), [1, 3333, 10_000]);
        assert!(format!("{rollout:?}").contains(&format!("kept/{peer}.rollout")));
        let theirs = RolloutConfig::builder(Config::ROLLOUT).build();
        let ours = Config::default().rollout(peer).expect("valid");
        assert_eq!(format!("{ours:?}"), format!("{:?}", theirs.expect("valid")));
        for (lines, rolls) in [
            ("", false),
            ("transport.rollout = {}", true),
            ("transport.rollout = {}\ntransport.mode = \"grpc\"", false),
            (
                "transport.rollout = {}\ntransport.iroh.enabled = false",
                false,
            ),
            (
                "transport.services.a = []\ntransport.rollout.services = [\"a\"]",
                false,
            ),
        ] {
            let config = Config::from_toml(lines).expect(lines);
            assert_eq!(config.rolls_out(), rolls, "{lines}");
            let policy = config.policy().expect(lines);
            assert_eq!(policy.canaries().count(), usize::from(rolls), "{lines}");
        }
    }

    #[test]
    fn one_method_in_several_groups_has_one_rule() {
        let lines = "transport.services.again = [\"/c.Status/*\", \"c.Status\", \"/c.Status/Leader\"]\n\
            transport.migration.prefer_iroh_for = [\"status\", \"again\", \"status\"]";
        assert_eq!(choice(lines, STATUS), Choice::Prefer(Arm::First));
        assert_eq!(
            choice(lines, "/c.Status/Leader"),
            Choice::Fixed(Arm::Second)
        );
        let empty =
            "transport.services.none = []\ntransport.migration.prefer_iroh_for = [\"none\"]";
        assert_eq!(choice(empty, OTHER), Choice::Prefer(Arm::Second));
    }
}

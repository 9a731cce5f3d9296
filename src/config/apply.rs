//! A configuration's changes, put in force in what runs.

use std::{collections::BTreeSet, sync::Arc};

use tower_iroh_layers::{BoxError, authorize::PolicyHandle};

use super::{Apply, Commit, Config, Mode, Next, authorization};
use crate::peers::Peers;

/// Puts configurations in force in a [`Transport`](super::Transport).
pub(super) struct Applier {
    pub(super) peers: Peers,
    pub(super) authorization: PolicyHandle,
}

const MODE: &str = "transport.mode";
const ENABLED: &str = "transport.iroh.enabled";
const ROLLOUT: &str = "transport.rollout";
const AUTHORIZATION: &str = "transport.authorization_file";

impl Applier {
    /// Whether what the mode needs has been there since the start.
    fn takes(&self, mode: Mode) -> bool {
        let iroh = self.peers.links().is_some();
        let tcp = self.peers.tcp_links().is_some();
        match mode {
            Mode::Grpc => tcp,
            Mode::Iroh => iroh,
            Mode::Dual => iroh && tcp,
        }
    }

    /// The next configuration without what needs a restart.
    fn effective(&self, next: &mut Next) -> Config {
        let mut config = (**next.config()).clone();
        let before = (next.effective.mode, next.effective.iroh_enabled);
        let is_changed = before != (config.mode, config.iroh_enabled);
        if is_changed && !self.takes(config.effective_mode()) {
            next.needs_restart(MODE);
            next.needs_restart(ENABLED);
            (config.mode, config.iroh_enabled) = before;
        }
        config
    }

    /// Whether a configuration moves calls by a rollout here.
    fn rolls_out(&self, config: &Config) -> bool {
        self.takes(config.effective_mode()) && config.rolls_out()
    }
}

/// Begins the rollouts of a configuration, and makes the folder for their state.
pub(super) fn begin_rollouts(peers: &Peers, config: Arc<Config>) {
    if let Some(folder) = config.rollout_state_folder() {
        // If it cannot be made, no rollout begins, and the log says why.
        let _ = std::fs::create_dir_all(folder);
    }
    peers.begin_rollouts(move |peer| config.rollout(peer));
}

impl Apply for Applier {
    fn prepare(&mut self, next: &mut Next) -> Result<Commit, BoxError> {
        let config = self.effective(next);
        let calls = match self.takes(config.effective_mode()) {
            true => Some(config.policy()?),
            // A transport that was not required could not be bound: calls go on as they do.
            false => None,
        };
        let rolls_out = self.rolls_out(&config);
        let other_rollout = rolls_out != self.rolls_out(&next.effective) || next.changes(ROLLOUT);
        if next.changes(AUTHORIZATION) && config.authorization_file().is_none() {
            // Leaving out a line must not open everything to everybody.
            next.needs_restart(AUTHORIZATION);
        }
        let callers = match next.changes(AUTHORIZATION) {
            true => Some(authorization::read(&config)?.0),
            false => None,
        };
        let names = |config: &Config| -> BTreeSet<String> {
            config.peers().map(|(name, _)| name.to_owned()).collect()
        };
        let gone: Vec<String> = names(next.before())
            .difference(&names(&config))
            .cloned()
            .collect();
        let moved: Vec<_> = config
            .peers()
            .filter(|(name, peer)| next.before().peers.get(*name) != Some(peer))
            .map(|(name, peer)| (name.to_owned(), peer.clone()))
            .collect();
        let config = Arc::new(config);
        next.effective = config.clone();
        let (peers, authorization) = (self.peers.clone(), self.authorization.clone());
        Ok(Box::new(move || {
            if let Some(calls) = calls {
                peers.set_policy(calls);
            }
            match (other_rollout, rolls_out) {
                (true, true) => begin_rollouts(&peers, config),
                (true, false) => peers.end_rollouts(),
                (false, _) => {}
            }
            if let Some(callers) = callers {
                authorization.reload(callers);
            }
            // All at once: a peer that only has another name keeps its channel.
            peers.change(gone, moved);
        }))
    }
}

//! A configuration's changes, put in force in what runs.

use std::{collections::BTreeSet, sync::Arc};

use tower_iroh_layers::BoxError;

use super::{
    super::{Apply, Commit, Config, Mode, Next},
    Transport, policy,
};

/// Puts configurations in force in a [`Transport`].
pub(super) struct Applier {
    transport: Transport,
    /// What is in force of the two keys that may have to wait for a restart.
    mode: (Mode, bool),
    rolls_out: bool,
}

const MODE: &str = "transport.mode";
const ENABLED: &str = "transport.iroh.enabled";
const ROLLOUT: &str = "transport.rollout";
const AUTHORIZATION: &str = "transport.authorization_file";

impl Applier {
    pub(super) fn new(transport: Transport) -> Self {
        let config = transport.config();
        Self {
            mode: (config.mode, config.iroh_enabled),
            rolls_out: config.rolls_out(),
            transport,
        }
    }

    /// Whether what the mode needs has been there since the start.
    fn takes(&self, mode: Mode) -> bool {
        let peers = self.transport.peers();
        let (iroh, tcp) = (peers.links().is_some(), peers.tcp_links().is_some());
        match mode {
            Mode::Grpc => tcp,
            Mode::Iroh => iroh,
            Mode::Dual => iroh && tcp,
        }
    }

    /// The configuration as far as it is put in force.
    fn effective(&self, next: &mut Next) -> Config {
        let mut config = (**next.config()).clone();
        let is_changed = self.mode != (config.mode, config.iroh_enabled);
        if is_changed && !self.takes(config.effective_mode()) {
            next.needs_restart(MODE);
            next.needs_restart(ENABLED);
            (config.mode, config.iroh_enabled) = self.mode;
        }
        config
    }
}

/// Begins the rollouts of a configuration, and makes the folder that it names for them.
pub(super) fn begin_rollouts(transport: &Transport, config: Arc<Config>) {
    if let Some(folder) = config.rollout_state_folder() {
        // Where it cannot be made no rollout begins, and the log has why.
        let _ = std::fs::create_dir_all(folder);
    }
    let plan = move |peer| config.rollout(peer);
    transport.peers().begin_rollouts(plan);
}

impl Apply for Applier {
    fn prepare(&mut self, next: &mut Next) -> Result<Commit, BoxError> {
        let config = self.effective(next);
        let calls = match self.takes(config.effective_mode()) {
            true => Some(config.policy()?),
            // A transport that was not required could not be bound: calls go as they do.
            false => None,
        };
        let rolls_out = calls.is_some() && config.rolls_out();
        let other_rollout = rolls_out != self.rolls_out || next.changes(ROLLOUT);
        if next.changes(AUTHORIZATION) && config.authorization_file().is_none() {
            // That would open everything to everybody, by leaving out a line.
            next.needs_restart(AUTHORIZATION);
        }
        let callers = match next.changes(AUTHORIZATION) {
            true => Some(policy::read(&config)?.0),
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
        self.mode = (config.mode, config.iroh_enabled);
        self.rolls_out = rolls_out;
        let config = Arc::new(config);
        let transport = self.transport.clone();
        Ok(Box::new(move || {
            if let Some(calls) = calls {
                transport.peers().set_policy(calls);
            }
            match (other_rollout, rolls_out) {
                (true, true) => begin_rollouts(&transport, config),
                (true, false) => transport.peers().end_rollouts(),
                (false, _) => {}
            }
            if let Some(callers) = callers {
                transport.authorization().reload(callers);
            }
            // At once: who only has another name keeps what is his.
            transport.peers().change(gone, moved);
        }))
    }
}

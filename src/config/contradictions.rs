//! What each key for itself may say, and all together may not.

use std::collections::{BTreeMap, BTreeSet};

use super::{
    Config, Mode,
    keys::{PEERS, PREFER_IROH, SERVICES, key},
    nearest::nearest,
    settings::RAFT,
    value::quote,
};

/// Something that cannot be, though each value is one.
#[derive(Debug)]
pub(super) struct Contradiction {
    pub(super) key: &'static str,
    /// Which entry of the key's list or table.
    pub(super) entry: Option<String>,
    /// The key that it contradicts.
    pub(super) other: Option<&'static str>,
    pub(super) accepted: String,
    pub(super) nearest: Option<String>,
}

impl Contradiction {
    fn new(key: &'static str, accepted: impl Into<String>) -> Self {
        Self {
            key,
            entry: None,
            other: None,
            accepted: accepted.into(),
            nearest: None,
        }
    }

    fn entry(mut self, entry: &str) -> Self {
        self.entry = Some(entry.to_owned());
        self
    }

    fn other(mut self, other: &'static str) -> Self {
        self.other = Some(other);
        self
    }

    /// What was found.
    pub(super) fn value(&self, config: &Config) -> String {
        let whole = || key(self.key).and_then(|key| (key.show)(config));
        let entry = self.entry.as_deref().map(quote);
        entry.or_else(whole).unwrap_or_default()
    }
}

pub(super) fn contradictions(config: &Config) -> Vec<Contradiction> {
    let mut found = Vec::new();
    if config.mode == Mode::Iroh {
        for (key, is_on) in [
            ("transport.iroh.enabled", config.iroh_enabled),
            (
                "transport.iroh.enable_peer_connector",
                config.enable_peer_connector,
            ),
        ] {
            if !is_on {
                let accepted = "true is accepted where transport.mode is \"iroh\": nothing else is left to call over";
                found.push(Contradiction::new(key, accepted).other("transport.mode"));
            }
        }
    }
    if config.reconnect_min > config.reconnect_max {
        let key = "cluster.peer.reconnect_min_ms";
        let accepted = "at most cluster.peer.reconnect_max_secs is accepted";
        found.push(Contradiction::new(key, accepted).other("cluster.peer.reconnect_max_secs"));
    }
    lists(config, &mut found);
    names(config, &mut found);
    found
}

fn lists(config: &Config, found: &mut Vec<Contradiction>) {
    let rollout = "transport.rollout.services";
    for (key, names, moves) in [
        (PREFER_IROH[0], &config.prefer_iroh_for, true),
        (rollout, &config.rollout_services, true),
        ("cluster.peer.buffer_for", &config.buffer_for, false),
    ] {
        for name in names.iter().collect::<BTreeSet<_>>() {
            if moves && name == RAFT {
                let accepted = format!(
                    "\"{RAFT}\" belongs to transport.migration.raft_transport alone, which says how its calls go"
                );
                found.push(Contradiction::new(key, accepted).entry(name));
            } else if !config.groups.contains_key(name) {
                let known = config.groups.keys().map(String::as_str);
                let listed: Vec<_> = config.groups.keys().map(|name| quote(name)).collect();
                found.push(Contradiction {
                    nearest: nearest(name, known).map(quote),
                    ..Contradiction::new(
                        key,
                        format!(
                            "no such group; {} are known, and others are registered in code or in [{SERVICES}]",
                            listed.join(", ")
                        ),
                    )
                    .entry(name)
                });
            }
        }
    }
    for name in &config.rollout_services {
        if config.prefer_iroh_for.contains(name) && name != RAFT {
            let accepted = format!(
                "in one list: {} moves its calls already, all at once",
                PREFER_IROH[0]
            );
            found.push(
                Contradiction::new(rollout, accepted)
                    .entry(name)
                    .other(PREFER_IROH[0]),
            );
        }
    }
}

fn names(config: &Config, found: &mut Vec<Contradiction>) {
    let is_plain = |name: &str| {
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.');
        (1..=64).contains(&name.len()) && name.chars().all(allowed)
    };
    let groups = config.groups.keys().map(|name| (SERVICES, name));
    let peers = config.peers.keys().map(|name| (PEERS, name));
    for (key, name) in groups.chain(peers).filter(|(_, name)| !is_plain(name)) {
        let accepted = "a name of 1 to 64 letters, digits, '_', '-' and '.' is accepted";
        found.push(Contradiction::new(key, accepted).entry(name));
    }
    let mut ids = BTreeMap::new();
    for (name, peer) in &config.peers {
        if let Some(first) = ids.insert(peer.id(), name) {
            let accepted = format!(
                "a peer has one name, and this one has the same identity as {}",
                quote(first)
            );
            found.push(Contradiction::new(PEERS, accepted).entry(name));
        }
    }
}

//! What a reload compares the next configuration with.

use std::{collections::BTreeMap, io, sync::Arc};

use super::super::{
    Config,
    keys::{KEYS, METHODS, PEERS, SERVICES},
    methods,
    read::plain,
    show::{group, shown},
};

/// What a policy file says, or why it cannot be read.
pub(in crate::config) type PolicyText = Result<String, io::ErrorKind>;

/// What is in force.
pub(in crate::config) struct State {
    /// The last configuration that was accepted.
    pub(in crate::config) accepted: Arc<Config>,
    /// The configuration without what needs a restart.
    pub(super) effective: Arc<Config>,
    /// The value in force of each key: an older one than the file's where it needs a restart.
    pub(super) values: BTreeMap<String, String>,
    /// The text of the policy in force; `None` where there is none, or where it is not known.
    pub(super) policy: Option<PolicyText>,
}

impl State {
    /// What is in force at the start.
    pub(in crate::config) fn new(config: Arc<Config>, policy: Option<String>) -> Self {
        Self {
            values: values(&config),
            accepted: config.clone(),
            effective: config,
            policy: policy.map(Ok),
        }
    }
}

/// All keys with their values as TOML, groups and peers included.
pub(super) fn values(config: &Config) -> BTreeMap<String, String> {
    let mut values = BTreeMap::new();
    for key in KEYS {
        if let Some(value) = (key.show)(config) {
            values.insert(key.name.to_owned(), value);
        }
    }
    for name in config.groups.keys() {
        values.insert(format!("{SERVICES}.{}", plain(name)), group(config, name));
    }
    for (pattern, config) in &config.methods {
        for (key, value) in methods::shown(config) {
            values.insert(format!("{METHODS}.{}.{key}", plain(pattern)), value);
        }
    }
    for (name, peer) in &config.peers {
        let keys = shown(peer).into_iter();
        let shown: Vec<_> = keys
            .map(|(key, value)| format!("{key} = {value}"))
            .collect();
        let value = format!("{{ {} }}", shown.join(", "));
        values.insert(format!("{PEERS}.{}", plain(name)), value);
    }
    values
}

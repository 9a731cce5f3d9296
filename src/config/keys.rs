//! All keys of the file: the setting, how it is written, and the effect of a reload.
//!
//! Reading, checking, showing and comparing go through this one table, so that none of them can forget a key.

use super::{
    Config,
    codecs::{
        Address, Between, Count, File, Flag, Form, Interface, MILLISECONDS, Metadata, Names,
        Number, Raft, Relay, SECONDS, Stages, Time, Word,
    },
    value::{Found, Refusal},
};
use tower_iroh_layers::ConfigError;

/// The effect of a reload on a key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Reloads {
    /// Put in force while everything runs.
    Applied,
    /// In force from the next start on.
    Restart,
}

pub(super) struct Key {
    pub(super) name: &'static str,
    pub(super) reloads: Reloads,
    pub(super) read: fn(&mut Config, Found<'_>) -> Result<(), Refusal>,
    pub(super) show: fn(&Config) -> Option<String>,
    check: fn(&Config) -> Result<(), String>,
}

impl Key {
    /// Refuses a value that was set in code.
    pub(super) fn check(&self, config: &Config) -> Result<(), ConfigError> {
        (self.check)(config).map_err(|accepted| {
            let value = (self.show)(config).unwrap_or_default();
            ConfigError::new(self.name, value, accepted)
        })
    }
}

/// The key of this name.
pub(super) fn key(name: &str) -> Option<&'static Key> {
    KEYS.iter().find(|key| key.name == name)
}

/// The list of groups that prefer iroh has three spellings; the first is the one that is in [`KEYS`].
pub(super) const PREFER_IROH: [&str; 3] = [
    "transport.migration.prefer_iroh_for",
    "transport.migration.prefer_iroh",
    "transport.iroh.prefer_for_services",
];
/// A table of lists, whose keys are the groups' names.
pub(super) const SERVICES: &str = "transport.services";
/// A table of tables, whose keys are the peers' names.
pub(super) const PEERS: &str = "peers";
/// A table of tables, whose keys name methods.
pub(super) const METHODS: &str = "methods";
/// The presence of this table switches the rollout on.
pub(super) const ROLLOUT: &str = "transport.rollout";

/// Reads a value and checks it.
pub(super) fn read<T, F: Form<T>>(found: Found<'_>) -> Result<T, Refusal> {
    let value = F::read(found)?;
    match F::check(&value) {
        Ok(()) => Ok(value),
        Err(accepted) => Err(found.refuse(accepted)),
    }
}

macro_rules! keys {
    ($($name:literal: $field:ident, $form:ty, $reloads:ident;)*) => {
        pub(super) static KEYS: &[Key] = &[$(Key {
            name: $name,
            reloads: Reloads::$reloads,
            read: |config, found| {
                config.$field = read::<_, $form>(found)?;
                Ok(())
            },
            show: |config| <$form as Form<_>>::show(&config.$field),
            check: |config| <$form as Form<_>>::check(&config.$field),
        }),*];
    };
}

pub(super) const YEAR: u64 = 365 * 86_400;
const MONTH: u64 = 30 * 86_400;
const HOUR_MS: u64 = 3_600_000;
/// The largest message on the wire: gRPC's length prefix has four bytes.
const MESSAGE: u64 = u32::MAX as u64;
/// More than any machine has descriptors for.
const MANY: u64 = 1_000_000;

keys! {
    "transport.mode": mode, Word, Applied;
    "transport.require": require, Word, Restart;
    "transport.identity_file": identity_file, File, Restart;
    "transport.authorization_file": authorization_file, File, Applied;
    "transport.allow_anonymous": allow_anonymous, Flag, Restart;
    "transport.max_connections_per_peer": max_connections_per_peer, Count<1, MANY>, Restart;
    "transport.drain_timeout_secs": drain_timeout, Time<SECONDS, YEAR>, Restart;
    "transport.idle_timeout_secs": server_idle_timeout, Time<SECONDS, YEAR>, Restart;
    "transport.max_connection_age_secs": max_connection_age, Time<SECONDS, YEAR>, Restart;
    "transport.max_connection_age_grace_secs": max_connection_age_grace, Time<SECONDS, YEAR>, Restart;

    "transport.grpc.bind_address": grpc_bind_address, Address, Restart;
    "transport.grpc.max_message_size": max_message_size, Count<1, MESSAGE>, Restart;
    "transport.grpc.tls_enabled": tls_enabled, Flag, Restart;

    "transport.iroh.enabled": iroh_enabled, Flag, Applied;
    "transport.iroh.bind_ip": iroh_bind_ip, Interface, Restart;
    "transport.iroh.discovery_port": discovery_port, Count<0, 65_535>, Restart;
    "transport.iroh.home_relay": home_relay, Relay, Restart;
    "transport.iroh.enable_peer_connector": enable_peer_connector, Flag, Applied;

    "transport.migration.prefer_iroh_for": prefer_iroh_for, Names, Applied;
    "transport.migration.raft_transport": raft_transport, Raft, Applied;
    "transport.migration.fallback_to_grpc": fallback_to_grpc, Flag, Applied;
    "transport.migration.insecure_plaintext_fallback": insecure_plaintext_fallback, Flag, Restart;

    "transport.rollout.enabled": rollout_enabled, Flag, Applied;
    "transport.rollout.services": rollout_services, Names, Applied;
    "transport.rollout.stages": rollout_stages, Stages, Applied;
    "transport.rollout.dwell_secs": rollout_dwell, Time<SECONDS, MONTH>, Applied;
    "transport.rollout.key_header": rollout_key_header, Metadata, Applied;
    "transport.rollout.window_secs": rollout_window, Between<1, 3_600>, Applied;
    "transport.rollout.max_error_difference": rollout_max_error_difference, Number<0, 1_000>, Applied;
    "transport.rollout.max_p99_ratio": rollout_max_p99_ratio, Number<1_000, 1_000_000>, Applied;
    "transport.rollout.max_p99_difference_ms": rollout_max_p99_difference, Time<MILLISECONDS, HOUR_MS>, Applied;
    "transport.rollout.min_samples": rollout_min_samples, Count<1, 1_000_000_000>, Applied;
    "transport.rollout.state_folder": rollout_state_folder, File, Applied;

    "cluster.peer.max_connections": max_connections, Count<1, MANY>, Restart;
    "cluster.peer.dial_timeout_secs": dial_timeout, Time<SECONDS, YEAR>, Restart;
    "cluster.peer.reconnect_min_ms": reconnect_min, Time<MILLISECONDS, HOUR_MS>, Restart;
    "cluster.peer.reconnect_max_secs": reconnect_max, Time<SECONDS, 86_400>, Restart;
    "cluster.peer.health_check_interval_secs": health_check_interval, Time<SECONDS, YEAR>, Restart;
    "cluster.peer.idle_timeout_secs": idle_timeout, Time<SECONDS, YEAR>, Restart;
    "cluster.peer.failure_threshold": failure_threshold, Count<1, 1_000_000>, Restart;
    "cluster.peer.recovery_timeout_secs": recovery_timeout, Time<SECONDS, 86_400>, Restart;
    "cluster.peer.buffer_for": buffer_for, Names, Restart;
    "cluster.peer.buffer_ttl_secs": buffer_ttl, Time<SECONDS, YEAR>, Restart;
    "cluster.peer.buffer_max_calls": buffer_max_calls, Count<1, MANY>, Restart;
    "cluster.peer.buffer_max_bytes": buffer_max_bytes, Count<1, { 1 << 40 }>, Restart;
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn each_key_is_there_once_and_its_default_is_accepted() {
        let names: BTreeSet<_> = KEYS.iter().map(|key| key.name).collect();
        assert_eq!(names.len(), KEYS.len());
        for key in KEYS {
            key.check(&Config::default()).expect(key.name);
        }
        assert!(key(PREFER_IROH[0]).is_some() && key("transport.mod").is_none());
    }

    /// `docs/configuration.md` has a row for each key, with its default and what a reload does with it.
    #[test]
    fn the_page_has_every_key() {
        let page = include_str!("../../docs/configuration.md");
        let defaults = Config::default();
        for key in KEYS {
            let begin = format!("| `{}` |", key.name);
            let mut rows = page.lines().filter(|line| line.starts_with(&begin));
            let row = rows.next().unwrap_or_else(|| panic!("no row {begin}"));
            assert!(rows.next().is_none(), "two rows {begin}");
            let cells: Vec<_> = row.trim_matches('|').split('|').map(str::trim).collect();
            let default = match (key.show)(&defaults) {
                Some(default) => format!("`{default}`"),
                None => "none".to_owned(),
            };
            let reload = match key.reloads {
                Reloads::Applied => "applied",
                Reloads::Restart => "restart",
            };
            assert_eq!(
                (cells.len(), cells[2], cells[4]),
                (5, &*default, reload),
                "{row}"
            );
        }
        let named = page
            .lines()
            .filter(|line| line.starts_with("| `transport.") || line.starts_with("| `cluster."));
        assert_eq!(named.count(), KEYS.len(), "a row that is no key's");
    }
}

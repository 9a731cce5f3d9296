//! The effective configuration, as TOML that loads again.

use std::fmt;

use iroh::TransportAddr;

use super::{
    Config,
    keys::{KEYS, METHODS, PEERS, SERVICES},
    methods,
    read::plain,
    value::quote,
};
use crate::peer::Peer;

impl fmt::Display for Config {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut table = "";
        for key in KEYS {
            let Some((its_table, name)) = key.name.rsplit_once('.') else {
                continue;
            };
            let Some(value) = (key.show)(self) else {
                continue;
            };
            if its_table != table {
                let gap = if table.is_empty() { "" } else { "\n" };
                writeln!(f, "{gap}[{its_table}]")?;
                table = its_table;
            }
            writeln!(f, "{name} = {value}")?;
        }
        writeln!(f, "\n[{SERVICES}]")?;
        for name in self.groups.keys() {
            writeln!(f, "{} = {}", plain(name), group(self, name))?;
        }
        for (pattern, config) in &self.methods {
            writeln!(f, "\n[{METHODS}.{}]", plain(pattern))?;
            for (key, value) in methods::shown(config) {
                writeln!(f, "{key} = {value}")?;
            }
        }
        for (name, peer) in &self.peers {
            writeln!(f, "\n[{PEERS}.{}]", plain(name))?;
            for (key, value) in shown(peer) {
                writeln!(f, "{key} = {value}")?;
            }
        }
        Ok(())
    }
}

/// The methods of a group as TOML; an empty list for an unknown group.
pub(super) fn group(config: &Config, name: &str) -> String {
    let methods = config.group(name).unwrap_or_default();
    let methods: Vec<_> = methods.iter().map(|method| quote(method)).collect();
    format!("[{}]", methods.join(", "))
}

/// A peer's keys and their values as TOML.
pub(super) fn shown(peer: &Peer) -> Vec<(&'static str, String)> {
    let mut shown = vec![("id", quote(&peer.id().to_string()))];
    let mut direct = Vec::new();
    let mut others = 0;
    for addr in &peer.addr().addrs {
        match addr {
            TransportAddr::Ip(addr) => direct.push(quote(&addr.to_string())),
            _ => others += 1,
        }
    }
    if others > 0 {
        // A relay has a key, but there may be several, and transports that have none: a ticket has them all.
        shown.push(("ticket", quote(&peer.ticket())));
    } else if !direct.is_empty() {
        shown.push(("iroh", format!("[{}]", direct.join(", "))));
    }
    if let Some(tcp) = peer.tcp() {
        shown.push(("tcp", quote(&tcp.to_string())));
    }
    shown
}

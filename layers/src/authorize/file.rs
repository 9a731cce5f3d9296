//! The policy as TOML has it.

use std::collections::BTreeMap;

use serde::Deserialize;
use toml::Spanned;

use super::{
    AccessPolicyBuilder, Limits, PolicyError,
    builder::{At, Draft},
};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    #[serde(default)]
    roles: BTreeMap<String, RoleTable>,
    #[serde(default)]
    peers: BTreeMap<Spanned<String>, EntryTable>,
    authenticated: Option<EntryTable>,
    anonymous: Option<EntryTable>,
    limits: Option<Spanned<LimitsTable>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RoleTable {
    methods: Vec<Spanned<String>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EntryTable {
    roles: Vec<Spanned<String>>,
    limits: Option<Spanned<LimitsTable>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct LimitsTable {
    rate: Option<f64>,
    burst: Option<u32>,
    concurrent: Option<u32>,
    max_message_bytes: Option<u32>,
}

/// Reads what can be read without knowing what it means, but for the names of peers: what those are `name` knows.
pub(super) fn read(
    text: &str,
    mut name: impl FnMut(&str) -> Result<String, String>,
) -> Result<AccessPolicyBuilder, PolicyError> {
    let file: File = toml::from_str(text).map_err(|error| {
        let line = error.span().map(|span| line_of(text, span.start));
        PolicyError::new(line, "", error.message())
    })?;
    let draft = |table: EntryTable| Draft {
        roles: lines(text, table.roles),
        limits: table.limits.map(|limits| limits_of(text, limits)),
    };
    let mut builder = AccessPolicyBuilder::default();
    for (name, role) in file.roles {
        builder.add_role(name, lines(text, role.methods));
    }
    // In the order of the file, so that of two the second is the mistake.
    let mut peers: Vec<_> = file.peers.into_iter().collect();
    peers.sort_by_key(|(name, _)| name.span().start);
    for (written, entry) in peers {
        let line = Some(line_of(text, written.span().start));
        let written = written.into_inner();
        let value = name(&written)
            .map_err(|problem| PolicyError::new(line, format!("peers.{written:?}"), problem))?;
        builder.add_peer(At { value, line }, draft(entry));
    }
    builder.set_others(file.authenticated.map(draft), file.anonymous.map(draft));
    if let Some(limits) = file.limits {
        builder.set_limits(limits_of(text, limits));
    }
    Ok(builder)
}

fn lines(text: &str, values: Vec<Spanned<String>>) -> Vec<At<String>> {
    let line = |value: Spanned<String>| At {
        line: Some(line_of(text, value.span().start)),
        value: value.into_inner(),
    };
    values.into_iter().map(line).collect()
}

fn limits_of(text: &str, limits: Spanned<LimitsTable>) -> At<Limits> {
    let line = Some(line_of(text, limits.span().start));
    let table = limits.into_inner();
    At {
        line,
        value: Limits {
            rate: table.rate,
            burst: table.burst,
            concurrent: table.concurrent,
            max_message_bytes: table.max_message_bytes,
        },
    }
}

fn line_of(text: &str, at: usize) -> usize {
    let before = text.as_bytes().get(..at).unwrap_or(text.as_bytes());
    before.iter().filter(|byte| **byte == b'\n').count() + 1
}

//! The table of methods of a file: `[methods."/pkg.Service/Method"]`.

use std::time::Duration;

use super::{
    codecs::{Count, Flag, Form, MILLISECONDS, Number, SECONDS, Time, one_of},
    keys::{METHODS, YEAR, read},
    nearest::nearest,
    read::{Draft, plain},
    value::{Found, Refusal, quote},
};
use tower_iroh_layers::{
    ConfigError, MethodConfig, MethodEntry, MethodSet, Urgency,
    classify::{code_named, name_of},
    retry::RetryPolicy,
    select::{Arm, Choice},
};

const KEYS: [&str; 7] = [
    "timeout_secs",
    "wait_for_ready",
    "buffer_ttl_secs",
    "idempotent",
    "urgency",
    TRANSPORT,
    "retry",
];
const RETRY_KEYS: [&str; 5] = [
    "max_attempts",
    "initial_backoff_ms",
    "max_backoff_ms",
    "multiplier",
    "codes",
];
/// The only key of an entry that a reload applies.
pub(super) const TRANSPORT: &str = "transport";

const TRANSPORTS: [(&str, Choice); 4] = [
    ("grpc", Choice::Fixed(Arm::Second)),
    ("iroh", Choice::Fixed(Arm::First)),
    ("prefer_grpc", Choice::Prefer(Arm::Second)),
    ("prefer_iroh", Choice::Prefer(Arm::First)),
];

type Seconds = Time<SECONDS, YEAR>;
type Backoff = Time<MILLISECONDS, 3_600_000>;
type Multiplier = Number<1_000, 1_000_000>;

/// Reads the tables of `[methods]`.
pub(super) fn tables<'a>(draft: &mut Draft<'a>, found: Found<'a>) {
    const ACCEPTED: &str =
        "a table per method, such as [methods.\"/pkg.Service/Method\"], is accepted";
    let table = found.value.get_ref().as_table();
    let table = table.ok_or_else(|| found.refuse(ACCEPTED));
    let Some(table) = draft.note(METHODS, table) else {
        return;
    };
    for (name, value) in table.iter() {
        let text = draft.text;
        let key = format!("{METHODS}.{}", plain(name.get_ref()));
        draft.entry_at(METHODS, name.get_ref(), name.span());
        let pattern = pattern(name.get_ref()).map_err(|error| Refusal {
            at: name.span(),
            found: "names no method".to_owned(),
            accepted: error.accepted().to_owned(),
            nearest: None,
        });
        let is_named = draft.note(&key, pattern).is_some();
        let config = method(draft, &key, name.get_ref(), Found { text, value });
        if let (true, Some(config)) = (is_named, config) {
            draft
                .config
                .methods
                .insert(name.get_ref().to_string(), config);
        }
    }
}

/// Refuses what names no method.
pub(super) fn pattern(pattern: &str) -> Result<(), ConfigError> {
    match pattern {
        "*" => Ok(()),
        pattern => MethodSet::try_new(METHODS, [pattern]).map(drop),
    }
}

/// Reads one entry; `None` where a problem with it was noted.
fn method<'a>(
    draft: &mut Draft<'a>,
    name: &str,
    pattern: &str,
    found: Found<'a>,
) -> Option<MethodConfig> {
    let mut config = MethodConfig::new();
    keys(draft, name, found, &KEYS, |draft, key, found| {
        let set = std::mem::take(&mut config);
        let read = match key {
            "timeout_secs" => read::<_, Seconds>(found).map(|it| set.timeout(it)),
            "buffer_ttl_secs" => read::<_, Seconds>(found).map(|it| set.buffer_ttl(it)),
            "wait_for_ready" => read::<_, Flag>(found).map(|it| set.wait_for_ready(it)),
            "idempotent" => read::<_, Flag>(found).map(|it| set.idempotent(it)),
            "urgency" => urgency(found).map(|it| set.urgency(it)),
            TRANSPORT if pattern == "*" => Err(found
                .refuse("no transport is accepted for `*`: [transport.migration] has the default")),
            TRANSPORT => transport(found).map(|it| set.transport(it)),
            _ => {
                let policy = retry(draft, &format!("{name}.retry"), found)?;
                Ok(set.retry(policy))
            }
        };
        config = draft.note(&format!("{name}.{key}"), read)?;
        Some(())
    })?;
    Some(config)
}

/// Reads a table whose keys are known; `None` where a problem was noted. Each key is read, also behind one with a problem.
fn keys<'a>(
    draft: &mut Draft<'a>,
    name: &str,
    found: Found<'a>,
    known: &[&'static str],
    mut read: impl FnMut(&mut Draft<'a>, &'static str, Found<'a>) -> Option<()>,
) -> Option<()> {
    let accepted = || format!("a table with {} is accepted", known.join(", "));
    let table = found.value.get_ref().as_table();
    let table = draft.note(name, table.ok_or_else(|| found.refuse(accepted())))?;
    let mut all = Some(());
    for (written, value) in table.iter() {
        let found = Found {
            text: draft.text,
            value,
        };
        let this = match known.iter().find(|key| ***key == **written.get_ref()) {
            Some(key) => read(draft, key, found),
            None => {
                let refusal = Refusal {
                    at: written.span(),
                    found: "is not a known key".to_owned(),
                    accepted: accepted(),
                    nearest: nearest(written.get_ref(), known.iter().copied()).map(str::to_owned),
                };
                draft.note(
                    &format!("{name}.{}", plain(written.get_ref())),
                    Err(refusal),
                )
            }
        };
        all = all.and(this);
    }
    all
}

fn urgency(found: Found<'_>) -> Result<Urgency, Refusal> {
    let number = found.integer(0..=7)?;
    Urgency::new(number as u8).map_err(|error| found.refuse(error.to_string()))
}

fn transport(found: Found<'_>) -> Result<Choice, Refusal> {
    let words = || TRANSPORTS.iter().map(|(word, _)| *word);
    let refused = |nearest: Option<&str>| Refusal {
        nearest: nearest.map(quote),
        ..found.refuse(format!("{} is accepted", one_of(words())))
    };
    let word = found.string().map_err(|_| refused(None))?;
    let known = TRANSPORTS.iter().find(|(it, _)| *it == word);
    let choice = known.map(|(_, choice)| choice.clone());
    choice.ok_or_else(|| refused(nearest(word, words())))
}

/// Reads a method's own policy for retries. What is left out has the policy's default.
fn retry<'a>(draft: &mut Draft<'a>, name: &str, found: Found<'a>) -> Option<RetryPolicy> {
    let mut policy = RetryPolicy::builder();
    keys(draft, name, found, &RETRY_KEYS, |draft, key, found| {
        let set = std::mem::take(&mut policy);
        let read = match key {
            "max_attempts" => read::<_, Count<1, 1_000>>(found).map(|it| set.max_attempts(it)),
            "initial_backoff_ms" => read::<_, Backoff>(found).map(|it| set.initial_backoff(it)),
            "max_backoff_ms" => read::<_, Backoff>(found).map(|it| set.max_backoff(it)),
            "multiplier" => read::<_, Multiplier>(found).map(|it| set.multiplier(it)),
            _ => codes(found).map(|it| set.codes(it)),
        };
        policy = draft.note(&format!("{name}.{key}"), read)?;
        Some(())
    })?;
    let policy = policy.build().map_err(|error| Refusal {
        found: format!("= {}", error.value()),
        ..found.refuse(format!("{}: {}", error.field(), error.accepted()))
    });
    draft.note(name, policy)
}

fn codes(found: Found<'_>) -> Result<Vec<tonic::Code>, Refusal> {
    const ACCEPTED: &str = "a list of codes such as [\"UNAVAILABLE\"], without \"OK\", is accepted";
    let list = found.list(ACCEPTED)?;
    list.map(|code| {
        let name = code.string().map_err(|_| code.refuse(ACCEPTED))?;
        let known = code_named(name).filter(|code| *code != tonic::Code::Ok);
        known.ok_or_else(|| code.refuse(ACCEPTED))
    })
    .collect()
}

/// An entry's keys and their values as TOML; an error for a transport that a file cannot have.
pub(super) fn shown(config: &MethodConfig) -> Vec<(&'static str, String)> {
    let entry = MethodEntry::from(config.clone());
    let seconds = |time: Option<Duration>| Seconds::show(&time?);
    let word = |choice: &Choice| {
        let known = TRANSPORTS.iter().find(|(_, it)| it == choice);
        known.map(|(word, _)| quote(word))
    };
    let values = [
        seconds(entry.timeout()),
        config.waits().map(|it| it.to_string()),
        seconds(entry.buffer_ttl()),
        config.may_repeat().map(|it| it.to_string()),
        entry.urgency().map(|it| it.get().to_string()),
        entry.transport().and_then(word),
        entry.retry().map(shown_retry),
    ];
    let all = KEYS.into_iter().zip(values);
    all.filter_map(|(key, value)| Some((key, value?))).collect()
}

fn shown_retry(policy: &RetryPolicy) -> String {
    let codes = policy.codes().map(|code| quote(name_of(code)));
    let values = [
        Some(policy.max_attempts().to_string()),
        Backoff::show(&policy.initial_backoff()),
        Backoff::show(&policy.max_backoff()),
        Multiplier::show(&policy.multiplier()),
        Some(format!("[{}]", codes.collect::<Vec<_>>().join(", "))),
    ];
    let all = RETRY_KEYS.into_iter().zip(values);
    let all: Vec<_> = all
        .filter_map(|(key, value)| Some(format!("{key} = {}", value?)))
        .collect();
    format!("{{ {} }}", all.join(", "))
}

/// Refuses a transport that a file cannot have.
pub(super) fn check(pattern: &str, config: &MethodConfig) -> Result<(), ConfigError> {
    let entry = MethodEntry::from(config.clone());
    match entry.transport() {
        Some(choice) if !TRANSPORTS.iter().any(|(_, it)| it == choice) => {
            let accepted = format!(
                "{} as `Choice::Fixed` or `Choice::Prefer` is accepted",
                one_of(TRANSPORTS.iter().map(|(word, _)| *word))
            );
            Err(ConfigError::new(METHODS, quote(pattern), accepted))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::super::Config;

    #[test]
    fn an_entry_is_shown_as_it_is_read() {
        let text = r#"
[methods."*"]
timeout_secs = 5

[methods."/a.B/C"]
timeout_secs = 0.25
wait_for_ready = true
buffer_ttl_secs = 30
idempotent = true
urgency = 1
transport = "prefer_iroh"
retry = { max_attempts = 5, initial_backoff_ms = 20, max_backoff_ms = 100, multiplier = 1.5, codes = ["ABORTED", "UNAVAILABLE"] }
"#;
        let config = Config::from_toml(text).expect("valid");
        let shown = config.to_string();
        for line in text.lines() {
            assert!(shown.contains(line), "{line}\n{shown}");
        }
        assert_eq!(Config::from_toml(&shown).expect(&shown), config);
        let methods = config.methods().expect("valid");
        let entry = methods.get("/a.B/C");
        assert!(entry.is_idempotent() && entry.waits_for_ready());
        assert_eq!(entry.retry().map(|policy| policy.max_attempts()), Some(5));
    }

    #[test]
    fn bad_input_is_refused_by_name_and_place() {
        for (text, expected) in [
            ("methods = 3", "1:11: methods = 3: a table per method"),
            (
                "[methods.\"/a.B/\"]",
                "1:10: methods.\"/a.B/\" names no method: /pkg.Service/Method, /pkg.Service/* or pkg.Service is accepted",
            ),
            (
                "methods.\"a.B\" = 1",
                "1:17: methods.\"a.B\" = 1: a table with timeout_secs",
            ),
            (
                "[methods.\"a.B\"]\ntimeout_sec = 1",
                "2:1: methods.\"a.B\".timeout_sec is not a known key: a table with timeout_secs, wait_for_ready, buffer_ttl_secs, idempotent, urgency, transport, retry is accepted; did you mean timeout_secs?",
            ),
            (
                "[methods.\"a.B\"]\ntimeout_secs = 0",
                "2:16: methods.\"a.B\".timeout_secs = 0: a number of seconds above 0",
            ),
            (
                "[methods.\"a.B\"]\nwait_for_ready = \"yes\"",
                "2:18: methods.\"a.B\".wait_for_ready = \"yes\": true or false is accepted",
            ),
            (
                "[methods.\"a.B\"]\nurgency = 8",
                "2:11: methods.\"a.B\".urgency = 8: a whole number from 0 to 7 is accepted",
            ),
            (
                "[methods.\"a.B\"]\ntransport = \"prefer_irho\"",
                "2:13: methods.\"a.B\".transport = \"prefer_irho\": \"grpc\", \"iroh\", \"prefer_grpc\" or \"prefer_iroh\" is accepted; did you mean \"prefer_iroh\"?",
            ),
            (
                "[methods.\"*\"]\ntransport = \"iroh\"",
                "2:13: methods.\"*\".transport = \"iroh\": no transport is accepted for `*`",
            ),
            (
                "[methods.\"a.B\".retry]\nattempts = 3",
                "2:1: methods.\"a.B\".retry.attempts is not a known key: a table with max_attempts",
            ),
            (
                "[methods.\"a.B\".retry]\ncodes = [\"NOPE\"]",
                "2:10: methods.\"a.B\".retry.codes = \"NOPE\": a list of codes",
            ),
            (
                "[methods.\"a.B\".retry]\ninitial_backoff_ms = 2000",
                "1:1: methods.\"a.B\".retry = 2s: retry.initial_backoff: must be at most",
            ),
            (
                "transport.migration.prefer_iroh_for = [\"health\"]\n[methods.\"grpc.health.v1.Health\"]\ntransport = \"grpc\"",
                "2:10: methods = \"grpc.health.v1.Health\": one place per method is accepted: transport.migration.prefer_iroh_for chooses its transport already (transport.migration.prefer_iroh_for: line 1)",
            ),
            (
                "cluster.peer.buffer_for = [\"health\"]\n[methods.\"/grpc.health.v1.Health/*\"]\nwait_for_ready = false",
                "2:10: methods = \"/grpc.health.v1.Health/*\": true is accepted where cluster.peer.buffer_for has the method (cluster.peer.buffer_for: line 1)",
            ),
        ] {
            let error = Config::from_toml(text).expect_err(text).to_string();
            assert!(error.starts_with(expected), "{error}\n{expected}");
        }
    }
}

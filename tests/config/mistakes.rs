use proptest::prelude::*;
use tower_iroh::config::{Config, LoadError};

use crate::{APPENDIX, reader, refusal};

#[test]
fn a_mistake_is_told_with_its_place_and_what_was_meant() {
    for (text, told) in [
        (
            "[transport]\nmod = \"dual\"",
            "2:1: transport.mod is not a known key: [transport] has allow_anonymous, authorization_file, drain_timeout_secs, grpc, identity_file, idle_timeout_secs, iroh, \
             max_connection_age_grace_secs, max_connection_age_secs, max_connections_per_peer, migration, mode, require, rollout, services; did you mean mode?",
        ),
        (
            "  [transprot]\n  mode = \"dual\"",
            "1:4: transprot is not a known key: cluster, methods, peers, transport are accepted; did you mean transport?",
        ),
        (
            "[transport]\nmode = \"duel\"",
            "2:8: transport.mode = \"duel\": \"grpc\", \"iroh\" or \"dual\" is accepted; did you mean \"dual\"?",
        ),
        (
            "transport.mode = 7",
            "1:18: transport.mode = 7: \"grpc\", \"iroh\" or \"dual\" is accepted",
        ),
        (
            "[transport]\nfallback_to_grpc = true",
            "2:1: transport.fallback_to_grpc is not a known key: [transport] has allow_anonymous, authorization_file, drain_timeout_secs, grpc, identity_file, idle_timeout_secs, iroh, \
             max_connection_age_grace_secs, max_connection_age_secs, max_connections_per_peer, migration, mode, require, rollout, services; did you mean transport.migration.fallback_to_grpc?",
        ),
        (
            "transport.migration.prefer_iroh_for = [\"health\", \"statsu\"]",
            "1:50: transport.migration.prefer_iroh_for = \"statsu\": there is no such group; the known groups are \"health\", \"monitoring\", \"status\", \"vm_ops\"; \
             register others in code or in [transport.services]; did you mean \"status\"?",
        ),
        (
            "transport.grpc.bind_address = \"localhost\"",
            "1:31: transport.grpc.bind_address = \"localhost\": an IP address with a port, such as \"0.0.0.0:7001\" or \"[::]:7001\", is accepted",
        ),
        (
            "transport.iroh.discovery_port = 65536",
            "1:33: transport.iroh.discovery_port = 65536: a whole number from 0 to 65535 is accepted",
        ),
        (
            "[cluster.peer]\nidle_timeout_secs = nan",
            "2:21: cluster.peer.idle_timeout_secs = nan: a number of seconds above 0, at most 31536000, is accepted",
        ),
        (
            "transport.mode = \"iroh\"\n\ntransport.iroh.enabled = false",
            "3:26: transport.iroh.enabled = false: true is accepted where transport.mode is \"iroh\": there is no other transport to call over \
             (transport.mode: line 1)",
        ),
        ("transport = 1", "1:13: transport = 1: a table is accepted"),
    ] {
        assert_eq!(refusal(text), told, "{text}");
    }
}

#[test]
fn what_is_out_of_range_is_refused() {
    for (key, values) in [
        (
            "transport.grpc.max_message_size",
            &["0", "-1", "4294967296", "1.5", "\"4 MiB\"", "[]"][..],
        ),
        (
            "transport.grpc.bind_address",
            &["\"0.0.0.0\"", "\"0.0.0.0:65536\"", "\":7001\"", "7001"],
        ),
        ("transport.grpc.tls_enabled", &["0", "\"false\""]),
        (
            "transport.iroh.discovery_port",
            &["-1", "70000", "\"0\"", "0.0"],
        ),
        (
            "transport.iroh.home_relay",
            &[
                "\"\"",
                "\"relay.example.com\"",
                "\"ftp://relay.example.com\"",
                "\"https://\"",
                "\"https://me:secret@relay.example.com\"",
                "false",
            ],
        ),
        ("transport.iroh.bind_ip", &["\"lo\"", "\"127.0.0.1:80\""]),
        ("transport.identity_file", &["\"\"", "1"]),
        (
            "transport.migration.prefer_iroh_for",
            &["\"health\"", "[1]", "[[\"health\"]]", "[\"raft\"]"],
        ),
        (
            "transport.migration.raft_transport",
            &[
                "\"always\"",
                "true",
                "{}",
                "{ adaptive = 50 }",
                "{ adaptive = { latency_threshold = 1 } }",
                "{ adaptiv = {} }",
                "{ adaptive = {}, also = 1 }",
                "{ adaptive = { latency_threshold_ms = 0 } }",
                "{ adaptive = { latency_threshold_ms = nan } }",
                "{ adaptive = { latency_threshold_ms = -5.0 } }",
                "{ adaptive = { latency_threshold_ms = inf } }",
                "{ adaptive = { latency_threshold_ms = \"50\" } }",
            ],
        ),
        (
            "transport.rollout.stages",
            &[
                "[]", "[0]", "[101]", "[50, 25]", "[5, 5]", "[nan]", "[0.001]", "5", "[\"5\"]",
            ],
        ),
        (
            "transport.rollout.services",
            &["[\"raft\"]", "[\"nobody\"]"],
        ),
        (
            "transport.rollout.window_secs",
            &["0", "0.9", "3601", "nan", "-1"],
        ),
        (
            "transport.rollout.key_header",
            &["\"\"", "\"X-Tenant\"", "\"a b\"", "1"],
        ),
        (
            "transport.rollout.max_p99_ratio",
            &["0.9", "inf", "nan", "true"],
        ),
        (
            "transport.rollout.max_error_difference",
            &["-0.1", "1.1", "nan"],
        ),
        (
            "cluster.peer.max_connections",
            &["0", "-5", "1_000_001", "99999999999999999999999999"],
        ),
        ("cluster.peer.failure_threshold", &["0"]),
        (
            "cluster.peer.health_check_interval_secs",
            &[
                "0",
                "0.0",
                "-1",
                "inf",
                "1e300",
                "1e-10",
                "31_536_001",
                "\"30s\"",
                "2026-01-01",
            ],
        ),
        (
            "cluster.peer.reconnect_min_ms",
            &["0", "3_600_001", "40_000"],
        ),
        (
            "transport.services",
            &[
                "[]",
                "{ a = \"pkg.Svc\" }",
                "{ a = [1] }",
                "{ a = [\"*\"] }",
                "{ \"a b\" = [] }",
                "{ \"\" = [] }",
            ],
        ),
        (
            "peers",
            &[
                "1",
                "{ a = 1 }",
                "{ a = {} }",
                "{ a = { tcp = \"192.0.2.1:7001\" } }",
            ],
        ),
    ] {
        for value in values {
            let text = format!("{key} = {value}");
            let error = reader().from_toml(&text).expect_err(&text);
            let [problem] = error.problems() else {
                panic!("{text}\n{error}");
            };
            assert!(problem.key().starts_with(key), "{text}\n{error}");
            assert_eq!(problem.line(), Some(1), "{text}\n{error}");
            assert!(!problem.accepted().is_empty(), "{text}\n{error}");
        }
    }
}

#[test]
fn a_peer_that_cannot_be_is_refused() {
    let id = |seed| iroh::SecretKey::from_bytes(&[seed; 32]).public();
    let ticket = tower_iroh::Peer::new(id(1)).ticket();
    for (table, key) in [
        (format!("id = \"{}\"\nidd = 1", id(1)), "peers.a.idd"),
        ("id = \"nobody\"".to_owned(), "peers.a.id"),
        ("ticket = \"endpointgarbage\"".to_owned(), "peers.a.ticket"),
        (
            format!("id = \"{}\"\nticket = \"{ticket}\"", id(2)),
            "peers.a.id",
        ),
        (
            format!("id = \"{}\"\ntcp = \"0.0.0.0:7001\"", id(1)),
            "peers.a.tcp",
        ),
        (
            format!("id = \"{}\"\ntcp = \"192.0.2.1:0\"", id(1)),
            "peers.a.tcp",
        ),
        (
            format!("id = \"{}\"\niroh = [\"192.0.2.1\"]", id(1)),
            "peers.a.iroh",
        ),
        (
            format!("id = \"{}\"\nrelay = \"relay\"", id(1)),
            "peers.a.relay",
        ),
        (
            format!("id = \"{0}\"\n[peers.b]\nid = \"{0}\"", id(1)),
            "peers",
        ),
    ] {
        let text = format!("[peers.a]\n{table}");
        let error = Config::from_toml(&text).expect_err(&text);
        let [problem] = error.problems() else {
            panic!("{text}\n{error}");
        };
        assert_eq!(problem.key(), key, "{error}");
    }
}

#[test]
fn all_mistakes_are_told_in_the_order_of_the_text() {
    let error = Config::from_toml(
        "transport.mode = 1\ncluster.peer.max_connections = 0\n[cluster.per]\nx = 1",
    )
    .expect_err("three mistakes");
    let lines: Vec<_> = error
        .problems()
        .iter()
        .map(|problem| problem.line())
        .collect();
    assert_eq!(lines, [Some(1), Some(2), Some(3)]);
    assert_eq!(error.to_string().lines().count(), 3);
    let many: String = (0..1000)
        .map(|number| format!("key{number} = 1\n"))
        .collect();
    assert_eq!(
        Config::from_toml(&many)
            .expect_err("a thousand")
            .problems()
            .len(),
        20
    );
}

#[test]
fn what_is_no_toml_is_told_with_its_line() {
    for (text, line) in [
        ("[transport]\nmode = ", 2),
        ("a = 1\na = 2", 2),
        ("\n\n]", 3),
        ("[a]\n[a]", 2),
    ] {
        let error = Config::from_toml(text).expect_err(text);
        assert_eq!(error.problems()[0].line(), Some(line), "{error}");
        assert_eq!(error.problems()[0].found(), "is not valid TOML");
    }
}

/// Who writes the key where its file's name belongs finds it in no log.
#[test]
fn a_key_in_the_wrong_place_is_not_shown() {
    let secret = "5ec7e7".repeat(11)[..64].to_owned();
    let error = refusal(&format!("transport.identity_file = \"{secret}\""));
    assert!(
        error.contains("not shown") && !error.contains(&secret),
        "{error}"
    );
    let error = Config::builder()
        .identity_file(&secret)
        .build()
        .expect_err("no path");
    assert!(!error.to_string().contains(&secret), "{error}");
}

#[test]
fn a_long_value_is_abridged() {
    let error = refusal(&format!(
        "transport.mode = \"{}\"\n\"{}\" = 1",
        "x".repeat(1 << 16),
        "k".repeat(1 << 16)
    ));
    assert!(error.len() < 1000, "{} bytes", error.len());
}

#[test]
fn a_file_that_cannot_be_read_is_named() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("cluster.toml");
    let error = Config::from_file(&path).expect_err("not there");
    assert!(matches!(error, LoadError::Read { .. }));
    assert!(error.to_string().contains("cluster.toml"), "{error}");
    for content in [&b"\xff\xfe"[..], &vec![b'#'; (1 << 20) + 1]] {
        std::fs::write(&path, content).expect("written");
        let error = Config::from_file(&path).expect_err("no text, or too much of it");
        assert!(matches!(error, LoadError::Read { .. }), "{error}");
    }
    std::fs::write(&path, "transport.mode = 1").expect("written");
    let error = Config::from_file(&path).expect_err("no mode");
    assert!(
        error
            .to_string()
            .starts_with(&format!("{}:1:18: transport.mode", path.display())),
        "{error}"
    );
}

#[test]
fn groups_in_code_are_checked_too() {
    let bad = Config::reader().group("bad", ["*"]);
    let error = bad.from_toml("").expect_err("no method");
    assert_eq!(error.problems()[0].line(), None);
    assert!(
        error
            .to_string()
            .starts_with("transport.services.bad = \"*\""),
        "{error}"
    );
    let error = Config::builder()
        .group("bad", ["*"])
        .build()
        .expect_err("no method");
    assert_eq!(error.field(), "transport.services");
}

#[test]
fn code_and_file_are_refused_alike() {
    use std::time::Duration;
    let new = Config::builder;
    for (builder, text) in [
        (new().max_connections(0), "cluster.peer.max_connections = 0"),
        (
            new().idle_timeout(Duration::ZERO),
            "cluster.peer.idle_timeout_secs = 0",
        ),
        (
            new().idle_timeout(Duration::MAX),
            "cluster.peer.idle_timeout_secs = 1e18",
        ),
        (
            new().rollout_max_p99_ratio(f64::NAN),
            "transport.rollout.max_p99_ratio = nan",
        ),
        (
            new().rollout_stages([50.0, 5.0]),
            "transport.rollout.stages = [50, 5]",
        ),
        (
            new().prefer_iroh_for(["nobody"]),
            "transport.migration.prefer_iroh_for = [\"nobody\"]",
        ),
        (
            new().max_message_size(0),
            "transport.grpc.max_message_size = 0",
        ),
        (
            new()
                .allow_anonymous(true)
                .authorization_file("policy.toml"),
            "transport.authorization_file = \"policy.toml\"\ntransport.allow_anonymous = true",
        ),
        (
            new().reconnect_max(Duration::from_millis(1)),
            "cluster.peer.reconnect_max_secs = 0.001",
        ),
    ] {
        let built = builder.build().expect_err(text);
        let read = Config::from_toml(text).expect_err(text);
        assert_eq!(built.field(), read.problems()[0].key(), "{text}");
    }
}

/// The appendix with some of its characters replaced, taken out or put in.
fn mutilated() -> impl Strategy<Value = String> {
    let wounds = proptest::collection::vec(
        (any::<proptest::sample::Index>(), 0..3_u8, any::<char>()),
        0..8,
    );
    let ascii = proptest::collection::vec(
        (
            any::<proptest::sample::Index>(),
            0..3_u8,
            proptest::char::range(' ', '~'),
        ),
        0..8,
    );
    prop_oneof![wounds, ascii].prop_map(|wounds| {
        let mut text: Vec<char> = APPENDIX.chars().collect();
        for (at, how, other) in wounds {
            let at = at.index(text.len());
            match how {
                0 => text[at] = other,
                1 => drop(text.remove(at)),
                _ => text.insert(at, other),
            }
        }
        text.into_iter().collect()
    })
}

/// A line that may be one of a configuration.
fn line() -> impl Strategy<Value = String> {
    let shown = reader().from_toml(APPENDIX).expect("valid").to_string();
    let lines: Vec<_> = shown.lines().map(str::to_owned).collect();
    let values = prop_oneof![
        "-?[0-9]{1,25}",
        "0[xob][0-9a-f]{1,20}",
        "[+-]?(nan|inf)",
        "[0-9]{1,5}\\.[0-9]{1,3}(e-?[0-9]{1,4})?",
        "\"[a-z_]{0,12}\"",
        "\\[.{0,12}\\]",
        "\\{ [a-z_]{1,9} = [0-9\"]{0,3} \\}",
        "true|false",
        "1979-05-27T07:32:00Z",
        "\\PC{0,12}",
    ];
    let keys: Vec<_> = lines
        .iter()
        .filter_map(|line| line.split_once(" = "))
        .map(|(key, _)| key.to_owned())
        .collect();
    prop_oneof![
        proptest::sample::select(lines),
        (proptest::sample::select(keys), values)
            .prop_map(|(key, value)| format!("{key} = {value}")),
        "\\[[a-z.\"\\[\\]]{0,24}\\]",
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    /// Nothing panics, an error has a message, and what is accepted loads again from what it shows.
    #[test]
    fn no_text_panics(text in prop_oneof![
        "\\PC{0,200}",
        ".{0,80}",
        mutilated(),
        proptest::collection::vec(line(), 0..12).prop_map(|lines| lines.join("\n")),
    ]) {
        match reader().from_toml(&text) {
            Ok(config) => {
                let shown = config.to_string();
                let again = reader().from_toml(&shown).map_err(|error| TestCaseError::fail(format!("{error}\n{shown}")))?;
                prop_assert_eq!(again, config);
            }
            Err(error) => {
                prop_assert!(!error.problems().is_empty());
                prop_assert!(!error.to_string().is_empty());
            }
        }
    }
}

/// Tables within tables end somewhere.
#[test]
fn a_deep_text_is_refused_and_not_followed() {
    for text in [
        format!("a = {}", "[".repeat(100_000)),
        format!("a = {}", "{ a = ".repeat(100_000)),
        format!("[{}a]", "a.".repeat(50_000)),
        format!(
            "transport.migration.raft_transport = {}",
            "{ adaptive = ".repeat(1000)
        ),
    ] {
        assert!(Config::from_toml(&text).is_err());
    }
}

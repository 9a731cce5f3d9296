use std::{net::SocketAddr, time::Duration};

use proptest::prelude::*;
use tower_iroh::{
    Peer,
    config::{Config, ConfigBuilder, Mode, RaftTransport, Require},
};

use crate::{APPENDIX, reader};

const SECOND: Duration = Duration::from_secs(1);

#[test]
fn the_appendix_says_what_it_says() {
    let config = reader().from_toml(APPENDIX).expect("it loads");
    assert_eq!(config.mode(), Mode::Dual);
    assert_eq!(config.grpc_bind_address().to_string(), "0.0.0.0:7001");
    assert_eq!(config.max_message_size(), 4_194_304);
    assert!(!config.tls_enabled() && !config.insecure_plaintext_fallback());
    assert!(config.iroh_enabled() && config.enable_peer_connector());
    let relay = config.home_relay().expect("a relay");
    assert_eq!(relay.as_str(), "https://relay.iroh.network/");
    assert_eq!(config.discovery_port(), 0);
    assert_eq!(config.prefer_iroh_for(), ["health", "status", "monitoring"]);
    assert_eq!(config.raft_transport(), RaftTransport::AlwaysGrpc);
    assert!(config.fallback_to_grpc());
    assert_eq!(config.max_connections(), 100);
    assert_eq!(config.failure_threshold(), 5);
    assert_eq!(config.health_check_interval(), 30 * SECOND);
    assert_eq!(config.idle_timeout(), 300 * SECOND);
    assert_eq!(config.buffer_ttl(), 300 * SECOND);
    // It takes callers without TLS, and nothing says what they may call.
    let warnings = config.warnings();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(
        warnings[0].contains("transport.allow_anonymous"),
        "{warnings:?}"
    );
}

/// Whatever of the appendix is left out is as the appendix has it, but for the relay and the list, for which nobody asked, and for plaintext, which is closed
/// unless somebody asks for it.
#[test]
fn the_defaults_are_the_appendix_s() {
    let defaults = Config::from_toml("").expect("an empty file is a configuration");
    assert_eq!(defaults, Config::default());
    assert_eq!(defaults.home_relay(), None);
    assert!(defaults.prefer_iroh_for().is_empty() && !defaults.rollout_enabled());
    let asked_for = |line: &&str| {
        !["home_relay", "prefer_iroh_for", "tls_enabled"]
            .iter()
            .any(|it| line.starts_with(it))
    };
    let rest: Vec<_> = APPENDIX.lines().filter(asked_for).collect();
    assert_eq!(
        Config::from_toml(&rest.join("\n")).expect("it loads"),
        defaults
    );

    // MISSION's rows that the appendix does not have.
    assert_eq!(defaults.reconnect_min(), Duration::from_millis(100));
    assert_eq!(defaults.reconnect_max(), 30 * SECOND);
    assert_eq!(defaults.recovery_timeout(), 30 * SECOND);
    assert_eq!(defaults.rollout_stages(), [5.0, 25.0, 50.0, 100.0]);
    assert_eq!(defaults.require(), Require::All);
}

#[test]
fn the_other_document_s_spelling_of_the_list() {
    let text = "[transport.iroh]\nprefer_for_services = [\"vm_ops\", \"status\", \"monitoring\"]";
    let config = reader().from_toml(text).expect("it loads");
    assert_eq!(config.prefer_iroh_for(), ["vm_ops", "status", "monitoring"]);
}

#[test]
fn three_spellings_are_one_list() {
    let keys = [
        "transport.migration.prefer_iroh_for",
        "transport.migration.prefer_iroh",
        "transport.iroh.prefer_for_services",
    ];
    let text: String = keys
        .map(|key| format!("{key} = [\"health\", \"status\"]\n"))
        .concat();
    let config = reader().from_toml(&text).expect("they say the same");
    assert_eq!(config.prefer_iroh_for(), ["health", "status"]);
    // The order, and a name that is there twice, are no content.
    let other = text.replacen(
        "\"health\", \"status\"",
        "\"status\", \"health\", \"status\"",
        1,
    );
    assert!(reader().from_toml(&other).is_ok());

    for (first, second) in [(0, 1), (0, 2), (1, 2), (2, 1)] {
        let (first, second) = (keys[first], keys[second]);
        let text = format!("{first} = [\"health\"]\n\n{second} = [\"status\"]\n");
        let error = reader().from_toml(&text).expect_err("two lists");
        let [problem] = error.problems() else {
            panic!("{error}");
        };
        assert_eq!((problem.line(), problem.key()), (Some(3), second));
        let found = format!("on line 3 differs from {first} on line 1");
        assert_eq!(problem.found(), found);
    }
}

#[test]
fn raft_has_all_its_spellings() {
    let adaptive = |milliseconds| RaftTransport::Adaptive {
        latency_threshold: Duration::from_millis(milliseconds),
    };
    for (written, meant) in [
        ("\"always_grpc\"", RaftTransport::AlwaysGrpc),
        ("\"grpc\"", RaftTransport::AlwaysGrpc),
        ("\"always_iroh\"", RaftTransport::AlwaysIroh),
        ("\"iroh\"", RaftTransport::AlwaysIroh),
        ("\"adaptive\"", adaptive(50)),
        ("{ adaptive = {} }", adaptive(50)),
        (
            "{ adaptive = { latency_threshold_ms = 50.0 } }",
            adaptive(50),
        ),
        ("{ adaptive = { latency_threshold_ms = 7 } }", adaptive(7)),
    ] {
        let text = format!("transport.migration.raft_transport = {written}");
        let config = Config::from_toml(&text).expect(written);
        assert_eq!(config.raft_transport(), meant, "{written}");
    }
    let table = "[transport.migration.raft_transport.adaptive]\nlatency_threshold_ms = 0.5";
    let config = Config::from_toml(table).expect("a table is a table");
    let half = Duration::from_micros(500);
    assert_eq!(
        config.raft_transport(),
        RaftTransport::Adaptive {
            latency_threshold: half
        }
    );
    assert!(config.warnings()[0].contains("no group \"raft\""));
}

#[test]
fn iroh_switched_off_leaves_grpc() {
    for (mode, enabled, effective) in [
        ("dual", true, Mode::Dual),
        ("dual", false, Mode::Grpc),
        ("grpc", false, Mode::Grpc),
        ("grpc", true, Mode::Grpc),
        ("iroh", true, Mode::Iroh),
    ] {
        let text = format!("transport = {{ mode = \"{mode}\", iroh = {{ enabled = {enabled} }} }}");
        let config = Config::from_toml(&text).expect("valid");
        assert_eq!(config.effective_mode(), effective, "{text}");
    }
}

#[test]
fn a_rollout_begins_with_its_table() {
    for (text, is_on) in [
        ("", false),
        ("[transport.rollout]", true),
        (
            "[transport.rollout]\nenabled = false\ndwell_secs = 1",
            false,
        ),
        ("[transport.rollout]\nenabled = true", true),
        ("transport.rollout.stages = [0.01, 33.33, 100]", true),
    ] {
        let config = Config::from_toml(text).expect(text);
        assert_eq!(config.rollout_enabled(), is_on, "{text}");
    }
}

#[test]
fn a_file_s_groups_go_before_the_program_s() {
    let text = "transport.services = { status = [\"a.B\"], new = [\"/c.D/E\"] }\ntransport.migration.prefer_iroh = [\"new\"]";
    let config = reader().from_toml(text).expect("valid");
    assert_eq!(config.group("status"), Some(&["a.B".to_owned()][..]));
    assert_eq!(
        config.group("health"),
        Some(&["grpc.health.v1.Health".to_owned()][..])
    );
    assert_eq!(config.group("monitoring").map(<[_]>::len), Some(1));
    assert_eq!(config.group("nobody"), None);
}

fn id(seed: u8) -> iroh::EndpointId {
    iroh::SecretKey::from_bytes(&[seed; 32]).public()
}

#[test]
fn peers_have_both_addresses() {
    let there = iroh::EndpointAddr::new(id(2)).with_ip_addr(([192, 0, 2, 2], 4433).into());
    let ticket = Peer::from(there.clone()).ticket();
    let text = format!(
        r#"
[peers.by-id]
id = "{}"
iroh = "192.0.2.1:4433"
tcp = "192.0.2.1:7001"
[peers."by.ticket"]
ticket = "{ticket}"
iroh = ["[2001:db8::1]:4433", "192.0.2.2:4433"]
[peers.relayed]
id = "{}"
relay = "https://relay.example.com"
tcp = "db.example:7001"
"#,
        id(1),
        id(3)
    );
    let config = Config::from_toml(&text).expect("valid");
    let peers: Vec<_> = config.peers().collect();
    assert_eq!(
        peers.iter().map(|(name, _)| *name).collect::<Vec<_>>(),
        ["by-id", "by.ticket", "relayed"]
    );
    let first = peers[0].1;
    assert_eq!(first.id(), id(1));
    let tcp = |peer: &Peer| peer.tcp().map(ToString::to_string);
    assert_eq!(tcp(first).as_deref(), Some("192.0.2.1:7001"));
    assert_eq!(tcp(peers[2].1).as_deref(), Some("db.example:7001"));
    assert_eq!(first.addr().ip_addrs().count(), 1);
    assert_eq!(peers[1].1.addr().ip_addrs().count(), 2);
    assert_eq!(peers[2].1.addr().relay_urls().count(), 1);
    assert_eq!(
        Config::from_toml(&config.to_string()).expect("it loads again"),
        config
    );
}

#[test]
fn paths_begin_at_the_file_s_folder() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("cluster.toml");
    std::fs::write(
        &path,
        "transport.identity_file = \"key\"\ntransport.authorization_file = \"/etc/policy.toml\"",
    )
    .expect("written");
    let config = Config::from_file(&path).expect("valid");
    assert_eq!(config.identity_file(), Some(&*folder.path().join("key")));
    assert_eq!(
        config.authorization_file(),
        Some("/etc/policy.toml".as_ref())
    );
    let text = std::fs::read_to_string(&path).expect("there");
    let as_it_stands = Config::from_toml(&text).expect("valid");
    assert_eq!(as_it_stands.identity_file(), Some("key".as_ref()));
}

fn builders() -> impl Strategy<Value = ConfigBuilder> {
    let modes = prop_oneof![Just(Mode::Grpc), Just(Mode::Dual)];
    let rafts = prop_oneof![
        Just(RaftTransport::AlwaysGrpc),
        Just(RaftTransport::AlwaysIroh),
        (1..60_000_000_u64).prop_map(|micros| RaftTransport::Adaptive {
            latency_threshold: Duration::from_micros(micros)
        }),
    ];
    let numbers = (any::<u16>(), 1..u32::MAX, 1..10_000_000_u64, 0.0..=1.0_f64);
    let names = proptest::collection::vec("[a-z]{1,8}", 0..4);
    let ways = (
        any::<[u8; 4]>(),
        1..u16::MAX,
        any::<u8>(),
        proptest::option::of("\\PC{1,20}"),
    );
    (modes, rafts, numbers, names, ways, any::<[bool; 4]>()).prop_map(
        |(mode, raft, (port, bytes, millis, share), names, (ip, dialled, seed, path), flags)| {
            let names: Vec<_> = names.into_iter().filter(|name| name != "raft").collect();
            let mut builder = Config::builder()
                .mode(mode)
                .raft_transport(raft)
                .discovery_port(port)
                .grpc_bind_address((ip, port).into())
                .max_message_size(bytes as usize)
                .idle_timeout(Duration::from_millis(millis))
                .rollout_max_error_difference(share)
                .rollout_stages([f64::from(port.max(1)).min(9_999.0) / 100.0, 100.0])
                .tls_enabled(flags[0])
                .fallback_to_grpc(flags[1])
                .rollout_enabled(flags[2])
                .iroh_enabled(flags[3])
                .prefer_iroh_for(names.clone());
            for name in names {
                builder = builder.group(
                    name.clone(),
                    [format!("pkg.{name}"), format!("/pkg.{name}/Do")],
                );
            }
            if let Some(path) = path {
                builder = builder.identity_file(path);
            }
            let peer = Peer::new(id(seed)).with_tcp(SocketAddr::from(([192, 0, 2, 7], dialled)));
            builder.peer("node", peer)
        },
    )
}

proptest! {
    /// Code and file say the same: what is built is shown as a file, and that file reads as what was built.
    #[test]
    fn what_is_shown_loads_again(builder in builders()) {
        // A path that holds no NUL and is no key is one of those that are accepted.
        let Ok(config) = builder.build() else { return Ok(()) };
        let shown = config.to_string();
        let read = Config::from_toml(&shown).map_err(|error| TestCaseError::fail(format!("{error}\n{shown}")))?;
        prop_assert_eq!(read, config);
    }
}

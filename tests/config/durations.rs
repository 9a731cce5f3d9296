//! Every setting that takes a time refuses by name what no clock can show, instead of a panic later.

use std::{fmt::Debug, fs, time::Duration};

use iroh::{Endpoint, SecretKey};
use tokio::net::TcpListener;
use tower_iroh::{
    Acceptor, Channel, Links, Peer, Server, ServerError, Stack,
    config::{Commit, Config, ConfigWatch, Next, RaftTransport},
    layers::{
        ConfigError,
        breaker::BreakerConfig,
        buffer::BufferConfig,
        deadline::{DeadlineLayer, ServerDeadlineLayer},
        fail_fast::FailFastConfig,
        retry::RetryPolicy,
        rollout::{Gates, RolloutConfig},
        select::{Adaptive, Arm, Canary, SelectConfig},
    },
    presets::Offline,
    tcp::{TcpAcceptor, TcpLinks},
};

use crate::refusal;

const MAX: Duration = Duration::MAX;

fn refused<T: Debug>(field: &str, built: Result<T, ConfigError>) {
    let error = built.expect_err(field);
    assert_eq!(error.field(), field, "{error}");
}

#[test]
fn the_layers_refuse_a_time_without_an_end() {
    let retry = RetryPolicy::builder;
    refused(
        "retry.initial_backoff",
        retry().initial_backoff(MAX).max_backoff(MAX).build(),
    );
    refused("retry.max_backoff", retry().max_backoff(MAX).build());
    let breaker = BreakerConfig::builder;
    refused("breaker.window", breaker().window(MAX).build());
    refused(
        "breaker.first_wait",
        breaker().first_wait(MAX).recovery(MAX).build(),
    );
    refused("breaker.recovery", breaker().recovery(MAX).build());
    refused("buffer.ttl", BufferConfig::builder().ttl(MAX).build());
    refused("buffer.sweep", BufferConfig::builder().sweep(MAX).build());
    refused(
        "fail_fast.wait",
        FailFastConfig::builder().wait(MAX).build(),
    );
    let client = DeadlineLayer::builder().default_timeout(MAX).build();
    refused("deadline.default_timeout", client);
    let server = ServerDeadlineLayer::builder;
    refused(
        "deadline.default_timeout",
        server().default_timeout(MAX).build(),
    );
    refused("deadline.max_timeout", server().max_timeout(MAX).build());
    let adaptive = Adaptive::builder;
    refused("select.adaptive.window", adaptive().window(MAX).build());
    refused("select.adaptive.min_gain", adaptive().min_gain(MAX).build());
    refused("select.adaptive.dwell", adaptive().dwell(MAX).build());
    refused(
        "select.adaptive.probe_every",
        adaptive().probe_every(MAX).build(),
    );
    refused(
        "select.adaptive.latency_threshold",
        adaptive().latency_threshold(MAX).build(),
    );
    let select = SelectConfig::builder;
    refused("select.wait", select().wait(MAX).build());
    refused("select.head_start", select().head_start(MAX).build());
    refused("select.dwell", select().dwell(MAX).build());
    refused("select.probe_every", select().probe_every(MAX).build());
    let canary = Canary::builder("it", Arm::First).window(MAX).build();
    refused("select.canary.window", canary);
    let rollout = || RolloutConfig::builder("it");
    refused("rollout.dwell", rollout().dwell(MAX).build());
    refused("rollout.tick", rollout().tick(MAX).build());
    // Compared with and never waited for, so the longest is accepted.
    let gates = Gates::builder().max_p99_difference(MAX).build();
    gates.expect("accepted");
}

/// What would wake up again and again without a pause.
#[test]
fn what_would_keep_a_processor_busy_is_refused() {
    let tiny = Duration::from_nanos(1);
    refused("buffer.sweep", BufferConfig::builder().sweep(tiny).build());
    let short = BufferConfig::builder().ttl(tiny).build();
    short.expect("swept once in a millisecond");
    let rollout = RolloutConfig::builder("it").tick(tiny).build();
    refused("rollout.tick", rollout);
}

#[tokio::test]
async fn connections_refuse_a_time_without_an_end() {
    let endpoint = Endpoint::bind(Offline).await.expect("it binds");
    let key = SecretKey::from_bytes(&[1; 32]);
    let some = Duration::from_secs(1);
    let links = || Links::builder(endpoint.clone());
    refused("links.dial_timeout", links().dial_timeout(MAX).build());
    refused("links.backoff.min", links().backoff(MAX, MAX).build());
    refused("links.backoff.max", links().backoff(some, MAX).build());
    refused("links.idle_timeout", links().idle_timeout(MAX).build());
    refused(
        "links.health_interval",
        links().health_interval(MAX).build(),
    );
    let links = || TcpLinks::builder(key.clone());
    refused("links.dial_timeout", links().dial_timeout(MAX).build());
    refused("links.backoff.min", links().backoff(MAX, MAX).build());
    refused("links.backoff.max", links().backoff(some, MAX).build());
    refused("links.idle_timeout", links().idle_timeout(MAX).build());
    refused(
        "links.health_interval",
        links().health_interval(MAX).build(),
    );
    refused("tcp.keep_alive", links().keep_alive(MAX).build());

    let acceptor = Acceptor::builder;
    refused(
        "acceptor.handshake_timeout",
        acceptor().handshake_timeout(MAX).build(),
    );
    refused(
        "acceptor.preamble_timeout",
        acceptor().preamble_timeout(MAX).build(),
    );
    refused(
        "acceptor.drain_timeout",
        acceptor().drain_timeout(MAX).build(),
    );
    refused(
        "acceptor.idle_timeout",
        acceptor().idle_timeout(MAX).build(),
    );
    refused(
        "acceptor.max_connection_age",
        acceptor().max_connection_age(MAX).build(),
    );
    refused(
        "acceptor.max_connection_age_grace",
        acceptor().max_connection_age_grace(MAX).build(),
    );
    let acceptor = || TcpAcceptor::builder(key.clone());
    for (field, builder) in [
        ("tcp.handshake_timeout", acceptor().handshake_timeout(MAX)),
        ("tcp.drain_timeout", acceptor().drain_timeout(MAX)),
        ("tcp.keep_alive", acceptor().keep_alive(MAX)),
        ("tcp.idle_timeout", acceptor().idle_timeout(MAX)),
        ("tcp.max_connection_age", acceptor().max_connection_age(MAX)),
        (
            "tcp.max_connection_age_grace",
            acceptor().max_connection_age_grace(MAX),
        ),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        refused(field, builder.build(listener));
    }
    let server = Server::builder().endpoint(endpoint.clone());
    let error = server.drain_timeout(MAX).bind().await.expect_err("refused");
    assert!(matches!(error, ServerError::Config(_)), "{error:?}");

    let channel = Channel::builder(endpoint).peer(Peer::new(key.public()));
    refused("stack.timeout", channel.timeout(MAX).build());
    refused("stack.timeout", Stack::builder().timeout(MAX).build());
}

#[tokio::test]
async fn a_watch_refuses_a_time_without_an_end() {
    let apply = |_: &mut Next| Ok(Box::new(|| {}) as Commit);
    let watch = || ConfigWatch::builder("cluster.toml", Config::default());
    refused("config_watch.settle", watch().settle(MAX).start(apply));
    let settle = watch().settle(Duration::ZERO).start(apply);
    refused("config_watch.settle", settle);
    for time in [MAX, Duration::ZERO, Duration::from_nanos(1)] {
        let watch = watch().poll_interval(time).start(apply);
        refused("config_watch.poll_interval", watch);
    }
    let watch = watch()
        .settle(ConfigError::LONGEST)
        .poll_interval(ConfigError::LONGEST);
    watch.start(apply).expect("the longest that is accepted");
}

#[test]
fn a_configuration_refuses_a_time_without_an_end() {
    let new = Config::builder;
    let adaptive = RaftTransport::Adaptive {
        latency_threshold: MAX,
    };
    for (key, builder) in [
        ("transport.drain_timeout_secs", new().drain_timeout(MAX)),
        (
            "transport.idle_timeout_secs",
            new().server_idle_timeout(MAX),
        ),
        (
            "transport.max_connection_age_secs",
            new().max_connection_age(Some(MAX)),
        ),
        (
            "transport.max_connection_age_grace_secs",
            new().max_connection_age_grace(Some(MAX)),
        ),
        ("transport.rollout.dwell_secs", new().rollout_dwell(MAX)),
        ("transport.rollout.window_secs", new().rollout_window(MAX)),
        (
            "transport.rollout.max_p99_difference_ms",
            new().rollout_max_p99_difference(MAX),
        ),
        ("cluster.peer.dial_timeout_secs", new().dial_timeout(MAX)),
        ("cluster.peer.reconnect_min_ms", new().reconnect_min(MAX)),
        ("cluster.peer.reconnect_max_secs", new().reconnect_max(MAX)),
        (
            "cluster.peer.health_check_interval_secs",
            new().health_check_interval(MAX),
        ),
        ("cluster.peer.idle_timeout_secs", new().idle_timeout(MAX)),
        (
            "cluster.peer.recovery_timeout_secs",
            new().recovery_timeout(MAX),
        ),
        ("cluster.peer.buffer_ttl_secs", new().buffer_ttl(MAX)),
        (
            "transport.migration.raft_transport",
            new().raft_transport(adaptive),
        ),
    ] {
        refused(key, builder.build());
    }
}

/// Every row of the page whose type is a time.
#[test]
fn a_file_refuses_a_time_without_an_end() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/configuration.md");
    let page = fs::read_to_string(page).expect("readable");
    let mut keys = vec![];
    for line in page.lines() {
        let cells: Vec<_> = line.split('|').map(str::trim).collect();
        if let [_, key, kind, ..] = cells[..]
            && (kind.starts_with("seconds") || kind.starts_with("milliseconds"))
        {
            keys.push(key.trim_matches('`'));
        }
    }
    assert_eq!(keys.len(), 18, "{keys:?}");
    for key in keys {
        for value in ["18446744073709551615", "1e300", "1e-300", "0", "-1"] {
            let told = refusal(&format!("{key} = {value}"));
            assert!(told.contains(&format!("{key} = {value}: ")), "{told}");
        }
    }
}

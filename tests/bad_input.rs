//! What is refused, and how: each error names the setting or the text, its value, and what is accepted. Nothing is half-started.

use std::{error::Error as StdError, time::Duration};

use http::Uri;
use iroh::{Endpoint, EndpointAddr, RelayConfig, RelayMap, RelayMode, SecretKey};
use tonic::{Code, Status};
use tower::{Service as _, ServiceExt as _};
use tower_iroh::{
    Acceptor, Channel, ChannelBuilder, ConfigError, Connector, Error, ErrorKind, ExactCodesLayer,
    LaneConfig, Lanes, Links, Peer, PeerError, Stack, TransportKind, Tuning,
    identity::{self, IdentityError},
    layers::{
        breaker::{BreakerConfig, Circuit},
        select::{Choice, SelectHandle, SelectPolicy},
    },
    presets::Offline,
    tcp::TcpLinks,
};
use tower_iroh_proto::echo::{EchoRequest, echo_client::EchoClient};

async fn endpoint() -> Endpoint {
    Endpoint::bind(Offline).await.expect("127.0.0.1 is there")
}

fn peer() -> Peer {
    Peer::new(SecretKey::from_bytes(&[5; 32]).public())
}

/// The setting, its value and what is accepted, all of them in the text too.
#[track_caller]
fn refused<T>(result: Result<T, ConfigError>, field: &str, value: &str, accepted: &str) {
    let Err(error) = result else {
        panic!("{field} = {value} was accepted");
    };
    assert_eq!(error.field(), field);
    assert!(error.value().contains(value), "{error}");
    assert!(error.accepted().contains(accepted), "{error}");
    let text = error.to_string();
    assert!(
        text.contains(field) && text.contains(value) && text.contains(accepted),
        "{text}"
    );
}

#[test]
fn malformed_tickets_are_named_and_so_is_what_is_accepted() {
    let ticket =
        Peer::from(EndpointAddr::new(peer().id()).with_ip_addr(([192, 0, 2, 1], 4433).into()))
            .ticket();
    let mut cut = ticket.clone();
    cut.truncate(ticket.len() / 2);
    let mut typo = ticket.clone();
    typo.insert(20, '!');
    for text in [
        "",
        "hello",
        "endpoint",
        "endpointgarbage",
        &cut,
        &typo,
        &"x".repeat(1 << 20),
    ] {
        let error = text.parse::<Peer>().expect_err("not a peer");
        let PeerError::Ticket { text: shown, .. } = &error else {
            panic!("{error:?}");
        };
        assert!(text.starts_with(shown.trim_end_matches("...")));
        assert!(error.source().is_some(), "why it is none");
        let message = error.to_string();
        assert!(
            message.contains("iroh://<endpoint id>") && message.len() < 300,
            "{message}"
        );
    }
    assert!(ticket.parse::<Peer>().is_ok());
}

#[test]
fn uris_without_a_valid_id_are_named() {
    for (text, expected) in [
        ("iroh://example.com", "\"example.com\""),
        ("http://localhost:50051", "\"localhost\""),
        ("iroh://0123456789abcdef", "\"0123456789abcdef\""),
        ("iroh:///path", "iroh:///path"),
    ] {
        let error = text.parse::<Peer>().expect_err("no id");
        assert!(matches!(error, PeerError::Id(_)), "{error:?}");
        let message = error.to_string();
        assert!(
            message.contains(expected) && message.contains("64 hexadecimal digits"),
            "{message}"
        );
    }
    let error = format!("ftp://{}", peer().id())
        .parse::<Peer>()
        .expect_err("ftp");
    assert!(matches!(&error, PeerError::Scheme(scheme) if scheme == "ftp"));
    assert!(error.to_string().contains("iroh://<endpoint id>"));
}

#[test]
fn https_is_refused_with_the_reason() {
    let error = format!("https://{}", peer().id())
        .parse::<Peer>()
        .expect_err("https");
    assert!(matches!(error, PeerError::Https));
    let message = error.to_string();
    assert!(
        message.contains("is encrypted and authenticated"),
        "{message}"
    );
    assert!(message.contains("http://<endpoint id>"), "{message}");
}

/// The first of a chain's errors that is of that type.
fn found<'a, T: StdError + 'static>(error: &'a (dyn StdError + 'static)) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(current) = next {
        if let Some(found) = current.downcast_ref() {
            return Some(found);
        }
        next = current.source();
    }
    None
}

#[tokio::test]
async fn connector_refuses_a_bad_uri_with_a_status_in_the_source_chain() {
    let mut connector = Connector::new(endpoint().await);
    for uri in [
        format!("https://{}/", peer().id()),
        "iroh://example.com/".to_owned(),
        format!("ftp://{}/", peer().id()),
        "/only/a/path".to_owned(),
    ] {
        let uri: Uri = uri.parse().expect("a URI");
        // The connector by itself.
        let error = connector
            .ready()
            .await
            .expect("ready")
            .call(uri.clone())
            .await
            .expect_err("refused");
        assert_eq!(error.kind(), ErrorKind::InvalidPeer, "{uri}");
        assert_eq!(error.status().code(), Code::InvalidArgument);
        let beneath = found::<Status>(&error).expect("a status in the chain");
        assert_eq!(beneath.code(), Code::InvalidArgument);
        assert!(
            beneath.source().is_some_and(|it| it.is::<PeerError>()),
            "and what it was"
        );
        assert_eq!(connector.links().connections(), 0, "nothing was dialled");
    }
    let uri = "iroh://example.com/";
    let tonic = || tonic::transport::Endpoint::from_static(uri);
    // tonic's transport error has the exact status in its chain.
    let error = tonic()
        .connect_with_connector(connector.clone())
        .await
        .expect_err("refused");
    let beneath = found::<Error>(&error).expect("ours in the chain");
    assert_eq!(beneath.kind(), ErrorKind::InvalidPeer);
    let beneath = found::<Status>(&error).expect("a status in the chain");
    assert_eq!(beneath.code(), Code::InvalidArgument);
    assert!(beneath.message().contains("\"example.com\""), "{beneath:?}");
    // A call on a lazy channel shows UNAVAILABLE, and the exact code with the layer.
    let channel = tonic().connect_with_connector_lazy(connector);
    let plain = EchoClient::new(channel.clone())
        .echo(EchoRequest::default())
        .await;
    assert_eq!(plain.expect_err("refused").code(), Code::Unavailable);
    let exact = tower::Layer::layer(&ExactCodesLayer, channel);
    let exact = EchoClient::new(exact).echo(EchoRequest::default()).await;
    assert_eq!(exact.expect_err("refused").code(), Code::InvalidArgument);
}

#[tokio::test]
async fn endpoint_that_is_closed() {
    let closed = endpoint().await;
    closed.close().await;
    let error = Peer::of(&closed).expect_err("closed");
    assert!(matches!(error, PeerError::Closed));
    assert!(error.to_string().contains("bind it"), "{error}");
    let id = closed.id().fmt_short().to_string();
    refused(
        Links::builder(closed.clone()).build(),
        "links.endpoint",
        &id,
        "an endpoint that is bound",
    );
    let built = Channel::builder(closed.clone()).peer(peer()).build();
    refused(built, "links.endpoint", &id, "an endpoint that is bound");
    // What cannot fail when it is made says so when it is used, at once.
    let connector = Connector::new(closed);
    connector.add_peer(EndpointAddr::new(peer().id()).with_ip_addr(([127, 0, 0, 1], 9).into()));
    let call = connector.clone().oneshot(peer().uri());
    let call = tokio::time::timeout(Duration::from_secs(2), call).await;
    let error = call.expect("at once").expect_err("closed");
    assert_eq!(error.kind(), ErrorKind::Closed, "{error:?}");
    assert_eq!(error.status().code(), Code::Unavailable);
    assert_eq!(connector.links().connections(), 0);
}

#[tokio::test]
async fn endpoint_without_a_dialable_address() {
    // A relay that is not there, and nothing else.
    let relay = "http://127.0.0.1:9".parse().expect("a URL");
    let map: RelayMap = RelayConfig::new(relay, None).into();
    let unreachable = Endpoint::builder(Offline)
        .clear_ip_transports()
        .relay_mode(RelayMode::Custom(map));
    let unreachable = unreachable.bind().await.expect("bound");
    let error = Peer::of(&unreachable).expect_err("no address");
    assert!(matches!(error, PeerError::NotDialable), "{error:?}");
    assert!(error.to_string().contains("relay"), "{error}");
}

#[tokio::test]
async fn peers_nothing_is_known_of_and_ourselves() {
    let endpoint = endpoint().await;
    let ourselves = Peer::of(&endpoint).expect("dialable");
    let call = async |peer: Peer| {
        let channel = Channel::builder(endpoint.clone())
            .peer(peer.clone())
            .build()
            .expect("valid");
        let links = Links::new(endpoint.clone());
        let connector = Connector::with_links(links);
        connector.add_peer(peer.clone());
        let ended =
            tokio::time::timeout(Duration::from_secs(5), connector.oneshot(peer.uri())).await;
        let kind = ended.expect("at once").expect_err("refused").kind();
        let mut client = EchoClient::new(channel);
        let ended = client.echo(EchoRequest::default());
        let ended = tokio::time::timeout(Duration::from_secs(5), ended).await;
        (kind, ended.expect("at once").expect_err("refused").code())
    };
    assert_eq!(
        call(peer()).await,
        (ErrorKind::NoAddress, Code::Unavailable)
    );
    assert_eq!(
        call(ourselves).await,
        (ErrorKind::InvalidPeer, Code::InvalidArgument)
    );
}

#[tokio::test]
async fn zero_limits_are_refused_by_name() {
    let links = || async { Links::builder(endpoint().await) };
    let zero = Duration::ZERO;
    refused(
        links().await.max_connections(0).build(),
        "links.max_connections",
        "0",
        "at least 1",
    );
    refused(
        links().await.max_connections(usize::MAX).build(),
        "links.max_connections",
        &usize::MAX.to_string(),
        "at most",
    );
    refused(
        links().await.dial_timeout(zero).build(),
        "links.dial_timeout",
        "0ns",
        "longer than zero",
    );
    refused(
        links().await.idle_timeout(zero).build(),
        "links.idle_timeout",
        "0ns",
        "longer than zero",
    );
    refused(
        links().await.health_interval(zero).build(),
        "links.health_interval",
        "0ns",
        "longer than zero",
    );
    refused(
        links().await.backoff(zero, zero).build(),
        "links.backoff.min",
        "0ns",
        "longer than zero",
    );

    let acceptor = Acceptor::builder;
    refused(
        acceptor().max_connections_per_peer(0).build(),
        "acceptor.max_connections_per_peer",
        "0",
        "at least 1",
    );
    refused(
        acceptor().max_lanes_per_connection(0).build(),
        "acceptor.max_lanes_per_connection",
        "0",
        "at least 1",
    );
    refused(
        acceptor().max_handshakes(0).build(),
        "acceptor.max_handshakes",
        "0",
        "at least 1",
    );
    refused(
        acceptor().preamble_timeout(zero).build(),
        "acceptor.preamble_timeout",
        "0ns",
        "longer than zero",
    );
    refused(
        acceptor().drain_timeout(zero).build(),
        "acceptor.drain_timeout",
        "0ns",
        "longer than zero",
    );

    let channel = Channel::builder(endpoint().await).peer(peer());
    refused(
        channel.timeout(zero).build(),
        "stack.timeout",
        "0ns",
        "longer than zero",
    );
}

#[tokio::test]
async fn contradictory_settings_are_refused_by_name() {
    let endpoint = endpoint().await;
    let second = Duration::from_secs(1);
    let links = Links::builder(endpoint.clone()).backoff(second * 2, second);
    refused(
        links.build(),
        "links.backoff.min",
        "2s",
        "links.backoff.max (1s)",
    );
    refused(
        Channel::builder(endpoint.clone()).build(),
        "channel.peer",
        "nothing",
        "a ticket",
    );
    let agent = Channel::builder(endpoint.clone())
        .peer(peer())
        .user_agent("line\nbreak");
    refused(
        agent.build(),
        "channel.user_agent",
        "line\\nbreak",
        "visible ASCII",
    );
    // A setting that shared links have already.
    let shared = || Channel::with_links(Links::new(endpoint.clone())).peer(peer());
    refused(
        shared().lanes(Lanes::raft()).build(),
        "channel.lanes",
        "shared links",
        "Links::builder",
    );
    refused(
        shared().tuning(Tuning::lan()).build(),
        "channel.tuning",
        "shared links",
        "Links::builder",
    );
    let dial = shared().links(|links| links.dial_timeout(second));
    refused(
        dial.build(),
        "channel.links",
        "shared links",
        "Links::builder",
    );
    assert!(shared().build().is_ok());
}

/// Each of these would silently do nothing.
#[tokio::test]
async fn settings_that_a_channel_cannot_have_are_refused_by_name() {
    let endpoint = endpoint().await;
    let circuit = || Circuit::builder(BreakerConfig::default()).build();
    let select = || {
        SelectHandle::new(SelectPolicy::from(Choice::Prefer(
            TransportKind::Iroh.into(),
        )))
    };
    let channel = || Channel::builder(endpoint.clone()).peer(peer());
    let cases: Vec<(ChannelBuilder, _, _, _)> = vec![
        (
            channel()
                .select(select())
                .stack(|stack| stack.circuit(circuit())),
            "stack.circuit",
            "two transports",
            "circuit_of",
        ),
        (
            channel().stack(|stack| stack.circuit_of(TransportKind::Tcp, circuit())),
            "stack.circuit_of",
            "set for tcp",
            "each transport of the channel",
        ),
        (
            channel().stack(|stack| {
                stack
                    .circuit(circuit())
                    .circuit_of(TransportKind::Iroh, circuit())
            }),
            "stack.circuit",
            "twice",
            "one of",
        ),
        (
            channel().stack(|stack| stack.circuit(circuit()).breaker(BreakerConfig::default())),
            "stack.breaker",
            "shared",
            "where it is built",
        ),
        (
            channel().stack(|stack| stack.breaker(BreakerConfig::default()).circuit(circuit())),
            "stack.breaker",
            "shared",
            "where it is built",
        ),
        (
            channel().stack(|stack| stack.transport("carrier pigeon")),
            "stack.transport",
            "carrier pigeon",
            "leave it out",
        ),
        (
            channel().stack(|stack| stack.rtt(|| None)),
            "stack.rtt",
            "set on a channel",
            "leave it out",
        ),
        (
            channel()
                .select(select())
                .tcp_links(|links| links.dial_timeout(Duration::from_secs(1)))
                .shared_tcp_links(TcpLinks::new(endpoint.secret_key().clone())),
            "channel.tcp_links",
            "shared links",
            "TcpLinks::builder",
        ),
    ];
    for (channel, field, value, accepted) in cases {
        refused(channel.build(), field, value, accepted);
    }
    let stack = Stack::builder().circuit_of(TransportKind::Iroh, circuit());
    refused(stack.build(), "stack.circuit_of", "one service", "circuit");
    // A circuit that is set and one that is looked up are the same.
    let own = circuit();
    let set = channel().stack(|stack| stack.circuit_of(TransportKind::Iroh, own.clone()));
    let set = set.build().expect("valid");
    own.force_open();
    let found = set
        .stack()
        .circuit_of(TransportKind::Iroh)
        .expect("its own");
    assert!(!found.state().is_closed());
    assert!(set.stack().circuit_of(TransportKind::Tcp).is_none());
    // What was set before is taken back, which the setting says.
    let without = channel().stack(|stack| stack.circuit(circuit()).without_breaker());
    assert!(without.build().is_ok());
}

#[tokio::test]
async fn windows_and_lanes_that_break_the_rule_are_refused_by_name() {
    let endpoint = endpoint().await;
    let tuned = |tuning| Links::builder(endpoint.clone()).tuning(tuning).build();
    let auto = Tuning::auto;
    refused(
        tuned(auto().stream_window(0)),
        "tuning.stream_window",
        "0",
        "1 to 1250000",
    );
    refused(
        tuned(auto().stream_window(1_250_001)),
        "tuning.stream_window",
        "1250001",
        "1 to 1250000",
    );
    refused(
        tuned(auto().send_window(1_249_999)),
        "tuning.send_window",
        "1249999",
        "1250000",
    );
    refused(
        tuned(auto().short_window(0)),
        "tuning.short_window",
        "0",
        "tuning.long_window",
    );
    refused(
        tuned(auto().short_window(2 << 30)),
        "tuning.short_window",
        "2147483648",
        "tuning.long_window",
    );
    refused(
        tuned(auto().long_window(1 << 62)),
        "tuning.long_window",
        &(1u64 << 62).to_string(),
        "2^62",
    );
    // The acceptor and the channel check the same.
    let acceptor = Acceptor::builder().tuning(auto().stream_window(0));
    refused(
        acceptor.build(),
        "tuning.stream_window",
        "0",
        "1 to 1250000",
    );
    let channel = Channel::builder(endpoint.clone())
        .peer(peer())
        .tuning(auto().stream_window(0));
    refused(channel.build(), "tuning.stream_window", "0", "1 to 1250000");

    // Bulk streams x stream window <= send window.
    let eight = auto().send_window(4 * 1_250_000);
    refused(
        tuned(eight),
        "lanes.max_streams",
        "8 together",
        "carries 4 streams of 1250000",
    );
    let laned = |lanes: Vec<LaneConfig>| {
        Links::builder(endpoint.clone())
            .lanes(Lanes::new(lanes))
            .build()
    };
    let all = || LaneConfig::new(0..=7);
    refused(
        laned(vec![all().max_streams(17)]),
        "lanes.max_streams",
        "17 together",
        "carries 16 streams",
    );
    refused(
        laned(vec![all().max_streams(0)]),
        "lanes.max_streams",
        "0",
        "at least 1",
    );
    refused(
        laned(vec![all().calls_per_stream(0)]),
        "lanes.calls_per_stream",
        "0",
        "at least 1",
    );
    refused(
        laned(vec![all().max_waiting(0)]),
        "lanes.max_waiting",
        "0",
        "at least 1",
    );
    refused(laned(vec![]), "lanes.urgencies", "up to -1", "cover 0 to 7");
    refused(
        laned(vec![LaneConfig::new(0..=3)]),
        "lanes.urgencies",
        "up to 3",
        "cover 0 to 7",
    );
    refused(
        laned(vec![LaneConfig::new(1..=7)]),
        "lanes.urgencies",
        "1..=7",
        "begin at 0",
    );
    refused(
        laned(vec![LaneConfig::new(0..=9)]),
        "lanes.urgencies",
        "0..=9",
        "at 7 or below",
    );
    assert!(
        laned(vec![all().calls_per_stream(usize::MAX)]).is_ok_and(|links| links.connections() == 0)
    );
}

#[cfg(unix)]
#[test]
fn key_files_that_cannot_be_used() {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("key");
    let key = identity::load_or_create(&path).expect("made");
    let kept = fs::read(&path).expect("there");

    fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("set");
    let error = identity::load_or_create(&path).expect_err("too open");
    assert!(
        matches!(&error, IdentityError::TooOpen { path: named, mode: 0o644 } if *named == path)
    );
    let message = error.to_string();
    assert!(
        message.contains("0644") && message.contains("chmod 600"),
        "{message}"
    );
    assert_eq!(
        fs::read(&path).expect("there"),
        kept,
        "nothing was replaced"
    );
    fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("set");
    assert_eq!(
        identity::load_or_create(&path).expect("read").public(),
        key.public()
    );

    fs::write(&path, "not a key\n").expect("written");
    let error = identity::load_or_create(&path).expect_err("no key");
    assert!(matches!(&error, IdentityError::NotAKey { path: named } if *named == path));
    assert!(
        error.to_string().contains("64 hexadecimal digits"),
        "{error}"
    );
    assert!(
        !format!("{error:?}").contains("not a key\\n"),
        "what it holds is not shown"
    );

    // A folder in the file's place: who runs the tests as root can read whatever has a mode.
    let error = identity::load_or_create(folder.path()).expect_err("a folder");
    assert!(
        matches!(
            &error,
            IdentityError::Read { .. } | IdentityError::TooOpen { .. }
        ),
        "{error:?}"
    );
    let nowhere = folder.path().join("nowhere/key");
    let error = identity::load_or_create(&nowhere).expect_err("no folder");
    assert!(matches!(&error, IdentityError::Create { path: named, .. } if *named == nowhere));
    assert!(error.source().is_some() && error.to_string().contains("nowhere/key"));
    let error = identity::load(folder.path().join("absent")).expect_err("absent");
    assert!(matches!(&error, IdentityError::Read { .. }) && error.source().is_some());
}

#[cfg(unix)]
#[test]
fn unreadable_key_file() {
    use std::{fs, os::unix::fs::PermissionsExt as _};

    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("key");
    identity::load_or_create(&path).expect("made");
    fs::set_permissions(&path, fs::Permissions::from_mode(0o000)).expect("set");
    // Root reads everything; anybody else is told.
    if fs::File::open(&path).is_err() {
        let error = identity::load_or_create(&path).expect_err("unreadable");
        assert!(matches!(&error, IdentityError::Read { path: named, .. } if *named == path));
        assert!(error.source().is_some(), "why");
    }
    // A file that holds no text is unreadable to anybody.
    let broken = folder.path().join("loop");
    std::os::unix::fs::symlink(&broken, &broken).expect("linked");
    let error = identity::load_or_create(&broken).expect_err("a loop");
    assert!(matches!(&error, IdentityError::Read { path: named, .. } if *named == broken));
}

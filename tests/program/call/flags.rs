//! Flags of `call`: headers, sizes, urgency, retries, and what `-v` shows.

use super::{ECHO, Place, SERVICE, assert_ok, harness::Arm, values};
use crate::support::{ended, program, run, spawn};

#[tokio::test]
async fn headers_reach_the_calls_that_they_are_for() {
    let place = Place::new(Arm::Channel).await;
    let method = format!("{SERVICE}/EmptyCall");
    let args = place.args(
        "call",
        &[
            &method,
            "-H",
            "x-all: a",
            "-rpc-header",
            "x-bytes-bin: AQI=",
            "-reflect-header",
            "x-reflection: no",
            "-expand-headers",
            "-H",
            "authorization: Bearer ${TOKEN_OF_TEST}",
            "-user-agent",
            "tester/1",
            "-authority",
            "db.example",
            "-urgency",
            "control",
        ],
    );
    let output = program(&args).env("TOKEN_OF_TEST", "t0").output().await;
    assert_eq!(output.expect("started").status.code(), Some(0));
    let request = place.world.backstage.take_request();
    let header = |name: &str| {
        let value = request.metadata().get(name)?.to_str();
        Some(value.expect("ASCII").to_owned())
    };
    assert_eq!(header("x-all").as_deref(), Some("a"));
    assert_eq!(header("authorization").as_deref(), Some("Bearer t0"));
    assert_eq!(header("x-reflection"), None);
    assert_eq!(header("priority").as_deref(), Some("u=1"));
    assert!(header("user-agent").expect("one").starts_with("tester/1"));
    let bytes = request.metadata().get_bin("x-bytes-bin").expect("there");
    assert_eq!(bytes.to_bytes().expect("base64").as_ref(), [1, 2]);

    let missing = run(args).await;
    assert_eq!(missing.code, Some(2));
    assert!(missing.stderr.contains("no `TOKEN_OF_TEST`"), "{missing:?}");
}

#[tokio::test]
async fn a_response_above_the_limit_is_refused_and_a_larger_limit_takes_it() {
    for place in Place::both().await {
        let method = format!("{ECHO}/ServerStream");
        let data = "{\"count\": 1, \"size\": 5000000}";
        let refused = place.run("call", &[&method, "-d", data]).await;
        assert_eq!(refused.code, Some(72), "{}", refused.stderr);
        assert!(
            refused
                .stderr
                .contains("`-max-msg-sz BYTES` accepts larger"),
            "{refused:?}"
        );
        let taken = place
            .run("call", &[&method, "-d", data, "-max-msg-sz", "6000000"])
            .await;
        assert_eq!((taken.code, taken.stderr.as_str()), (Some(0), ""));
        assert!(taken.stdout.len() > 6_000_000);
        // The schema is a response too, and requests have no limit.
        let schema = place.run("list", &[ECHO, "-max-msg-sz", "100"]).await;
        assert_eq!(schema.code, Some(72), "{schema:?}");
        let request = format!("{{\"payload\": \"{}\"}}", "A".repeat(1000));
        let method = format!("{ECHO}/ClientStream");
        let protos = concat!(env!("CARGO_MANIFEST_DIR"), "/proto/proto");
        let local = [
            "-import-path",
            protos,
            "-proto",
            "tower_iroh/echo/v1/echo.proto",
        ];
        let args = [&[&method, "-d", &request, "-max-msg-sz", "100"][..], &local].concat();
        let sent = place.run("call", &args).await;
        assert_ok(&sent);
    }
}

#[tokio::test]
async fn verbose_shows_what_grpcurl_shows_and_the_path_on_standard_error() {
    for place in Place::both().await {
        let ended = place
            .call("UnaryCall", &["-v", "-H", "x-a: b", "-d", "{}"])
            .await;
        assert_eq!(ended.code, Some(0), "{ended:?}");
        for part in [
            "\nResolved method descriptor:\n",
            "rpc UnaryCall ( .tower_iroh.testing.v1.SimpleRequest ) returns ( .tower_iroh.testing.v1.SimpleResponse );\n\nRequest metadata to send:\nx-a: b\n\nResponse headers received:\ncontent-type: application/grpc\n",
            "\nResponse contents:\n{\n",
            "\nResponse trailers received:\n(empty)\n",
            "\nSent 1 request and received 1 response\n",
        ] {
            assert!(ended.stdout.contains(part), "{part:?} in {}", ended.stdout);
        }
        for part in [
            "urgency    u=3",
            "attempts   1",
            "first byte ",
            "last byte  ",
            "schema     ",
        ] {
            assert!(ended.stderr.contains(part), "{part:?} in {}", ended.stderr);
        }
        if place.world.ticket().is_some() {
            for part in [
                "transport  iroh",
                "path       direct 127.0.0.1:",
                "rtt        ",
                "dial       ",
            ] {
                assert!(ended.stderr.contains(part), "{part:?} in {}", ended.stderr);
            }
        }
        let twice = place
            .call("UnaryCall", &["-vv", "-d", "{\"responseSize\": 3}"])
            .await;
        assert!(
            twice.stdout.contains("\nEstimated response size: "),
            "{twice:?}"
        );
        // With --json nothing but answers is on standard output.
        let json = place.call("UnaryCall", &["-v", "--json", "-d", "{}"]).await;
        assert_eq!(json.stdout.lines().count(), 1);
        assert_eq!(values(&json.stdout).len(), 1);
        let extras = json.stderr.lines().last().expect("extras");
        assert_eq!(values(extras)[0]["attempts"], "1");
        let failed = place.call("UnimplementedCall", &["-v"]).await;
        assert_eq!(failed.code, Some(76));
        assert!(
            failed
                .stdout
                .contains("Sent 1 request and received 0 responses"),
            "{failed:?}"
        );
    }
}

/// The first connection is hung up on; the next ones lead to a server.
#[tokio::test]
async fn a_call_that_waits_for_ready_waits() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a free port");
    let target = format!("tcp://{}", listener.local_addr().expect("bound"));
    let method = format!("{SERVICE}/EmptyCall");
    let args = ["call", &target, "-plaintext", &method, "-wait-for-ready"];
    let child = spawn(args);
    drop(listener.accept().await.expect("the program dials"));
    let place = Place::new(Arm::Tcp).await;
    let server = place.world.server_addr().expect("on TCP");
    let forward = tokio::spawn(async move {
        loop {
            let (mut from, _) = listener.accept().await.expect("the program dials again");
            let mut to = tokio::net::TcpStream::connect(server)
                .await
                .expect("it serves");
            tokio::spawn(async move { tokio::io::copy_bidirectional(&mut from, &mut to).await });
        }
    });
    let ended = ended(child).await;
    assert_eq!((ended.code, ended.stdout.as_str()), (Some(0), "{}\n"));
    forward.abort();
}

/// The same over iroh: the first dial is refused, a later one is served.
#[tokio::test]
async fn a_call_waits_for_a_peer_over_iroh() {
    let endpoint = iroh::Endpoint::bind(tower_iroh::presets::Offline).await;
    let endpoint = endpoint.expect("a free port");
    let ticket = tower_iroh::Peer::of(&endpoint)
        .expect("an address")
        .ticket();
    endpoint.set_alpns(vec![tower_iroh::ALPN.to_vec()]);
    let args = ["health", &ticket, "-wait-for-ready"];
    let child = spawn(args);
    let first = endpoint.accept().await.expect("the program dials");
    first.refuse();
    let (acceptor, incoming) = tower_iroh::Acceptor::new();
    let router = acceptor.router(endpoint).spawn();
    let reporter = tonic_health::server::HealthReporter::new();
    let health = tonic_health::server::HealthService::from_health_reporter(reporter);
    let health = tonic_health::pb::health_server::HealthServer::new(health);
    let server = tonic::transport::Server::builder().add_service(health);
    tokio::spawn(server.serve_with_incoming(incoming));
    assert_eq!(ended(child).await.stdout, "SERVING\n");
    router.shutdown().await.expect("it shuts down");
}

#[tokio::test]
async fn a_method_that_may_be_done_twice_is_tried_again() {
    for place in Place::both().await {
        let data = "{\"responseStatus\": {\"code\": 14}}";
        for (flags, attempts) in [(&[][..], 1), (&["-retry"], 3), (&["-retry=5"], 5)] {
            let before = place.world.backstage.counts().begun;
            let args = [&["-v", "-d", data][..], flags].concat();
            let failed = place.call("UnaryCall", &args).await;
            assert_eq!(failed.code, Some(78), "{failed:?}");
            assert_eq!(place.world.backstage.counts().begun - before, attempts);
            assert!(
                failed.stderr.contains(&format!("attempts   {attempts}\n")),
                "{failed:?}"
            );
        }
    }
}

/// Whoever reads the answers has enough of them: the call ends, and with it the program.
#[tokio::test]
async fn a_reader_that_leaves_ends_the_call() {
    let place = Place::new(Arm::Channel).await;
    let method = format!("{SERVICE}/FullDuplexCall");
    let data = "{\"responses\": [{\"size\": 1}, {\"intervalMs\": 1}, {\"intervalMs\": 1}, {\"intervalMs\": 60000}]}";
    let args = place.args("call", &[&method, "-d", data, "--json"]);
    let mut child = spawn(args);
    drop(child.stdout.take());
    let ended = ended(child).await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(
        ended.stderr.contains("standard output cannot be written"),
        "{ended:?}"
    );
    place
        .world
        .backstage
        .wait("the end", |it| it.cancelled == 1)
        .await;
}

/// Nobody reads the answers, so printing them blocks.
#[tokio::test]
async fn a_full_pipe_does_not_outlast_the_deadline() {
    let place = Place::new(Arm::Channel).await;
    let method = format!("{ECHO}/ServerStream");
    let data = "{\"count\": 1000, \"size\": 100000}";
    let args = place.args("call", &[&method, "-d", data, "-max-time", "1"]);
    let mut child = spawn(args);
    let unread = child.stdout.take();
    let ended = ended(child).await;
    assert_eq!(ended.code, Some(68), "{ended:?}");
    drop(unread);
}

#[tokio::test]
async fn wrong_flags_are_usage_errors() {
    for (flags, says) in [
        (&["-urgency", "8"][..], "a number from 0 to 7"),
        (&["-max-time", "0"], "not a number of seconds above 0"),
        (&["-format", "xml"], "json, text"),
        (&["-H", "no colon"], "write `-H 'name: value'`"),
        (&["-import-path", "x"], "--proto"),
    ] {
        let args = ["call", "tcp://127.0.0.1:1", "a.B/C", "-plaintext"];
        let ended = run(args.iter().chain(flags)).await;
        assert_eq!(ended.code, Some(2), "{flags:?} {ended:?}");
        assert!(ended.stderr.contains(says), "{}", ended.stderr);
    }
    for verb in ["call", "list", "describe", "health"] {
        let help = run([verb, "--help"]).await;
        assert_ok(&help);
        assert!(help.stdout.contains("Examples:\n  tower-iroh"), "{verb}");
    }
}

//! Calls that fail: exit codes, sentences, details, deadlines, Ctrl-C.

use std::time::Instant;

use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt as _, process::Command};

use super::{Place, SERVICE, harness::Arm, values};
use crate::support::{PATIENCE, ended, run, spawn};

/// `google.rpc.Status` with an `ErrorInfo` that says `FULL`, and with a message that nobody knows.
const DETAILS: &str = "CAgSBGZ1bGwaMgoodHlwZS5nb29nbGVhcGlzLmNvbS9nb29nbGUucnBjLkVycm9ySW5mbxIGCgRGVUxMGg4KCXQvbm8uU3VjaBIBAQ==";

fn failing() -> String {
    json!({ "responseStatus": { "code": 8, "message": "full", "details": DETAILS } }).to_string()
}

#[tokio::test]
async fn the_exit_code_is_64_and_the_code_and_details_are_decoded() {
    for place in Place::both().await {
        let failed = place.call("UnaryCall", &["-d", &failing()]).await;
        assert_eq!((failed.code, failed.stdout.as_str()), (Some(72), ""));
        let expected = "ERROR:\n  Code: ResourceExhausted\n  Message: full\n  Details:\n  1)\t{\n    \t  \"@type\": \"type.googleapis.com/google.rpc.ErrorInfo\",\n    \t  \"reason\": \"FULL\"\n    \t}\n  2)\t{";
        assert!(failed.stderr.starts_with(expected), "{}", failed.stderr);
        assert!(
            failed.stderr.contains("no.Such is not recognized"),
            "{failed:?}"
        );
        // Partial answers come first.
        let request =
            json!({ "responses": [{}], "responseStatus": { "code": 5, "message": "no" } });
        let request = request.to_string();
        let failed = place.call("StreamingOutputCall", &["-d", &request]).await;
        assert_eq!(failed.code, Some(69));
        assert_eq!(values(&failed.stdout).len(), 1);
    }
}

#[tokio::test]
async fn errors_are_json_where_json_is_said() {
    let place = Place::new(Arm::Channel).await;
    for flags in [
        &["-format", "json"][..],
        &["--json"],
        &["-format-error"],
        &["-format-error", "-format", "json"],
    ] {
        let data = failing();
        let args = [&["-d", &data][..], flags].concat();
        let failed = place.call("UnaryCall", &args).await;
        assert_eq!(failed.code, Some(72));
        let error: Value = serde_json::from_str(&failed.stderr).expect("JSON");
        assert_eq!(error["code"], 8, "{flags:?}");
        assert_eq!(error["details"][0]["reason"], "FULL");
        assert_eq!(error["details"][1]["@value"], "AQ==");
    }
    let data = "response_status { code: 8 message: \"full\" }";
    let text = place
        .call(
            "UnaryCall",
            &["-d", data, "-format", "text", "-format-error"],
        )
        .await;
    assert_eq!(
        (text.code, text.stderr.as_str()),
        (Some(72), "code: 8\nmessage: \"full\"\n")
    );
    // What is no call's error has its JSON form too.
    let wrong = place
        .call("UnaryCall", &["-d", "{", "-format", "json"])
        .await;
    let error: Value = serde_json::from_str(&wrong.stderr).expect("JSON");
    assert_eq!((wrong.code, &error["code"]), (Some(1), &json!(2)));
}

/// Be it the program or the library of its command line that finds them.
#[tokio::test]
async fn mistakes_in_the_command_line_are_json_where_json_is_said() {
    for (args, says) in [
        (&["clal", "--json"][..], "'clal'"),
        (&["call", "tcp://127.0.0.1:1", "-json"], "<METHOD>"),
        (&["list", "tcp://127.0.0.1:1", "--nope", "--json"], "--nope"),
        (&["--json", "list"], "a peer is required"),
        (&["--json"], "Usage:"),
    ] {
        let wrong = run(args).await;
        assert_eq!((wrong.code, wrong.stdout.as_str()), (Some(2), ""));
        let error: Value = serde_json::from_str(&wrong.stderr).expect(&wrong.stderr);
        assert_eq!(error["code"], 3, "{args:?}");
        let message = error["message"].as_str().expect("text");
        assert!(message.contains(says), "{message}");
        assert!(!message.starts_with("error"), "{message}");
    }
    let help = run(["call", "--help", "--json"]).await;
    assert_eq!(help.code, Some(0));
    assert!(help.stdout.contains("Examples:"), "{help:?}");
}

#[tokio::test]
async fn mistakes_in_the_request_have_their_place_and_a_suggestion() {
    let place = Place::new(Arm::Tcp).await;
    for (method, data, says) in [
        (
            "UnaryCall",
            "{\n  \"responseSze\": 1}",
            "-d: request 1 cannot be read: line 2, column 15: unrecognized field name 'responseSze'; tower_iroh.testing.v1.SimpleRequest has no field `responseSze`; did you mean `responseSize`?",
        ),
        (
            "UnaryCall",
            "{\"responseSize\": }",
            "line 1, column 18: expected value",
        ),
        (
            "UnaryCall",
            "{\"responseSize\": 1",
            "line 1, column 18: EOF",
        ),
        (
            "UnaryCall",
            "{\"responseSize\": \"many\"}",
            "line 1, column ",
        ),
        (
            "StreamingInputCall",
            "{} {} [1]",
            "request 3 cannot be read: line 1, column 7",
        ),
    ] {
        let failed = place.call(method, &["-d", data]).await;
        assert_eq!(failed.code, Some(1), "{failed:?}");
        assert!(failed.stderr.contains(says), "{}", failed.stderr);
    }
    let unknown = ["-d", "{\"responseSze\": 1}", "-allow-unknown-fields"];
    assert_eq!(place.call("UnaryCall", &unknown).await.code, Some(0));
}

#[tokio::test]
async fn unknown_names_are_told_with_the_nearest() {
    for place in Place::both().await {
        for (method, says) in [
            (
                format!("{SERVICE}/UnaryCal"),
                "has no method `UnaryCal`; did you mean `UnaryCall`?",
            ),
            (
                "tower_iroh.testing.v1.TestServce/UnaryCall".to_owned(),
                "no service `tower_iroh.testing.v1.TestServce`; did you mean `tower_iroh.testing.v1.TestService`?",
            ),
            (
                "tower_iroh.testing.v1.Empty/UnaryCall".to_owned(),
                "is a message, and not a service",
            ),
        ] {
            let failed = place.run("call", &[&method]).await;
            assert_eq!(failed.code, Some(1), "{failed:?}");
            assert!(failed.stderr.contains(says), "{}", failed.stderr);
        }
        let failed = place.run("call", &["NoMethod"]).await;
        assert_eq!(failed.code, Some(2));
        assert!(
            failed.stderr.contains("`pkg.Service/Method`"),
            "{}",
            failed.stderr
        );
    }
}

#[tokio::test]
async fn a_deadline_goes_to_the_server_and_ends_the_call_here() {
    for place in Place::both().await {
        let data = "{\"sleepMs\": 60000}";
        let begun = Instant::now();
        let late = place
            .call("UnaryCall", &["-d", data, "-max-time", "3"])
            .await;
        assert_eq!(late.code, Some(68), "{late:?}");
        assert!(late.stderr.contains("Code: DeadlineExceeded"), "{late:?}");
        assert!(begun.elapsed() < PATIENCE);
        let request = place.world.backstage.take_request();
        assert!(request.metadata().get("grpc-timeout").is_some());
        place
            .world
            .backstage
            .wait("the end", |it| it.cancelled == 1)
            .await;
    }
}

#[tokio::test]
async fn ctrl_c_cancels_the_call_at_the_server() {
    for place in Place::both().await {
        let method = format!("{SERVICE}/UnaryCall");
        let args = place.args("call", &[&method, "-d", "{\"sleepMs\": 60000}"]);
        let child = spawn(args);
        place
            .world
            .backstage
            .wait("the call", |it| it.begun == 1)
            .await;
        let id = child.id().expect("running").to_string();
        let sent = Command::new("kill").args(["-INT", &id]).status().await;
        assert!(sent.expect("started").success());
        let ended = ended(child).await;
        assert_eq!((ended.code, ended.stderr.as_str()), (Some(130), ""));
        place
            .world
            .backstage
            .wait("the end", |it| it.cancelled == 1)
            .await;
    }
}

/// A million open brackets would need a stack of gigabytes.
#[tokio::test]
async fn requests_that_nest_without_an_end_are_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("deep");
    let data = format!("@{}", file.display());
    let place = Place::new(Arm::Tcp).await;
    for (format, part, says) in [
        ("text", "payload {", "more than 100 messages"),
        ("json", "{\"payload\": ", "line 1, column "),
        ("json", "[", "line 1, column "),
    ] {
        std::fs::write(&file, part.repeat(1_000_000)).expect("written");
        let args = ["-d", data.as_str(), "-format", format];
        let refused = place.call("UnaryCall", &args).await;
        assert_eq!(refused.code, Some(1), "{part}");
        assert!(refused.stderr.contains(says), "{}", refused.stderr);
    }
}

/// The schema is another one than the server's.
#[tokio::test]
async fn a_response_that_is_something_else_is_told() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("other.proto");
    let proto = "syntax = \"proto3\"; package tower_iroh.echo.v1; service Echo { rpc Echo(M) returns (N); } message M { bytes payload = 1; } message N { M m = 1; }";
    std::fs::write(&file, proto).expect("written");
    let file = file.to_str().expect("text");
    let place = Place::new(Arm::Channel).await;
    let data = ["-d", "{\"payload\": \"/////w==\"}"];
    let failed = place
        .run(
            "call",
            &[
                "tower_iroh.echo.v1.Echo/Echo",
                "-proto",
                file,
                data[0],
                data[1],
            ],
        )
        .await;
    assert_eq!(failed.code, Some(64 + 13), "{failed:?}");
    assert!(
        failed
            .stderr
            .contains("the response is not a tower_iroh.echo.v1.N"),
        "{failed:?}"
    );
}

/// A server of HTTP/1.1, and one that is spoken to in the wrong way about TLS.
#[tokio::test]
async fn a_server_that_does_not_speak_grpc() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a free port");
    let target = format!("tcp://{}", listener.local_addr().expect("bound"));
    let served = tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.expect("the program dials");
            tokio::spawn(async move {
                let _ = stream
                    .write_all(b"HTTP/1.1 400 Bad Request\r\nConnection: close\r\n\r\n")
                    .await;
                let _ = tokio::io::copy(&mut stream, &mut tokio::io::sink()).await;
            });
        }
    });
    let failed = run(["list", &target, "-plaintext"]).await;
    assert_eq!(failed.code, Some(78), "{failed:?}");
    assert!(
        failed.stderr.contains("may be no gRPC server"),
        "{failed:?}"
    );
    served.abort();
    let place = Place::new(Arm::Tcp).await;
    let failed = run(["list", &place.target[0]]).await;
    assert_eq!(failed.code, Some(78), "{failed:?}");
    assert!(
        failed.stderr.contains("does not speak TLS; say -plaintext"),
        "{failed:?}"
    );
}

/// Nothing listens: the sentence is the dial's, and the code UNAVAILABLE's.
#[tokio::test]
async fn a_peer_that_is_not_there() {
    // The port is taken, and nothing listens.
    let taken = tokio::net::TcpSocket::new_v4().expect("a socket");
    taken
        .bind("127.0.0.1:0".parse().expect("valid"))
        .expect("a free port");
    let addr = taken.local_addr().expect("bound");
    let tcp = format!("tcp://{addr}");
    let nobody = iroh::EndpointAddr::new(iroh::SecretKey::from_bytes(&[7; 32]).public());
    let udp = std::net::UdpSocket::bind("127.0.0.1:0").expect("a free port");
    let nobody = nobody.with_ip_addr(udp.local_addr().expect("bound"));
    let ticket = tower_iroh::Peer::from(nobody).ticket();
    for target in [
        &[tcp.as_str(), "-plaintext"][..],
        &[&ticket, "-connect-timeout", "0.5"],
    ] {
        for verb in [&["call", "a.B/C"][..], &["list"], &["health"]] {
            let failed = run([&verb[..1], target, &verb[1..]].concat()).await;
            assert_eq!(failed.code, Some(64 + 14), "{verb:?} {failed:?}");
            assert!(failed.stderr.contains("Code: Unavailable"), "{failed:?}");
        }
    }
}

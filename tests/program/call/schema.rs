//! `list` and `describe`, and schemas from files.

use std::path::Path;

use serde_json::{Value, json};
use tonic::transport::{Server, server::TcpIncoming};
use tower_iroh_proto::{EchoService, FILE_DESCRIPTOR_SET, echo::echo_server::EchoServer};

use super::{ECHO, Place, SERVICE, assert_ok, harness::Arm, values};
use crate::support::run;

#[tokio::test]
async fn services_and_methods_are_listed() {
    for place in Place::both().await {
        let services = place.run("list", &[]).await;
        assert_ok(&services);
        let expected = format!(
            "grpc.reflection.v1.ServerReflection\n{ECHO}\n{SERVICE}\ntower_iroh.testing.v1.UnimplementedService\n"
        );
        assert_eq!(services.stdout, expected);
        let methods = place.run("list", &[ECHO]).await;
        assert_ok(&methods);
        let expected = ["BidiStream", "ClientStream", "Echo", "ServerStream"];
        let expected: String = expected.iter().map(|it| format!("{ECHO}.{it}\n")).collect();
        assert_eq!(methods.stdout, expected);
        let json = place.run("list", &[ECHO, "--json"]).await;
        let json: Value = serde_json::from_str(&json.stdout).expect("JSON");
        assert_eq!(json["methods"][0]["server_streaming"], true);
        let unknown = place.run("list", &["tower_iroh.echo.v1.Ecko"]).await;
        assert_eq!(unknown.code, Some(1));
        assert!(
            unknown
                .stderr
                .contains("did you mean `tower_iroh.echo.v1.Echo`?"),
            "{unknown:?}"
        );
    }
}

#[tokio::test]
async fn symbols_are_described_in_grpcurls_words() {
    let place = Place::new(Arm::Channel).await;
    let service = place.run("describe", &[ECHO]).await;
    assert_ok(&service);
    assert!(
        service
            .stdout
            .starts_with("tower_iroh.echo.v1.Echo is a service:\n"),
        "{}",
        service.stdout
    );
    assert!(service.stdout.contains("service Echo {\n"));
    assert!(service.stdout.contains("  rpc BidiStream ( stream .tower_iroh.echo.v1.EchoRequest ) returns ( stream .tower_iroh.echo.v1.EchoResponse );\n"));
    let name = "tower_iroh.testing.v1.StreamingOutputRequest";
    let message = place.run("describe", &[name, "-msg-template"]).await;
    assert_ok(&message);
    assert!(message.stdout.starts_with(&format!(
        "{name} is a message:\nmessage StreamingOutputRequest {{\n"
    )));
    assert!(
        message
            .stdout
            .contains("  repeated .tower_iroh.testing.v1.ResponseParameters responses = 1;\n")
    );
    let template = message
        .stdout
        .split("\nMessage template:\n")
        .nth(1)
        .expect("a template");
    assert_eq!(
        values(template)[0]["responses"],
        json!([{ "size": 0, "intervalMs": 0 }])
    );
    for (symbol, kind) in [
        ("tower_iroh.echo.v1.Echo.Echo", "a method"),
        (".tower_iroh.echo.v1.StreamRequest.count", "a field"),
    ] {
        let described = place.run("describe", &[symbol]).await;
        assert_ok(&described);
        assert!(
            described.stdout.contains(&format!(" is {kind}:\n")),
            "{described:?}"
        );
    }
    let all = place.run("describe", &["--json"]).await;
    let all: Value = serde_json::from_str(&all.stdout).expect("JSON");
    assert_eq!(all["symbols"].as_array().map(Vec::len), Some(4));
    let unknown = place
        .run("describe", &["tower_iroh.echo.v1.Echo.Ecko"])
        .await;
    assert_eq!(unknown.code, Some(1));
    assert!(unknown.stderr.contains("did you mean"), "{unknown:?}");
}

/// A server without reflection.
async fn silent() -> String {
    let incoming = TcpIncoming::bind("127.0.0.1:0".parse().expect("valid")).expect("a free port");
    let addr = incoming.local_addr().expect("bound");
    let server = Server::builder().add_service(EchoServer::new(EchoService));
    tokio::spawn(server.serve_with_incoming(incoming));
    format!("tcp://{addr}")
}

#[tokio::test]
async fn a_server_without_reflection_is_called_with_a_protoset_of_another() {
    let place = Place::new(Arm::Channel).await;
    let folder = tempfile::tempdir().expect("a folder");
    let set = folder.path().join("echo.protoset");
    let set = set.to_str().expect("text");
    let method = format!("{ECHO}/Echo");
    let data = ["-d", "{\"payload\": \"YQ==\"}"];
    let written = place
        .run("call", &[&method, data[0], data[1], "-protoset-out", set])
        .await;
    assert_ok(&written);

    let server = silent().await;
    let without = run(["call", &server, "-plaintext", &method]).await;
    assert_eq!(without.code, Some(1));
    assert!(
        without
            .stderr
            .contains("the server has no reflection; give the schema with -proto or -protoset"),
        "{without:?}"
    );
    let with = run([
        "call",
        &server,
        "-plaintext",
        "-protoset",
        set,
        &method,
        data[0],
        data[1],
    ])
    .await;
    assert_ok(&with);
    assert_eq!(with.stdout, written.stdout);
    // A list needs no peer then.
    let listed = run(["list", "-protoset", set]).await;
    assert_ok(&listed);
    assert_eq!(listed.stdout, format!("{ECHO}\n"));
    let all = folder.path().join("all.protoset");
    let listed = place
        .run("list", &["-protoset-out", all.to_str().expect("text")])
        .await;
    assert_ok(&listed);
    let described = run(["describe", "-protoset", all.to_str().expect("text"), ECHO]).await;
    assert!(
        described.stdout.contains(" is a service:\n"),
        "{described:?}"
    );
}

#[tokio::test]
async fn proto_files_are_compiled_with_their_imports() {
    let server = silent().await;
    let protos = Path::new(env!("CARGO_MANIFEST_DIR")).join("proto/proto");
    let protos = protos.to_str().expect("text");
    let file = "tower_iroh/echo/v1/echo.proto";
    let method = format!("{ECHO}/ServerStream");
    let called = run([
        "call",
        &server,
        "-plaintext",
        "-import-path",
        protos,
        "-proto",
        file,
        &method,
        "-d",
        "{\"count\": 2}",
    ])
    .await;
    assert_ok(&called);
    assert_eq!(called.stdout, "{}\n{}\n");
    // The comments of the file are there, and no peer is needed.
    let described = run(["describe", "-import-path", protos, "-proto", file, ECHO]).await;
    assert_ok(&described);
    assert!(
        described
            .stdout
            .contains("  // Answers with the payload that came.\n  rpc Echo ( "),
        "{described:?}"
    );
    let missing = run(["list", "-import-path", protos, "-proto", "no.proto"]).await;
    assert_eq!(missing.code, Some(1));
    assert!(
        missing.stderr.contains("no.proto") && missing.stderr.contains("-import-path"),
        "{missing:?}"
    );
}

#[tokio::test]
async fn a_server_with_the_older_reflection_alone_is_asked_in_its_version() {
    let incoming = TcpIncoming::bind("127.0.0.1:0".parse().expect("valid")).expect("a free port");
    let target = format!("tcp://{}", incoming.local_addr().expect("bound"));
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .build_v1alpha()
        .expect("valid");
    let server = Server::builder()
        .add_service(reflection)
        .add_service(EchoServer::new(EchoService));
    tokio::spawn(server.serve_with_incoming(incoming));
    let listed = run(["list", &target, "-plaintext"]).await;
    assert_ok(&listed);
    assert!(
        listed
            .stdout
            .contains("grpc.reflection.v1alpha.ServerReflection\n"),
        "{listed:?}"
    );
    let method = format!("{ECHO}/Echo");
    let called = run([
        "call",
        &target,
        "-plaintext",
        &method,
        "-d",
        "{\"payload\": \"YQ==\"}",
    ])
    .await;
    assert_ok(&called);
}

#[tokio::test]
async fn a_schema_is_written_as_proto_files() {
    let place = Place::new(Arm::Tcp).await;
    let folder = tempfile::tempdir().expect("a folder");
    let protos = folder.path().to_str().expect("text");
    for (verb, rest) in [
        ("list", &[][..]),
        ("list", &[ECHO]),
        ("describe", &[ECHO]),
        ("call", &["tower_iroh.testing.v1.TestService.EmptyCall"]),
    ] {
        let args = [rest, &["-proto-out-dir", protos]].concat();
        assert_ok(&place.run(verb, &args).await);
    }
    let local = ["-import-path", protos, "-proto"];
    let file = "tower_iroh/echo/v1/echo.proto";
    let described = run(["describe", ECHO].iter().chain(&local).chain(&[file])).await;
    assert_ok(&described);
    let by_reflection = place.run("describe", &[ECHO]).await;
    assert_eq!(described.stdout, by_reflection.stdout);
}

#[tokio::test]
async fn files_and_reflection_together_and_none_of_both() {
    let folder = tempfile::tempdir().expect("a folder");
    let set = folder.path().join("echo.protoset");
    std::fs::write(&set, FILE_DESCRIPTOR_SET).expect("written");
    let set = ["-protoset", set.to_str().expect("text"), "-use-reflection"];
    // The server has no reflection, so the files count.
    let server = silent().await;
    let method = format!("{ECHO}/Echo");
    let args = ["call", &server, "-plaintext", &method];
    assert_ok(&run(args.iter().chain(&set)).await);
    // The server has more services than the files.
    let place = Place::new(Arm::Tcp).await;
    let listed = place.run("list", &set).await;
    assert_ok(&listed);
    assert!(listed.stdout.contains("grpc.reflection.v1."), "{listed:?}");
    for verb in [&["list"][..], &["call", "a.B/C"]] {
        let none = [&verb[1..], &["-use-reflection=false"]].concat();
        let none = place.run(verb[0], &none).await;
        assert_eq!(none.code, Some(2), "{none:?}");
        assert!(none.stderr.contains("-protoset"), "{none:?}");
    }
}

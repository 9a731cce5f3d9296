//! Messages in `google.protobuf.Any`, of types that only the server's reflection knows.

use std::{
    convert::Infallible,
    future::Ready,
    task::{Context, Poll},
};

use futures_util::future::BoxFuture;
use http::{Request, Response};
use prost::Message as _;
use serde_json::json;
use tonic::{
    Status,
    body::Body,
    server::{NamedService, UnaryService},
    transport::{Server, server::TcpIncoming},
};
use tower::Service;

use super::{assert_ok, values};
use crate::support::run;

const SERVICE: &str = "syntax = \"proto3\"; package a; import \"google/protobuf/any.proto\"; import \"google/protobuf/empty.proto\"; \
    service Boxes { rpc Open(google.protobuf.Empty) returns (google.protobuf.Any); rpc Pack(stream google.protobuf.Any) returns (google.protobuf.Any); }";
const INSIDE: &str = "syntax = \"proto3\"; package a; message Inside { string text = 1; }";

/// Answers with a message in an `Any`, or with a status that has it among its details.
#[derive(Clone)]
struct Boxes(prost_types::Any);

impl NamedService for Boxes {
    const NAME: &'static str = "a.Boxes";
}

impl UnaryService<()> for Boxes {
    type Response = prost_types::Any;
    type Future = Ready<Result<tonic::Response<prost_types::Any>, Status>>;

    fn call(&mut self, request: tonic::Request<()>) -> Self::Future {
        // A status without the type of its details would not do: google.rpc.Status has them in field 3.
        let details = |any: &prost_types::Any| {
            let any = any.encode_to_vec();
            [&[0x1a, u8::try_from(any.len()).expect("short")][..], &any].concat()
        };
        let answer = match request.metadata().contains_key("x-fail") {
            false => Ok(tonic::Response::new(self.0.clone())),
            true => Err(Status::with_details(
                tonic::Code::Aborted,
                "no",
                details(&self.0).into(),
            )),
        };
        std::future::ready(answer)
    }
}

impl Service<Request<Body>> for Boxes {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let service = self.clone();
        Box::pin(async move {
            let mut grpc = tonic::server::Grpc::new(tower_iroh_proto::ProstCodec::default());
            Ok(grpc.unary(service, request).await)
        })
    }
}

/// Starts a server whose `Any` has this type.
async fn server(type_url: &str) -> String {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, source) in [("service.proto", SERVICE), ("inside.proto", INSIDE)] {
        std::fs::write(folder.path().join(name), source).expect("written");
    }
    let set = protox::compile(["service.proto", "inside.proto"], [folder.path()]);
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(&set.expect("valid").encode_to_vec())
        .build_v1()
        .expect("valid");
    let boxes = Boxes(prost_types::Any {
        type_url: type_url.to_owned(),
        value: b"\x0a\x02hi".to_vec(),
    });
    let incoming = TcpIncoming::bind("127.0.0.1:0".parse().expect("valid")).expect("a free port");
    let target = format!("tcp://{}", incoming.local_addr().expect("bound"));
    let server = Server::builder().add_service(reflection).add_service(boxes);
    tokio::spawn(server.serve_with_incoming(incoming));
    target
}

#[tokio::test]
async fn a_type_that_only_reflection_knows_is_learnt_for_answers_and_details() {
    let target = server("type.googleapis.com/a.Inside").await;
    let expected = json!({ "@type": "type.googleapis.com/a.Inside", "text": "hi" });
    let answered = run(["call", &target, "-plaintext", "a.Boxes/Open"]).await;
    assert_ok(&answered);
    assert_eq!(values(&answered.stdout)[0], expected);
    let failed = run([
        "call",
        &target,
        "-plaintext",
        "a.Boxes/Open",
        "-H",
        "x-fail: 1",
        "--json",
    ])
    .await;
    assert_eq!(failed.code, Some(74), "{failed:?}");
    assert_eq!(values(&failed.stderr)[0]["details"], json!([expected]));
}

#[tokio::test]
async fn a_type_that_only_reflection_knows_is_learnt_for_requests() {
    let target = server("type.googleapis.com/a.Inside").await;
    let packed = r#"{"@type": "type.googleapis.com/a.Inside", "text": "hi"}"#;
    let twice = [packed, packed].concat();
    let text = "[type.googleapis.com/a.Inside] { text: 'hi' }";
    for data in [&["-d", &twice][..], &["-d", text, "-format", "text"]] {
        let args = ["call", &target, "-plaintext", "a.Boxes/Pack"];
        assert_ok(&run(args.iter().chain(data)).await);
    }
    let unknown = packed.replace("a.Inside", "a.Outside");
    for (data, says) in [
        (unknown.as_str(), "message 'a.Outside' not found"),
        (
            &packed.replace("text", "txet"),
            "unrecognized field name 'txet'",
        ),
    ] {
        let args = ["call", &target, "-plaintext", "a.Boxes/Pack", "-d", data];
        let refused = run(args).await;
        assert_eq!(refused.code, Some(1), "{refused:?}");
        assert!(refused.stderr.contains(says), "{refused:?}");
    }
}

#[tokio::test]
async fn a_type_that_nobody_knows_is_shown_as_bytes() {
    let target = server("type.googleapis.com/no.Such").await;
    let answered = run(["call", &target, "-plaintext", "a.Boxes/Open"]).await;
    assert_ok(&answered);
    let answer = &values(&answered.stdout)[0];
    assert_eq!(answer["@value"], "CgJoaQ==");
    let error = answer["@error"].as_str().expect("a sentence");
    assert!(error.contains("no.Such is not recognized"), "{error}");
}

//! Servers that mean no good: what they send is bounded, and told with a sentence.

use std::{pin::Pin, sync::Arc};

use futures_util::{Stream, StreamExt as _, stream};
use prost::Message as _;
use tonic::{
    Request, Response, Status, Streaming,
    transport::{Server, server::TcpIncoming},
};
use tonic_reflection::pb::v1::{
    ExtensionNumberResponse, FileDescriptorResponse, ListServiceResponse, ServerReflectionRequest,
    ServerReflectionResponse, ServiceResponse,
    server_reflection_request::MessageRequest,
    server_reflection_response::MessageResponse,
    server_reflection_server::{ServerReflection, ServerReflectionServer},
};

use crate::support::{Ended, run};

type Answer = Arc<dyn Fn(MessageRequest) -> Option<MessageResponse> + Send + Sync>;

/// A reflection that answers as it is told, and not at all where it is told nothing.
struct Hostile(Answer);

#[tonic::async_trait]
impl ServerReflection for Hostile {
    type ServerReflectionInfoStream =
        Pin<Box<dyn Stream<Item = Result<ServerReflectionResponse, Status>> + Send>>;

    async fn server_reflection_info(
        &self,
        request: Request<Streaming<ServerReflectionRequest>>,
    ) -> Result<Response<Self::ServerReflectionInfoStream>, Status> {
        let answer = self.0.clone();
        let answers = request.into_inner().flat_map(move |request| {
            let request = request.ok().and_then(|it| it.message_request);
            match request.and_then(|it| answer(it)) {
                Some(answer) => stream::repeat(Ok(ServerReflectionResponse {
                    message_response: Some(answer),
                    ..ServerReflectionResponse::default()
                }))
                .boxed(),
                None => stream::pending().boxed(),
            }
        });
        Ok(Response::new(answers.boxed()))
    }
}

/// Starts the server, and runs the program against it.
async fn against<F>(answer: F, verb: &[&str]) -> Ended
where
    F: Fn(MessageRequest) -> Option<MessageResponse> + Send + Sync + 'static,
{
    let incoming = TcpIncoming::bind("127.0.0.1:0".parse().expect("valid")).expect("a free port");
    let target = format!("tcp://{}", incoming.local_addr().expect("bound"));
    let service = ServerReflectionServer::new(Hostile(Arc::new(answer)));
    let served = tokio::spawn(
        Server::builder()
            .add_service(service)
            .serve_with_incoming(incoming),
    );
    let ended = run([&[verb[0], &target, "-plaintext"], &verb[1..]].concat()).await;
    served.abort();
    ended
}

fn file(proto: &prost_types::FileDescriptorProto) -> MessageResponse {
    MessageResponse::FileDescriptorResponse(FileDescriptorResponse {
        file_descriptor_proto: vec![proto.encode_to_vec()],
    })
}

fn assert_told(ended: &Ended, code: i32, says: &str) {
    assert_eq!(ended.code, Some(code), "{ended:?}");
    assert!(ended.stderr.contains(says), "{says:?} in {}", ended.stderr);
    assert!(ended.stderr.len() < 4096, "{}", ended.stderr.len());
}

#[tokio::test]
async fn garbage_is_not_a_schema() {
    let call = ["call", "a.B/C"];
    let garbage = |_| {
        Some(MessageResponse::FileDescriptorResponse(
            FileDescriptorResponse {
                file_descriptor_proto: vec![vec![0xff; 100]],
            },
        ))
    };
    let told = against(garbage, &call).await;
    assert_told(&told, 1, "what is not a file's descriptor");
    let contradictory = |_| {
        Some(file(&prost_types::FileDescriptorProto {
            name: Some("a.proto".to_owned()),
            service: vec![prost_types::ServiceDescriptorProto {
                name: Some("B".to_owned()),
                method: vec![prost_types::MethodDescriptorProto {
                    name: Some("C".to_owned()),
                    input_type: Some(".no.Such".to_owned()),
                    output_type: Some(".no.Such".to_owned()),
                    ..Default::default()
                }],
                ..Default::default()
            }],
            ..Default::default()
        }))
    };
    let told = against(contradictory, &call).await;
    assert_told(&told, 1, "descriptors that do not fit together");
    let other = |_| {
        Some(MessageResponse::ListServicesResponse(
            ListServiceResponse::default(),
        ))
    };
    let told = against(other, &call).await;
    assert_told(&told, 1, "an answer to another question");
}

#[tokio::test]
async fn silence_is_bounded() {
    let told = against(|_| None, &["list", "-max-time", "0.5"]).await;
    assert_told(&told, 68, "DeadlineExceeded");
    // The bound that holds without -max-time.
    let told = against(|_| None, &["list"]).await;
    assert_told(
        &told,
        1,
        "gave no answer in 10s; give the schema with -proto or -protoset",
    );
}

/// Each file imports another one, and each answer comes again and again.
#[tokio::test]
async fn a_schema_without_an_end_is_bounded() {
    let endless = |question| {
        let number = match question {
            MessageRequest::FileByFilename(name) => {
                name.trim_end_matches(".proto").parse().unwrap_or(0_u64)
            }
            _ => 0,
        };
        Some(file(&prost_types::FileDescriptorProto {
            name: Some(format!("{number}.proto")),
            dependency: (1..=50)
                .map(|next| format!("{}.proto", number * 50 + next))
                .collect(),
            ..Default::default()
        }))
    };
    let told = against(endless, &["call", "a.B/C"]).await;
    assert_told(&told, 1, "a schema without an end");
}

/// A file that imports itself, and one that has what it imports nowhere.
#[tokio::test]
async fn imports_that_lead_nowhere_are_told() {
    for (imports, says) in [
        ("a.proto", "descriptors that do not fit together"),
        ("no.proto", "imports `no.proto`, which it does not send"),
    ] {
        let answer = move |question| match question {
            MessageRequest::FileContainingSymbol(_) => {
                Some(file(&prost_types::FileDescriptorProto {
                    name: Some("a.proto".to_owned()),
                    dependency: vec![imports.to_owned()],
                    ..Default::default()
                }))
            }
            _ => Some(MessageResponse::FileDescriptorResponse(
                FileDescriptorResponse::default(),
            )),
        };
        let told = against(answer, &["call", "a.B/C"]).await;
        assert_eq!(told.code, Some(1), "{told:?}");
        assert!(
            told.stderr.contains(says) || told.stderr.contains("an answer to another"),
            "{told:?}"
        );
    }
}

/// A server with an extension in a file of its own, and one whose extensions are nonsense. Neither has the method.
#[tokio::test]
async fn extensions_are_learnt_and_nonsense_in_their_place_is_passed_over() {
    let folder = tempfile::tempdir().expect("a folder");
    for (name, source) in [
        (
            "m.proto",
            "syntax = \"proto2\"; package a; message M { optional N n = 1; } message N { extensions 100 to 200; } service B { rpc C(M) returns (M); }",
        ),
        (
            "ext.proto",
            "syntax = \"proto2\"; package a; import \"m.proto\"; extend N { optional int32 more = 100; }",
        ),
    ] {
        std::fs::write(folder.path().join(name), source).expect("written");
    }
    let set = protox::compile(["ext.proto"], [folder.path()]).expect("valid");
    let [m, ext] = set.file.try_into().expect("two files");
    for (sane, data, code) in [
        (true, r#"{"n": {"[a.more]": 5}}"#, 76),
        (true, r#"{"n": {"[a.less]": 5}}"#, 1),
        (false, "{}", 76),
    ] {
        let (m, ext) = (m.clone(), ext.clone());
        let answer = move |question| {
            Some(match question {
                MessageRequest::AllExtensionNumbersOfType(name) => {
                    MessageResponse::AllExtensionNumbersResponse(ExtensionNumberResponse {
                        base_type_name: name,
                        extension_number: if sane {
                            vec![100]
                        } else {
                            vec![-1, 150, i32::MAX]
                        },
                    })
                }
                MessageRequest::FileContainingExtension(_) if sane => file(&ext),
                MessageRequest::FileContainingExtension(_) => {
                    MessageResponse::FileDescriptorResponse(FileDescriptorResponse {
                        file_descriptor_proto: vec![vec![0xff; 100]],
                    })
                }
                _ => file(&m),
            })
        };
        let told = against(answer, &["call", "a.B/C", "-d", data]).await;
        assert_eq!(told.code, Some(code), "{data}: {told:?}");
    }
}

/// A name would move the cursor of a terminal.
#[tokio::test]
async fn names_are_printed_without_what_a_terminal_obeys() {
    let many = |_| {
        let service = (0..10_000).map(|number| ServiceResponse {
            name: format!("a.S{number:05}\u{1b}[2J"),
        });
        Some(MessageResponse::ListServicesResponse(ListServiceResponse {
            service: service.collect(),
        }))
    };
    let listed = against(many, &["list"]).await;
    assert_eq!(listed.code, Some(0), "{}", listed.stderr);
    assert_eq!(listed.stdout.lines().count(), 10_000);
    assert!(listed.stdout.starts_with("a.S00000\\u001b[2J\n"));
}

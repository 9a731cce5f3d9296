//! What stands around a service: health, reflection, interceptors, who called, and load shed.

use futures_util::stream;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status, metadata::MetadataValue};
use tonic_health::pb::{
    HealthCheckRequest, health_check_response::ServingStatus, health_client::HealthClient,
};
use tonic_reflection::pb::v1::{
    ServerReflectionRequest, server_reflection_client::ServerReflectionClient,
    server_reflection_request::MessageRequest, server_reflection_response::MessageResponse,
};
use tower_iroh_proto::testing::{
    Empty, ResponseParameters, SimpleRequest, StreamingOutputRequest,
    test_service_client::TestServiceClient,
};

use crate::{
    metadata::assert_status,
    report::code_name,
    support::{
        ServerOptions, World,
        service::{REFUSE, STAMP, STAMPED, WAIT_FOR_MESSAGE},
    },
};

const SERVICE: &str = "tower_iroh.testing.v1.TestService";

pub async fn health_check(world: &World) -> String {
    let mut client = HealthClient::new(world.client().await);
    for service in ["", SERVICE] {
        let response = client.check(health_request(service)).await.expect("OK");
        assert_eq!(response.into_inner().status(), ServingStatus::Serving);
    }
    world
        .health
        .set_service_status(SERVICE, tonic_health::ServingStatus::NotServing)
        .await;
    let response = client.check(health_request(SERVICE)).await.expect("OK");
    assert_eq!(response.into_inner().status(), ServingStatus::NotServing);
    let error = client.check(health_request("nobody")).await;
    let error = error.expect_err("a status");
    assert_status(&error, Code::NotFound, "service not registered");
    String::new()
}

pub async fn health_watch(world: &World) -> String {
    let mut client = HealthClient::new(world.client().await);
    let watch = client.watch(health_request(SERVICE)).await.expect("OK");
    let mut watch = watch.into_inner();
    for (set, seen) in [
        (
            tonic_health::ServingStatus::NotServing,
            ServingStatus::Serving,
        ),
        (
            tonic_health::ServingStatus::Serving,
            ServingStatus::NotServing,
        ),
        (tonic_health::ServingStatus::Unknown, ServingStatus::Serving),
    ] {
        let update = watch.message().await.expect("OK").expect("an update");
        assert_eq!(update.status(), seen);
        world.health.set_service_status(SERVICE, set).await;
    }
    let update = watch.message().await.expect("OK").expect("an update");
    assert_eq!(update.status(), ServingStatus::Unknown);
    String::new()
}

pub async fn reflection_lists_services(world: &World) -> String {
    let answer = reflect(world, MessageRequest::ListServices(String::new())).await;
    let MessageResponse::ListServicesResponse(list) = answer.expect("OK") else {
        panic!("not a list");
    };
    let mut names: Vec<_> = list.service.into_iter().map(|it| it.name).collect();
    names.sort();
    assert_eq!(
        names,
        [
            "grpc.reflection.v1.ServerReflection",
            "tower_iroh.echo.v1.Echo",
            SERVICE,
            "tower_iroh.testing.v1.UnimplementedService",
        ]
    );
    String::new()
}

/// The few fields of `google.protobuf.FileDescriptorProto` that this test looks at.
#[derive(Clone, PartialEq, prost::Message)]
struct FileHead {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    package: String,
    #[prost(message, repeated, tag = "6")]
    services: Vec<ServiceHead>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct ServiceHead {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(message, repeated, tag = "2")]
    methods: Vec<MethodHead>,
}

#[derive(Clone, PartialEq, prost::Message)]
struct MethodHead {
    #[prost(string, tag = "1")]
    name: String,
}

pub async fn reflection_finds_symbol(world: &World) -> String {
    let symbol = MessageRequest::FileContainingSymbol(SERVICE.to_owned());
    let MessageResponse::FileDescriptorResponse(files) = reflect(world, symbol).await.expect("OK")
    else {
        panic!("not a file");
    };
    let [file] = files.file_descriptor_proto.try_into().expect("one file");
    let file = <FileHead as prost::Message>::decode(file.as_slice()).expect("a descriptor");
    assert_eq!(file.name, "tower_iroh/testing/v1/testing.proto");
    assert_eq!(file.package, "tower_iroh.testing.v1");
    let [service, _] = file.services.try_into().expect("two services");
    let methods: Vec<_> = service.methods.into_iter().map(|it| it.name).collect();
    assert_eq!(service.name, "TestService");
    assert_eq!(
        methods,
        [
            "EmptyCall",
            "UnaryCall",
            "StreamingOutputCall",
            "StreamingInputCall",
            "FullDuplexCall",
            "UnimplementedCall",
        ]
    );
    let unknown = MessageRequest::FileContainingSymbol("no.such.Symbol".to_owned());
    let error = reflect(world, unknown).await.expect_err("a status");
    assert_status(&error, Code::NotFound, "symbol 'no.such.Symbol' not found");
    String::new()
}

async fn reflect(world: &World, request: MessageRequest) -> Result<MessageResponse, Status> {
    let mut client = ServerReflectionClient::new(world.client().await);
    let request = ServerReflectionRequest {
        host: String::new(),
        message_request: Some(request),
    };
    let call = client
        .server_reflection_info(stream::iter([request]))
        .await?;
    let answer = call.into_inner().message().await?.expect("an answer");
    Ok(answer.message_response.expect("an answer"))
}

/// It adds to what is sent, and it can end a call before anything is.
pub async fn client_interceptor(world: &World) -> String {
    let stamp = |mut request: Request<()>| {
        let value = MetadataValue::from_static("by the client's interceptor");
        request.metadata_mut().insert(STAMP, value);
        Ok(request)
    };
    let mut client = TestServiceClient::with_interceptor(world.client().await, stamp);
    let response = client.unary_call(SimpleRequest::default()).await;
    let response = response.expect("OK");
    let stamped = response.metadata().get(STAMPED).expect("a stamp");
    assert_eq!(stamped, "by the client's interceptor");

    let before = world.backstage.counts();
    let refuse = |_| Err(Status::failed_precondition("not with me"));
    let mut client = TestServiceClient::with_interceptor(
        world.client().await,
        refuse as fn(Request<()>) -> Result<Request<()>, Status>,
    );
    let error = client.empty_call(Empty {}).await.expect_err("a status");
    assert_status(&error, Code::FailedPrecondition, "not with me");
    assert_eq!(world.backstage.counts(), before);
    String::new()
}

/// It hands something on to the handler, and it can refuse before the handler is asked.
pub async fn server_interceptor(world: &World) -> String {
    let mut client = world.test_client().await;
    let mut request = Request::new(SimpleRequest::default());
    let value = MetadataValue::from_static("through the server's interceptor");
    request.metadata_mut().insert(STAMP, value.clone());
    let response = client.unary_call(request).await.expect("OK");
    let stamped = response.metadata().get(STAMPED).expect("a stamp");
    assert_eq!(stamped, value);

    let before = world.backstage.counts();
    let mut request = Request::new(SimpleRequest::default());
    let value = MetadataValue::from_static("1");
    request.metadata_mut().insert(REFUSE, value);
    let error = client.unary_call(request).await.expect_err("a status");
    let message = "refused by the server's interceptor";
    assert_status(&error, Code::PermissionDenied, message);
    assert_eq!(world.backstage.counts(), before);
    String::new()
}

/// Over iroh the handler knows who calls; plain TCP proves nobody.
pub async fn peer_identity(world: &World) -> String {
    let mut client = world.test_client().await;
    let response = client.unary_call(SimpleRequest::default()).await;
    let peer_id = response.expect("OK").into_inner().peer_id;
    match world.client_id() {
        Some(id) => {
            assert_eq!(peer_id, id);
            "the client's endpoint id".to_owned()
        }
        None => {
            assert_eq!(peer_id, "");
            "nobody".to_owned()
        }
    }
}

/// `Request::remote_addr()` is where the client's socket is.
pub async fn remote_address(world: &World) -> String {
    let mut client = world.test_client().await;
    let response = client.unary_call(SimpleRequest::default()).await;
    let remote_addr = response.expect("OK").into_inner().remote_addr;
    let remote_addr: std::net::SocketAddr = remote_addr.parse().expect("an address");
    assert!(remote_addr.ip().is_loopback(), "{remote_addr}");
    if let Some(ports) = world.client_ports() {
        assert!(
            ports.contains(&remote_addr.port()),
            "{remote_addr} {ports:?}"
        );
    }
    String::new()
}

/// A server that has as many calls as it allows refuses the next one at once, and not the one after.
pub async fn load_shed(world: &World) -> String {
    let options = ServerOptions {
        server: Some(|server| server.concurrency_limit_per_connection(1).load_shed(true)),
        ..ServerOptions::default()
    };
    let busy = World::start(world.arm(), options).await;
    let mut client = busy.test_client().await;
    let (requests, outgoing) = mpsc::channel(1);
    let mut request = Request::new(ReceiverStream::new(outgoing));
    let wait = "1".parse().expect("ASCII");
    request.metadata_mut().insert(WAIT_FOR_MESSAGE, wait);
    let mut other = client.clone();
    let first = tokio::spawn(async move { other.full_duplex_call(request).await });
    busy.backstage.wait("the call", |it| it.begun == 1).await;

    let error = client.empty_call(Empty {}).await.expect_err("a status");
    let message = "Too many active requests for the connection";
    assert_status(&error, Code::ResourceExhausted, message);
    assert_eq!(busy.backstage.counts().begun, 1);

    let request = StreamingOutputRequest {
        responses: vec![ResponseParameters::default()],
        ..StreamingOutputRequest::default()
    };
    requests.send(request).await.expect("the call is open");
    let mut responses = first.await.expect("no panic").expect("OK").into_inner();
    assert!(responses.message().await.expect("OK").is_some());
    client.empty_call(Empty {}).await.expect("OK");
    drop((client, requests, responses));
    busy.stop().await;
    code_name(error.code()).to_owned()
}

fn health_request(service: &str) -> HealthCheckRequest {
    HealthCheckRequest {
        service: service.to_owned(),
    }
}

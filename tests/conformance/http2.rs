//! Settings of HTTP/2, on either side.

use std::time::Duration;

use futures_util::StreamExt as _;
use tokio::time::timeout;
use tonic::{Code, Request, Status};
use tower_iroh::ChannelBuilder;
use tower_iroh_proto::testing::{
    Empty, Payload, ResponseParameters, SimpleRequest, StreamingOutputRequest,
    test_service_client::TestServiceClient,
};

use crate::{
    metadata::{AsRequest as _, assert_status, status},
    report::code_name,
    support::{
        Arm, Client, ClientOptions, ServerOptions, TestClient, World, echo_metadata::INITIAL,
        payload::payload, wire::Arrived,
    },
};

/// Above the 16 KiB that a client accepts by default.
const LONG: usize = 20_000;
/// Bytes in the largest DATA frame where neither side says otherwise.
const DEFAULT_FRAME: u64 = 16_384;
/// Longer than this no event of these cases takes.
const PATIENCE: Duration = Duration::from_secs(10);

/// A client that allows longer lists of headers and of trailers gets them.
pub async fn status_message_of_20_kb(world: &World) -> String {
    let options = ClientOptions {
        tonic: Some(|endpoint| endpoint.http2_max_header_list_size(50_000)),
        ours: Some(|builder| builder.max_header_list_size(50_000)),
        ..ClientOptions::default()
    };
    let mut client = TestServiceClient::new(world.client_with(options).await);
    let text = "x".repeat(LONG);
    let error = in_the_head(&mut client, &text).await;
    assert_status(&error, Code::DataLoss, &text);
    let error = in_the_trailers(&mut client, &text).await;
    assert_status(&error, Code::DataLoss, &text);
    String::new()
}

/// Where the client does not allow them, the call fails, and the next one does not. Our channel names the limit and the header; tonic's resets the call, or takes
/// the trailers without the message.
pub async fn response_headers_above_the_limit(world: &World) -> String {
    let mut client = world.test_client().await;
    let text = "x".repeat(LONG);
    let head = in_the_head(&mut client, &text).await;
    let trailers = in_the_trailers(&mut client, &text).await;
    client.empty_call(Empty {}).await.expect("OK");
    if world.arm().is_tonic() {
        assert_eq!(head.code(), Code::Internal, "{head:?}");
        assert_status(&trailers, Code::DataLoss, "");
        return "INTERNAL, or the code without its message".to_owned();
    }
    for error in [head, trailers] {
        let text = error.message();
        assert_eq!(error.code(), Code::ResourceExhausted, "{error:?}");
        assert!(
            text.contains("16384") && text.contains("`grpc-message`"),
            "{text}"
        );
    }
    "RESOURCE_EXHAUSTED, with limit and header".to_owned()
}

async fn in_the_head(client: &mut TestClient, text: &str) -> Status {
    let call = client.unary_call(status(Code::DataLoss, text).unary());
    let answer = timeout(PATIENCE, call).await.expect("an end");
    answer.expect_err("a status")
}

async fn in_the_trailers(client: &mut TestClient, text: &str) -> Status {
    let call = client.streaming_output_call(status(Code::DataLoss, text).stream(1));
    let answers = async {
        let mut answers = call.await.expect("a head").into_inner();
        assert!(answers.message().await.expect("OK").is_some());
        answers.message().await
    };
    let end = timeout(PATIENCE, answers).await.expect("an end");
    end.expect_err("a status")
}

/// A server that allows longer lists of headers gets them, and may send them back.
pub async fn request_headers_of_40_kb(world: &World) -> String {
    let options = ServerOptions {
        server: Some(|server| server.http2_max_header_list_size(50_000)),
        ..ServerOptions::default()
    };
    let wide = World::start(world.arm(), options).await;
    let options = ClientOptions {
        tonic: Some(|endpoint| endpoint.http2_max_header_list_size(50_000)),
        ours: Some(|builder| builder.max_header_list_size(50_000)),
        ..ClientOptions::default()
    };
    let mut client = TestServiceClient::new(wide.client_with(options).await);
    let text = "x".repeat(40_000);
    let response = client.empty_call(with_initial(&text)).await.expect("OK");
    let echoed = response.metadata().get(INITIAL).expect("echoed");
    assert_eq!(echoed.as_bytes(), text.as_bytes());
    drop(client);
    wide.stop().await;
    String::new()
}

/// Where the server does not, the handler is not called, and the next call is none the wiser.
pub async fn request_headers_above_the_limit(world: &World) -> String {
    let mut client = world.test_client().await;
    // So many in a row say nothing of the link either.
    for _ in 0..20 {
        let call = client.empty_call(with_initial(&"x".repeat(LONG)));
        let error = timeout(PATIENCE, call).await.expect("an end");
        let message = "grpc-status header missing, mapped from HTTP status code 431";
        assert_status(&error.expect_err("a status"), Code::Unknown, message);
    }
    assert_eq!(world.backstage.counts().begun, 0);
    client.empty_call(Empty {}).await.expect("OK");
    "UNKNOWN, HTTP status 431".to_owned()
}

/// More distinct headers than the compression's table holds, again and again, come back as they went. tonic's client can set its size: here to nothing.
pub async fn header_table(world: &World) -> String {
    let options = ClientOptions {
        tonic: Some(|endpoint| endpoint.http2_header_table_size(0)),
        ..ClientOptions::default()
    };
    let mut client = TestServiceClient::new(world.client_with(options).await);
    for turn in 0..200 {
        let text = format!("{:->200}", turn % 50);
        let response = client.empty_call(with_initial(&text)).await.expect("OK");
        let echoed = response.metadata().get(INITIAL).expect("echoed");
        assert_eq!(echoed.as_bytes(), text.as_bytes());
    }
    match world.arm().is_tonic() {
        true => "0 B",
        false => "4096 B",
    }
    .to_owned()
}

/// A side that allows larger DATA frames than 16 KiB gets them. Our channel allows none.
pub async fn frame_size(world: &World) -> String {
    let options = ServerOptions {
        server: Some(|server| server.max_frame_size(1 << 20)),
        ..ServerOptions::default()
    };
    let large = World::start(world.arm(), options).await;
    let options = ClientOptions {
        tonic: Some(|endpoint| endpoint.max_frame_size(1 << 20)),
        ..ClientOptions::default()
    };
    let (up, down) = largest_frames(world, ClientOptions::default()).await;
    assert_eq!((up, down), (DEFAULT_FRAME, DEFAULT_FRAME));
    let (up, down) = largest_frames(&large, options).await;
    large.stop().await;
    assert!(up > DEFAULT_FRAME, "{up}");
    match world.arm().is_tonic() {
        true => {
            assert!(down > DEFAULT_FRAME, "{down}");
            "requests and responses".to_owned()
        }
        false => {
            assert_eq!(down, DEFAULT_FRAME);
            "requests".to_owned()
        }
    }
}

/// Of a request and of a response of 3 MiB.
async fn largest_frames(world: &World, options: ClientOptions) -> (u64, u64) {
    const SIZE: usize = 3 << 20;
    let channel = world.client_with(options).await;
    let mut client = TestServiceClient::new(channel.clone());
    let request = SimpleRequest {
        response_size: SIZE as u32,
        payload: Some(Payload {
            body: payload(SIZE, 0),
        }),
        ..SimpleRequest::default()
    };
    let response = client.unary_call(request).await.expect("OK").into_inner();
    assert_eq!(response.received_size, SIZE as u64);
    let request = world.backstage.take_request();
    let arrived = request.extensions().get::<Arrived>();
    let arrived = arrived.expect("the server has the ArrivedLayer").tally();
    (arrived.largest_frame, channel.tally().largest_frame)
}

/// A server that pings keeps a caller that answers, and finds one that does not answer in time.
pub async fn keepalive_of_the_server(world: &World) -> String {
    let patient = ServerOptions {
        server: Some(|server| {
            server
                .http2_keepalive_interval(Some(Duration::from_millis(20)))
                .http2_keepalive_timeout(Some(PATIENCE))
        }),
        ..ServerOptions::default()
    };
    let server = World::start(world.arm(), patient).await;
    quiet_stream(server.test_client().await).await.expect("OK");
    server.stop().await;
    let impatient = ServerOptions {
        server: Some(|server| {
            server
                .http2_keepalive_interval(Some(Duration::from_millis(20)))
                .http2_keepalive_timeout(Some(Duration::ZERO))
        }),
        ..ServerOptions::default()
    };
    let server = World::start(world.arm(), impatient).await;
    let error = ended_stream(server.test_client().await).await;
    server.stop().await;
    code_name(error.code()).to_owned()
}

/// The same of a client. Our channel's pings have an interval, and no time of their own for an answer.
pub async fn keepalive_of_the_client(world: &World) -> String {
    const OFTEN: Duration = Duration::from_millis(200);
    let ours: fn(ChannelBuilder) -> ChannelBuilder = match world.arm() {
        Arm::TcpTls => |builder| builder.tcp_links(|links| links.health_interval(OFTEN)),
        _ => |builder| builder.links(|links| links.health_interval(OFTEN)),
    };
    let patient = ClientOptions {
        tonic: Some(|endpoint| {
            endpoint
                .http2_keep_alive_interval(Duration::from_millis(20))
                .keep_alive_timeout(PATIENCE)
        }),
        ours: Some(ours),
        ..ClientOptions::default()
    };
    let client = TestServiceClient::new(world.client_with(patient).await);
    quiet_stream(client).await.expect("OK");
    if !world.arm().is_tonic() {
        return "pings every 200 ms".to_owned();
    }
    let impatient = ClientOptions {
        tonic: Some(|endpoint| {
            endpoint
                .http2_keep_alive_interval(Duration::from_millis(20))
                .keep_alive_timeout(Duration::ZERO)
        }),
        ..ClientOptions::default()
    };
    let client = TestServiceClient::new(world.client_with(impatient).await);
    let error = ended_stream(client).await;
    code_name(error.code()).to_owned()
}

/// Two messages with a silence between them that pings fit into.
async fn quiet_stream(mut client: TestServiceClient<Client>) -> Result<(), Status> {
    let call = client.streaming_output_call(silent_for(600)).await?;
    let answers: Vec<_> = call.into_inner().collect().await;
    assert_eq!(answers.len(), 2);
    answers.into_iter().try_for_each(|answer| answer.map(drop))
}

/// How a stream ends that would be silent for longer than anybody waits.
async fn ended_stream(mut client: TestServiceClient<Client>) -> Status {
    let call = async {
        let call = client.streaming_output_call(silent_for(60_000)).await?;
        let mut answers = call.into_inner();
        answers.message().await?;
        answers.message().await
    };
    let end = timeout(PATIENCE, call).await.expect("an end");
    end.expect_err("a status")
}

fn silent_for(interval_ms: u32) -> StreamingOutputRequest {
    let wanted = |interval_ms| ResponseParameters {
        size: 10,
        interval_ms,
    };
    StreamingOutputRequest {
        responses: vec![wanted(0), wanted(interval_ms)],
        ..StreamingOutputRequest::default()
    }
}

fn with_initial(text: &str) -> Request<Empty> {
    let mut request = Request::new(Empty {});
    let value = text.parse().expect("ASCII");
    request.metadata_mut().insert(INITIAL, value);
    request
}

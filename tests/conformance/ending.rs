//! Calls that end early: cancelled by the caller, or by the clock.

use std::time::{Duration, Instant};

use futures_util::{StreamExt as _, stream};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, Status};
use tower_iroh_proto::testing::{
    Empty, Payload, ResponseParameters, SimpleRequest, StreamingInputRequest,
    StreamingOutputRequest, test_service_client::TestServiceClient,
};

use crate::support::{Arm, Client, ClientOptions, World, backstage::Counts, payload::payload};

/// The deadline of a call to the sleeping server, and how long that sleeps.
const TIMEOUT: Duration = Duration::from_millis(150);
const SLEEP: Duration = Duration::from_secs(8);
/// Later than this the clock did not end the call.
const LATE: Duration = Duration::from_secs(4);

/// In Rust a caller cancels by dropping. The server has to notice, and the connection has to stay good.
pub async fn cancel_after_begin(world: &World) -> String {
    let mut client = world.test_client().await;
    let mut other = client.clone();
    let first = StreamingInputRequest {
        payload: Some(Payload {
            body: payload(100, 0),
        }),
    };
    let endless = stream::iter([first]).chain(stream::pending());
    let call = tokio::spawn(async move { client.streaming_input_call(endless).await });
    world.backstage.wait("the call", |it| it.begun == 1).await;
    call.abort();
    assert!(call.await.expect_err("aborted").is_cancelled());
    // tonic shows a handler the reset of a request stream as its end, so this one may finish; the stream
    // itself never ends, so without the reset it would not.
    let over = |it: &Counts| it.finished + it.cancelled == 1;
    world.backstage.wait("the end", over).await;
    other.empty_call(Empty {}).await.expect("OK");
    String::new()
}

pub async fn cancel_after_first_response(world: &World) -> String {
    let mut client = world.test_client().await;
    let (requests, outgoing) = mpsc::channel(1);
    let call = client.full_duplex_call(ReceiverStream::new(outgoing)).await;
    let mut responses = call.expect("OK").into_inner();
    let request = StreamingOutputRequest {
        responses: [0, 60_000].map(wanted).to_vec(),
        ..StreamingOutputRequest::default()
    };
    requests.send(request).await.expect("the call is open");
    assert!(responses.message().await.expect("OK").is_some());
    // Both halves: hyper resets a stream when nobody holds either, on every arm.
    drop((responses, requests));
    let counts = world.backstage.wait("the end", |it| it.cancelled == 1);
    assert_eq!(counts.await.finished, 0);
    client.empty_call(Empty {}).await.expect("OK");
    String::new()
}

/// A deadline in the request. tonic's channel says CANCELLED when it passes, which is not what gRPC says.
pub async fn timeout_on_sleeping_server(world: &World) -> String {
    let client = world.test_client().await;
    let status = with_deadline(world, client).await;
    match world.arm() {
        Arm::Tcp => assert_eq!(status.code(), Code::Cancelled, "{status:?}"),
    }
    named(&status)
}

/// The same with our layer over tonic's channel.
pub async fn timeout_with_exact_codes(world: &World) -> String {
    let exact_codes = ClientOptions {
        exact_codes: true,
        ..ClientOptions::default()
    };
    let client = TestServiceClient::new(world.client_with(exact_codes).await);
    let status = with_deadline(world, client).await;
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    named(&status)
}

/// The channel's own timeout, for calls that bring none.
pub async fn timeout_of_the_channel(world: &World) -> String {
    let options = ClientOptions {
        timeout: Some(TIMEOUT),
        ..ClientOptions::default()
    };
    let client = TestServiceClient::new(world.client_with(options).await);
    let status = timed_out(world, client, Request::new(sleeping())).await;
    match world.arm() {
        Arm::Tcp => assert_eq!(status.code(), Code::Cancelled, "{status:?}"),
    }
    named(&status)
}

/// A deadline covers the whole stream, in gRPC. In tonic it ends with the response's head.
pub async fn timeout_within_a_stream(world: &World) -> String {
    let mut client = world.test_client().await;
    let mut request = Request::new(StreamingOutputRequest {
        responses: [0, 1_500].map(wanted).to_vec(),
        ..StreamingOutputRequest::default()
    });
    request.set_timeout(Duration::from_millis(500));
    let call = client.streaming_output_call(request).await;
    let mut responses = call.expect("a head").into_inner();
    assert!(responses.message().await.expect("OK").is_some());
    let second = responses.message().await;
    match world.arm() {
        Arm::Tcp => {
            assert!(second.expect("OK").is_some());
            assert!(responses.message().await.expect("OK").is_none());
            "not bounded".to_owned()
        }
    }
}

async fn with_deadline(world: &World, client: TestServiceClient<Client>) -> Status {
    let mut request = Request::new(sleeping());
    request.set_timeout(TIMEOUT);
    timed_out(world, client, request).await
}

/// The status of a call to the sleeping server, whose handler must have been dropped.
async fn timed_out(
    world: &World,
    mut client: TestServiceClient<Client>,
    request: Request<SimpleRequest>,
) -> Status {
    // Connected, so that the clock runs against the sleep and nothing else.
    client.empty_call(Empty {}).await.expect("OK");
    let begin = Instant::now();
    let status = client.unary_call(request).await.expect_err("too late");
    let taken = begin.elapsed();
    assert!(taken >= TIMEOUT && taken < LATE, "it took {taken:?}");
    let counts = world.backstage.wait("the end", |it| it.cancelled == 1);
    assert_eq!(counts.await.finished, 1);
    client.empty_call(Empty {}).await.expect("OK");
    status
}

fn sleeping() -> SimpleRequest {
    SimpleRequest {
        sleep_ms: SLEEP.as_millis() as u32,
        ..SimpleRequest::default()
    }
}

fn wanted(interval_ms: u32) -> ResponseParameters {
    ResponseParameters {
        size: 10,
        interval_ms,
    }
}

fn named(status: &Status) -> String {
    crate::report::code_name(status.code()).to_owned()
}

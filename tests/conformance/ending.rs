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

use crate::{
    metadata::assert_status,
    support::{
        Arm, Client, ClientOptions, ServerOptions, World, backstage::Counts, payload::payload,
    },
};

/// The deadline of a call to the sleeping server, and how long that sleeps.
const TIMEOUT: Duration = Duration::from_millis(500);
const SLEEP: Duration = Duration::from_secs(8);
/// How many calls wait for it together, and how often.
const CALLS: u64 = 32;
const ROUNDS: u64 = 2;
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
    timed_out(world, client, Some(TIMEOUT), passed(world.arm())).await
}

/// The same with our layer over tonic's channel.
pub async fn timeout_with_exact_codes(world: &World) -> String {
    let exact_codes = ClientOptions {
        exact_codes: true,
        ..ClientOptions::default()
    };
    let client = TestServiceClient::new(world.client_with(exact_codes).await);
    timed_out(world, client, Some(TIMEOUT), Code::DeadlineExceeded).await
}

/// The channel's own timeout, for calls that bring none.
pub async fn timeout_of_the_channel(world: &World) -> String {
    let options = ClientOptions {
        timeout: Some(TIMEOUT),
        ..ClientOptions::default()
    };
    let client = TestServiceClient::new(world.client_with(options).await);
    timed_out(world, client, None, passed(world.arm())).await
}

/// A deadline covers the whole stream, in gRPC. In tonic it ends with the response's head.
pub async fn timeout_within_a_stream(world: &World) -> String {
    let mut client = world.test_client().await;
    let mut request = Request::new(StreamingOutputRequest {
        responses: [0, 6_000].map(wanted).to_vec(),
        ..StreamingOutputRequest::default()
    });
    request.set_timeout(Duration::from_secs(2));
    client.empty_call(Empty {}).await.expect("OK");
    let call = client.streaming_output_call(request).await;
    let mut responses = call.expect("a head").into_inner();
    assert!(responses.message().await.expect("OK").is_some());
    let second = responses.message().await;
    match world.arm().is_tonic() {
        true => {
            assert!(second.expect("OK").is_some());
            assert!(responses.message().await.expect("OK").is_none());
            "not bounded".to_owned()
        }
        false => {
            let status = second.expect_err("too late");
            assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
            // Though `responses` still lives: the peer learns of it when the caller does.
            let counts = world.backstage.wait("the end", |it| it.cancelled == 1);
            assert_eq!(counts.await.finished, 1);
            crate::report::code_name(status.code()).to_owned()
        }
    }
}

/// Calls the sleeping server; every call must end with `code` and soon, and every handler must be dropped.
///
/// Many calls, because two clocks race: tonic's server keeps the deadline too and answers CANCELLED when it is first,
/// which is late enough to be the exception and early enough to happen.
async fn timed_out(
    world: &World,
    mut client: TestServiceClient<Client>,
    deadline: Option<Duration>,
    code: Code,
) -> String {
    // Connected, so that the clock runs against the sleep and nothing else.
    client.empty_call(Empty {}).await.expect("OK");
    for _ in 0..ROUNDS {
        let calls = (0..CALLS).map(|_| sleep_too_long(client.clone(), deadline));
        let statuses = futures_util::future::join_all(calls).await;
        let others: Vec<_> = statuses.iter().filter(|it| it.code() != code).collect();
        assert!(
            others.is_empty(),
            "{} of {CALLS}: {:?}",
            others.len(),
            others[0]
        );
    }
    // A call that is late itself may not get as far as its handler.
    let all = |it: &Counts| it.begun == it.finished + it.cancelled && it.cancelled > 0;
    let counts = world.backstage.wait("the ends", all).await;
    assert_eq!(counts.finished, 1);
    client.empty_call(Empty {}).await.expect("OK");
    crate::report::code_name(code).to_owned()
}

async fn sleep_too_long(
    mut client: TestServiceClient<Client>,
    deadline: Option<Duration>,
) -> Status {
    let mut request = Request::new(sleeping());
    if let Some(deadline) = deadline {
        request.set_timeout(deadline);
    }
    let begin = Instant::now();
    let status = client.unary_call(request).await.expect_err("too late");
    let taken = begin.elapsed();
    assert!(taken >= TIMEOUT && taken < LATE, "it took {taken:?}");
    status
}

/// A server that is shorter of patience than the caller says CANCELLED (tonic does), and it stays that: no deadline passed.
pub async fn timeout_of_the_server(world: &World) -> String {
    let options = ServerOptions {
        timeout: Some(TIMEOUT),
        ..ServerOptions::default()
    };
    let impatient = World::start(world.arm(), options).await;
    for exact_codes in [false, true] {
        let options = ClientOptions {
            exact_codes,
            ..ClientOptions::default()
        };
        let mut client = TestServiceClient::new(impatient.client_with(options).await);
        for deadline in [None, Some(Duration::from_secs(30))] {
            let status = sleep_too_long(client.clone(), deadline).await;
            assert_status(&status, Code::Cancelled, "Timeout expired");
        }
        client.empty_call(Empty {}).await.expect("OK");
    }
    impatient.stop().await;
    "CANCELLED".to_owned()
}

/// What a deadline that passed is called.
fn passed(arm: Arm) -> Code {
    match arm.is_tonic() {
        true => Code::Cancelled,
        false => Code::DeadlineExceeded,
    }
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

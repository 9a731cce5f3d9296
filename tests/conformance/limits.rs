//! Messages on both sides of a limit, and a reader that does not read.

use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use prost::Message as _;
use tokio::time::timeout;
use tonic::Code;
use tower_iroh_proto::{
    echo::{EchoRequest, EchoResponse, StreamRequest},
    testing::{
        Payload, ResponseParameters, SimpleRequest, StreamingInputRequest, StreamingOutputRequest,
    },
};

use crate::{
    metadata::assert_status,
    report::code_name,
    support::{
        ServerOptions, World,
        payload::{is_payload, payload},
    },
};

/// What tonic decodes when nobody says otherwise.
const LIMIT: usize = 4 << 20;
/// The payload of an echo message that is exactly as long as the limit: tag, four bytes of length, payload.
const FITS: usize = LIMIT - 5;

pub async fn at_the_limit(world: &World) -> String {
    let mut client = world.echo_client().await;
    let request = EchoRequest {
        payload: payload(FITS, 0),
    };
    assert_eq!(request.encoded_len(), LIMIT);
    let response = client.echo(request).await.expect("OK").into_inner();
    assert!(response.payload.len() == FITS && is_payload(&response.payload, 0));
    format!("{LIMIT} B")
}

pub async fn request_above_the_limit(world: &World) -> String {
    let mut client = world.echo_client().await;
    let request = EchoRequest {
        payload: payload(FITS + 1, 0),
    };
    let error = client.echo(request).await.expect_err("a status");
    let message =
        "Error, decoded message length too large: found 4194305 bytes, the limit is: 4194304 bytes";
    assert_status(&error, Code::OutOfRange, message);
    assert_works(&mut client).await;
    "OUT_OF_RANGE".to_owned()
}

pub async fn response_above_the_limit(world: &World) -> String {
    let mut client = world.echo_client().await;
    let request = StreamRequest {
        count: 2,
        size: (FITS + 1) as u32,
        interval_ms: 0,
    };
    let call = client.server_stream(request).await;
    let error = call.expect("a head").into_inner().message().await;
    let message =
        "Error, decoded message length too large: found 4194305 bytes, the limit is: 4194304 bytes";
    assert_status(&error.expect_err("a status"), Code::OutOfRange, message);
    assert_works(&mut client).await;
    "OUT_OF_RANGE".to_owned()
}

pub async fn raised_limit(world: &World) -> String {
    const SIZE: usize = 12 << 20;
    let options = ServerOptions {
        decoding_limit: Some(16 << 20),
        ..ServerOptions::default()
    };
    let raised = World::start(world.arm(), options).await;
    let client = raised.test_client().await;
    let mut client = client.max_decoding_message_size(16 << 20);
    let request = SimpleRequest {
        response_size: SIZE as u32,
        payload: Some(Payload {
            body: payload(SIZE, 0),
        }),
        ..SimpleRequest::default()
    };
    let response = client.unary_call(request).await.expect("OK").into_inner();
    assert_eq!(response.received_size, SIZE as u64);
    let body = response.payload.expect("a payload").body;
    assert!(body.len() == SIZE && is_payload(&body, 0));
    drop(client);
    raised.stop().await;
    "12 MiB each way".to_owned()
}

/// The server's own limit for what it sends.
pub async fn encoding_limit(world: &World) -> String {
    let options = ServerOptions {
        encoding_limit: Some(1_000),
        ..ServerOptions::default()
    };
    let limited = World::start(world.arm(), options).await;
    let mut client = limited.test_client().await;
    let request = |size| StreamingOutputRequest {
        responses: vec![ResponseParameters {
            size,
            interval_ms: 0,
        }],
        ..StreamingOutputRequest::default()
    };
    let call = client.streaming_output_call(request(994)).await;
    let mut responses = call.expect("OK").into_inner();
    assert!(responses.message().await.expect("OK").is_some());
    let call = client.streaming_output_call(request(995)).await;
    let error = call.expect("a head").into_inner().message().await;
    let message =
        "Error, encoded message length too large: found 1001 bytes, the limit is: 1000 bytes";
    assert_status(&error.expect_err("a status"), Code::OutOfRange, message);
    drop((client, responses));
    limited.stop().await;
    "OUT_OF_RANGE".to_owned()
}

/// Limits that a server and a client set, for what comes in.
pub async fn decoding_limits(world: &World) -> String {
    let options = ServerOptions {
        decoding_limit: Some(1_000),
        ..ServerOptions::default()
    };
    let limited = World::start(world.arm(), options).await;
    let mut client = limited.test_client().await;
    let message =
        "Error, decoded message length too large: found 1001 bytes, the limit is: 1000 bytes";
    client.unary_call(of_size(994)).await.expect("OK");
    let error = client.unary_call(of_size(995)).await;
    assert_status(&error.expect_err("a status"), Code::OutOfRange, message);
    // The limit is for each message, not for all.
    let call = client.streaming_input_call(stream::iter([input(994, 0), input(994, 1)]));
    assert_eq!(call.await.expect("OK").into_inner().count, 2);
    let call = client.streaming_input_call(stream::iter([input(994, 0), input(995, 1)]));
    let error = call.await.expect_err("a status");
    assert_status(&error, Code::OutOfRange, message);
    drop(client);
    limited.stop().await;

    let client = world.test_client().await;
    let mut client = client.max_decoding_message_size(1_000);
    // From the second message on its number takes two bytes.
    for (sizes, fits) in [([994, 992], true), ([994, 993], false)] {
        let call = client.streaming_output_call(outputs(&sizes)).await;
        let mut responses = call.expect("OK").into_inner();
        assert!(responses.message().await.expect("OK").is_some());
        let second = responses.message().await;
        if fits {
            assert!(second.expect("OK").is_some());
            assert!(responses.message().await.expect("OK").is_none());
        } else {
            assert_status(&second.expect_err("a status"), Code::OutOfRange, message);
        }
    }
    "OUT_OF_RANGE".to_owned()
}

/// The client's own limit for what it sends. tonic's client resets such a call, ours says why.
pub async fn client_encoding_limit(world: &World) -> String {
    let client = world.test_client().await;
    let mut client = client.max_encoding_message_size(1_000);
    client.unary_call(of_size(994)).await.expect("OK");
    let begun = world.backstage.counts().begun;
    let unary = client.unary_call(of_size(995)).await;
    let unary = unary.expect_err("a status");
    assert_eq!(world.backstage.counts().begun, begun);
    let call = client.streaming_input_call(stream::iter([input(994, 0), input(995, 1)]));
    let streaming = call.await.expect_err("a status");
    client.unary_call(of_size(994)).await.expect("OK");
    let (code, message) = match world.arm().is_tonic() {
        true => (Code::Internal, "h2 protocol error: http2 error"),
        false => (
            Code::OutOfRange,
            "Error, encoded message length too large: found 1001 bytes, the limit is: 1000 bytes",
        ),
    };
    assert_status(&unary, code, message);
    assert_status(&streaming, code, message);
    code_name(code).to_owned()
}

fn of_size(size: usize) -> SimpleRequest {
    SimpleRequest {
        payload: Some(Payload {
            body: payload(size, 0),
        }),
        ..SimpleRequest::default()
    }
}

fn input(size: usize, number: u64) -> StreamingInputRequest {
    StreamingInputRequest {
        payload: Some(Payload {
            body: payload(size, number),
        }),
    }
}

fn outputs(sizes: &[u32]) -> StreamingOutputRequest {
    let wanted = sizes.iter().map(|size| ResponseParameters {
        size: *size,
        interval_ms: 0,
    });
    StreamingOutputRequest {
        responses: wanted.collect(),
        ..StreamingOutputRequest::default()
    }
}

/// A reader that stalls stops the producer, before the whole stream sits in a buffer, and loses nothing.
pub async fn stalled_reader(world: &World) -> String {
    const MESSAGES: usize = 100;
    const SIZE: u32 = 1 << 20;
    let mut client = world.test_client().await;
    let mut other = client.clone();
    let request = StreamingOutputRequest {
        responses: vec![
            ResponseParameters {
                size: SIZE,
                interval_ms: 0,
            };
            MESSAGES
        ],
        ..StreamingOutputRequest::default()
    };
    let call = client.streaming_output_call(request).await;
    let mut responses = call.expect("OK").into_inner();
    let first = responses.message().await.expect("OK").expect("a message");
    assert_eq!(first.sequence, 0);

    let stopped_at = stopped_at(world).await;
    assert!(stopped_at < 40, "{stopped_at} MiB went out to nobody");
    // Another call on the same connection is not held up.
    let call = other.unary_call(SimpleRequest::default());
    let call = timeout(Duration::from_secs(10), call).await;
    call.expect("not stuck behind the stalled one").expect("OK");

    let rest: Vec<_> = responses.collect().await;
    assert_eq!(rest.len(), MESSAGES - 1);
    for (number, response) in (1..).zip(rest) {
        let body = response.expect("OK").payload.expect("a payload").body;
        assert!(body.len() == SIZE as usize && is_payload(&body, number));
    }
    format!("producer stopped at {stopped_at} MiB")
}

/// How many messages the server has sent when it has sent no other for half a second.
async fn stopped_at(world: &World) -> u64 {
    loop {
        let before = world.backstage.counts().sent;
        let more = world.backstage.wait("another", |it| it.sent > before);
        if timeout(Duration::from_millis(500), more).await.is_err() {
            return before;
        }
    }
}

async fn assert_works(
    client: &mut tower_iroh_proto::echo::echo_client::EchoClient<crate::support::Client>,
) {
    let request = EchoRequest {
        payload: payload(10, 0),
    };
    let EchoResponse { payload } = client.echo(request).await.expect("OK").into_inner();
    assert_eq!(payload.len(), 10);
}

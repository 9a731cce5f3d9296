//! The four kinds of call.

use std::time::Duration;

use futures_util::{StreamExt as _, stream};
use tokio::{sync::mpsc, time::timeout};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request};
use tower_iroh_proto::{
    echo::{EchoRequest, StreamRequest},
    testing::{
        Empty, Payload, ResponseParameters, SimpleRequest, StreamingInputRequest,
        StreamingOutputRequest,
    },
};

use crate::support::{
    World,
    payload::{is_payload, payload},
    service::WAIT_FOR_MESSAGE,
};

/// Sizes that gRPC's interop tests use.
const REQUESTS: [usize; 4] = [27_182, 8, 1_828, 45_904];
const RESPONSES: [u32; 4] = [31_415, 9, 2_653, 58_979];

/// Turns of a ping-pong that no buffer hides: each is its own round trip.
const TURNS: u64 = 100;

pub async fn empty_unary(world: &World) -> String {
    let mut client = world.test_client().await;
    let response = client.empty_call(Empty {}).await.expect("OK");
    assert_eq!(response.into_inner(), Empty {});
    String::new()
}

pub async fn large_unary(world: &World) -> String {
    let mut client = world.test_client().await;
    let request = SimpleRequest {
        response_size: 314_159,
        payload: Some(Payload {
            body: payload(271_828, 0),
        }),
        ..SimpleRequest::default()
    };
    let response = client.unary_call(request).await.expect("OK").into_inner();
    assert_eq!(response.received_size, 271_828);
    let body = response.payload.expect("a payload").body;
    assert_eq!(body.len(), 314_159);
    assert!(is_payload(&body, 0));
    String::new()
}

pub async fn client_streaming(world: &World) -> String {
    let mut client = world.test_client().await;
    let requests: Vec<_> = (0..)
        .zip(REQUESTS)
        .map(|(number, size)| StreamingInputRequest {
            payload: Some(Payload {
                body: payload(size, number),
            }),
        })
        .collect();
    let response = client.streaming_input_call(stream::iter(requests)).await;
    let response = response.expect("OK").into_inner();
    assert_eq!(response.aggregated_size, 74_922);
    assert_eq!(response.count, 4);
    String::new()
}

pub async fn server_streaming(world: &World) -> String {
    let mut client = world.test_client().await;
    let request = StreamingOutputRequest {
        responses: RESPONSES.map(wanted).to_vec(),
        ..StreamingOutputRequest::default()
    };
    let response = client.streaming_output_call(request).await.expect("OK");
    let mut responses = response.into_inner();
    for (number, size) in (0..).zip(RESPONSES) {
        let response = responses.message().await.expect("OK").expect("a message");
        let body = response.payload.expect("a payload").body;
        assert_eq!(response.sequence, number);
        assert_eq!(body.len(), size as usize);
        assert!(is_payload(&body, number));
    }
    assert!(responses.message().await.expect("OK").is_none());
    String::new()
}

/// Sends the next message only when the answer to the last is here.
pub async fn ping_pong(world: &World) -> String {
    let mut client = world.test_client().await;
    let (requests, outgoing) = mpsc::channel(1);
    let call = client.full_duplex_call(ReceiverStream::new(outgoing)).await;
    let mut responses = call.expect("OK").into_inner();
    for turn in 0..TURNS {
        let index = turn as usize % 4;
        let request = said(REQUESTS[index], turn, &[RESPONSES[index]]);
        requests.send(request).await.expect("the call is open");
        let response = responses.message().await.expect("OK").expect("a message");
        let body = response.payload.expect("a payload").body;
        assert_eq!(response.sequence, turn);
        assert_eq!(body.len(), RESPONSES[index] as usize);
        assert!(is_payload(&body, turn));
    }
    drop(requests);
    assert!(responses.message().await.expect("OK").is_none());
    format!("{TURNS} turns")
}

/// The client says nothing before it has the response's head.
pub async fn client_waits_for_head(world: &World) -> String {
    let mut client = world.test_client().await;
    let (requests, outgoing) = mpsc::channel(1);
    let call = client.full_duplex_call(ReceiverStream::new(outgoing));
    let call = timeout(Duration::from_secs(10), call).await;
    let mut responses = call.expect("a head").expect("OK").into_inner();
    requests.send(said(8, 0, &[9])).await.expect("open");
    let response = responses.message().await.expect("OK").expect("a message");
    assert!(is_payload(&response.payload.expect("a payload").body, 0));
    drop(requests);
    assert!(responses.message().await.expect("OK").is_none());
    String::new()
}

/// The server gives the response's head only when it has a message; the client has both to send and to wait.
pub async fn server_waits_for_message(world: &World) -> String {
    let mut client = world.test_client().await;
    let (requests, outgoing) = mpsc::channel(1);
    let mut request = Request::new(ReceiverStream::new(outgoing));
    let wait = "1".parse().expect("ASCII");
    request.metadata_mut().insert(WAIT_FOR_MESSAGE, wait);
    let mut other = client.clone();
    let call = tokio::spawn(async move { client.full_duplex_call(request).await });
    world.backstage.wait("the call", |it| it.begun == 1).await;
    // The head is withheld, and another call on the same connection is none the wiser.
    other.empty_call(Empty {}).await.expect("OK");
    assert!(!call.is_finished());
    requests.send(said(8, 0, &[9])).await.expect("open");
    let mut responses = call.await.expect("no panic").expect("OK").into_inner();
    let response = responses.message().await.expect("OK").expect("a message");
    assert!(is_payload(&response.payload.expect("a payload").body, 0));
    drop(requests);
    assert!(responses.message().await.expect("OK").is_none());
    String::new()
}

pub async fn empty_stream(world: &World) -> String {
    let mut client = world.test_client().await;
    let call = client.full_duplex_call(stream::empty()).await;
    let mut responses = call.expect("OK").into_inner();
    assert!(responses.message().await.expect("OK").is_none());
    let call = client.streaming_input_call(stream::empty()).await;
    assert_eq!(call.expect("OK").into_inner().count, 0);
    let request = StreamingOutputRequest::default();
    let call = client.streaming_output_call(request).await;
    let mut responses = call.expect("OK").into_inner();
    assert!(responses.message().await.expect("OK").is_none());
    String::new()
}

/// The server answers with a status while the caller would send for ever, and the next call works.
pub async fn server_ends_before_the_caller(world: &World) -> String {
    let mut client = world.test_client().await;
    // The second is not what the service expects.
    let requests = [payload(100, 0), payload(100, 7)].map(|body| StreamingInputRequest {
        payload: Some(Payload { body }),
    });
    let requests = stream::iter(requests).chain(stream::pending());
    let call = client.streaming_input_call(requests);
    let call = timeout(Duration::from_secs(5), call).await;
    let error = call.expect("at once").expect_err("a status");
    assert_eq!(error.code(), Code::DataLoss, "{error:?}");
    client.empty_call(Empty {}).await.expect("OK");
    "DATA_LOSS".to_owned()
}

/// Many callers on one channel: each gets its own answer.
pub async fn concurrent_unary(world: &World) -> String {
    let client = world.test_client().await;
    let calls = (0..64).map(|caller| {
        let mut client = client.clone();
        async move {
            for turn in 0..8 {
                let size = caller * 100 + turn;
                let request = SimpleRequest {
                    response_size: size,
                    ..SimpleRequest::default()
                };
                let response = client.unary_call(request).await.expect("OK").into_inner();
                let body = response.payload.expect("a payload").body;
                assert_eq!(body.len(), size as usize);
            }
        }
    });
    futures_util::future::join_all(calls).await;
    world.backstage.wait("all", |it| it.finished == 512).await;
    "64 callers".to_owned()
}

/// The echo service that demo and benches use, all four methods.
pub async fn echo_service(world: &World) -> String {
    let mut client = world.echo_client().await;
    let request = EchoRequest {
        payload: payload(64, 7),
    };
    let response = client.echo(request).await.expect("OK").into_inner();
    assert!(response.payload.len() == 64 && is_payload(&response.payload, 7));

    let request = StreamRequest {
        count: 3,
        size: 10,
        interval_ms: 1,
    };
    let responses = client.server_stream(request).await.expect("OK");
    let responses: Vec<_> = responses.into_inner().collect().await;
    assert_eq!(responses.len(), 3);
    for response in responses {
        assert_eq!(response.expect("OK").payload.len(), 10);
    }

    let requests: Vec<_> = (0..5)
        .map(|number| EchoRequest {
            payload: payload(11, number),
        })
        .collect();
    let summary = client.client_stream(stream::iter(requests.clone())).await;
    let summary = summary.expect("OK").into_inner();
    assert_eq!((summary.count, summary.bytes), (5, 55));

    let responses = client.bidi_stream(stream::iter(requests)).await;
    let responses: Vec<_> = responses.expect("OK").into_inner().collect().await;
    assert_eq!(responses.len(), 5);
    for (number, response) in (0..).zip(responses) {
        assert!(is_payload(&response.expect("OK").payload, number));
    }
    String::new()
}

fn wanted(size: u32) -> ResponseParameters {
    ResponseParameters {
        size,
        interval_ms: 0,
    }
}

/// Message `number` of a duplex call, which asks for responses of these sizes.
fn said(size: usize, number: u64, responses: &[u32]) -> StreamingOutputRequest {
    StreamingOutputRequest {
        responses: responses.iter().copied().map(wanted).collect(),
        payload: Some(Payload {
            body: payload(size, number),
        }),
        ..StreamingOutputRequest::default()
    }
}

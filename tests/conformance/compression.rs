//! gzip, both ways. That it was really compressed is read from the wire, on the side that received it.

use futures_util::stream;
use tonic::{Code, codec::CompressionEncoding::Gzip};
use tower_iroh_proto::{
    echo::{EchoRequest, echo_client::EchoClient},
    testing::{
        Payload, ResponseParameters, SimpleRequest, StreamingInputRequest, StreamingOutputRequest,
        test_service_client::TestServiceClient,
    },
};

use crate::{
    metadata::assert_status,
    support::{
        World,
        payload::{is_payload, payload},
        wire::Tally,
    },
};

const SIZE: usize = 271_828;

/// The server counts the compressed flag, and says INVALID_ARGUMENT when it is not what the request announces.
pub async fn client_compressed_unary(world: &World) -> String {
    let client = TestServiceClient::new(world.client().await);
    let mut compressing = client.clone().send_compressed(Gzip);
    let mut plain = client;
    let request = |expect_compressed| SimpleRequest {
        payload: Some(Payload {
            body: payload(SIZE, 0),
        }),
        expect_compressed: Some(expect_compressed),
        ..SimpleRequest::default()
    };
    // The probe: were this OK, the server would not look.
    let error = plain.unary_call(request(true)).await;
    let message = "the request's message was not compressed";
    assert_status(
        &error.expect_err("a status"),
        Code::InvalidArgument,
        message,
    );
    let response = compressing.unary_call(request(true)).await.expect("OK");
    assert_eq!(response.into_inner().received_size, SIZE as u64);
    let response = plain.unary_call(request(false)).await.expect("OK");
    assert_eq!(response.into_inner().received_size, SIZE as u64);
    "gzip".to_owned()
}

pub async fn server_compressed_unary(world: &World) -> String {
    let channel = world.client().await;
    let mut client = TestServiceClient::new(channel.clone()).accept_compressed(Gzip);
    let request = |compress_response| SimpleRequest {
        response_size: SIZE as u32,
        compress_response,
        ..SimpleRequest::default()
    };
    for compress in [true, false] {
        let response = client.unary_call(request(compress)).await.expect("OK");
        let body = response.into_inner().payload.expect("a payload").body;
        assert!(body.len() == SIZE && is_payload(&body, 0));
        assert_wire(&channel.tally(), 1, compress);
    }
    // Who does not say that it accepts gzip gets none, whatever it asks for.
    let mut plain = TestServiceClient::new(channel.clone());
    plain.unary_call(request(true)).await.expect("OK");
    assert_eq!(channel.tally().encoding, None);
    assert_eq!(channel.tally().compressed, 0);
    "gzip".to_owned()
}

pub async fn client_compressed_streaming(world: &World) -> String {
    let client = TestServiceClient::new(world.client().await);
    let requests: Vec<_> = [27_182, 45_904]
        .into_iter()
        .zip(0..)
        .map(|(size, number)| StreamingInputRequest {
            payload: Some(Payload {
                body: payload(size, number),
            }),
        })
        .collect();
    for (mut client, compressed) in [(client.clone().send_compressed(Gzip), 2), (client, 0)] {
        let call = client.streaming_input_call(stream::iter(requests.clone()));
        let response = call.await.expect("OK").into_inner();
        assert_eq!(response.aggregated_size, 73_086);
        assert_eq!(response.count, 2);
        assert_eq!(response.compressed_count, compressed);
    }
    "gzip".to_owned()
}

/// tonic compresses a response stream whenever the caller accepts it; a handler cannot turn that off.
pub async fn server_compressed_streaming(world: &World) -> String {
    let channel = world.client().await;
    let plain = TestServiceClient::new(channel.clone());
    let accepting = plain.clone().accept_compressed(Gzip);
    for (mut client, compressed) in [(accepting, true), (plain, false)] {
        let request = StreamingOutputRequest {
            responses: [31_415, 92_653].map(wanted).to_vec(),
            ..StreamingOutputRequest::default()
        };
        let call = client.streaming_output_call(request).await;
        let mut responses = call.expect("OK").into_inner();
        for (number, size) in [(0, 31_415), (1, 92_653)] {
            let response = responses.message().await.expect("OK").expect("a message");
            let body = response.payload.expect("a payload").body;
            assert!(body.len() == size && is_payload(&body, number));
        }
        assert!(responses.message().await.expect("OK").is_none());
        assert_wire(&channel.tally(), 2, compressed);
    }
    "gzip".to_owned()
}

/// A server that takes no gzip says so, and names what it takes.
pub async fn refused_compression(world: &World) -> String {
    let mut client = EchoClient::new(world.client().await).send_compressed(Gzip);
    let request = EchoRequest {
        payload: payload(100, 0),
    };
    let error = client.echo(request).await.expect_err("a status");
    let message = "Content is compressed with `gzip` which isn't supported";
    assert_status(&error, Code::Unimplemented, message);
    "UNIMPLEMENTED".to_owned()
}

/// What arrived at the client: `messages`, all of them compressed or none.
fn assert_wire(tally: &Tally, messages: u64, compressed: bool) {
    assert_eq!(tally.messages, messages);
    if compressed {
        assert_eq!(tally.encoding.as_deref(), Some("gzip"));
        assert_eq!(tally.compressed, messages);
        assert!(tally.bytes < 20_000, "{tally:?}");
    } else {
        assert_eq!(tally.compressed, 0);
        assert!(tally.bytes > 100_000, "{tally:?}");
    }
}

fn wanted(size: u32) -> ResponseParameters {
    ResponseParameters {
        size,
        interval_ms: 0,
    }
}

//! gzip, deflate and zstd in each direction of each kind of call. The side that receives a message reads from the wire whether it was compressed.

use futures_util::{StreamExt as _, stream};
use tonic::{Code, Request, codec::CompressionEncoding, metadata::MetadataValue};
use tower_iroh_proto::testing::{
    Payload, ResponseParameters, SimpleRequest, StreamingInputRequest, StreamingOutputRequest,
    test_service_client::TestServiceClient,
};

use crate::{
    metadata::assert_status,
    support::{
        ENCODINGS, World,
        payload::{is_payload, payload},
        service::UNCOMPRESSED,
        wire::{Arrived, Tally},
    },
};

pub const SIZE: usize = 271_828;
/// The messages of a stream.
const SIZES: [usize; 2] = [131_415, 92_653];

/// The server counts the compressed flag, and says INVALID_ARGUMENT when it is not what the request announces.
pub async fn client_compressed_unary(world: &World) -> String {
    let mut plain = TestServiceClient::new(world.client().await);
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
    let response = plain.unary_call(request(false)).await.expect("OK");
    assert_eq!(response.into_inner().received_size, SIZE as u64);
    for encoding in ENCODINGS {
        let mut compressing = plain.clone().send_compressed(encoding);
        let response = compressing.unary_call(request(true)).await.expect("OK");
        assert_eq!(response.into_inner().received_size, SIZE as u64);
        assert_wire(&received(world), 1, Some(encoding));
    }
    all()
}

pub async fn server_compressed_unary(world: &World) -> String {
    let channel = world.client().await;
    for encoding in ENCODINGS {
        let mut client = TestServiceClient::new(channel.clone()).accept_compressed(encoding);
        let response = client.unary_call(large_response(true)).await.expect("OK");
        let body = response.into_inner().payload.expect("a payload").body;
        assert!(body.len() == SIZE && is_payload(&body, 0));
        assert_wire(&channel.tally(), 1, Some(encoding));
    }
    // A caller that accepts no compression gets none, whatever its request asks for.
    let mut plain = TestServiceClient::new(channel.clone());
    plain.unary_call(large_response(true)).await.expect("OK");
    assert_wire(&channel.tally(), 1, None);
    assert_eq!(channel.tally().encoding, None);
    all()
}

pub async fn client_compressed_streaming(world: &World) -> String {
    let plain = TestServiceClient::new(world.client().await);
    for encoding in choices() {
        let mut client = plain.clone();
        if let Some(encoding) = encoding {
            client = client.send_compressed(encoding);
        }
        let call = client.streaming_input_call(stream::iter(inputs()));
        let response = call.await.expect("OK").into_inner();
        assert_eq!(response.aggregated_size, 224_068);
        assert_eq!(response.count, 2);
        assert_eq!(
            response.compressed_count,
            if encoding.is_some() { 2 } else { 0 }
        );
        assert_wire(&received(world), 2, encoding);
    }
    all()
}

/// tonic compresses a response stream whenever the caller accepts it; a handler cannot turn that off.
pub async fn server_compressed_streaming(world: &World) -> String {
    let channel = world.client().await;
    for encoding in choices() {
        let mut client = TestServiceClient::new(channel.clone());
        if let Some(encoding) = encoding {
            client = client.accept_compressed(encoding);
        }
        for switched_off in [false, true] {
            let mut request = Request::new(StreamingOutputRequest {
                responses: SIZES.map(wanted).to_vec(),
                ..StreamingOutputRequest::default()
            });
            if switched_off {
                switch_off(&mut request);
            }
            let call = client.streaming_output_call(request).await;
            let mut responses = call.expect("OK").into_inner();
            for (number, size) in (0..).zip(SIZES) {
                let response = responses.message().await.expect("OK").expect("a message");
                let body = response.payload.expect("a payload").body;
                assert!(body.len() == size && is_payload(&body, number));
            }
            assert!(responses.message().await.expect("OK").is_none());
            assert_wire(&channel.tally(), 2, encoding);
        }
    }
    all()
}

/// The one response to a stream of requests.
pub async fn compressed_answer_to_a_stream(world: &World) -> String {
    let channel = world.client().await;
    for encoding in ENCODINGS {
        let plain = TestServiceClient::new(channel.clone());
        let mut client = plain.accept_compressed(encoding);
        let call = client.streaming_input_call(stream::iter(inputs()));
        assert_eq!(call.await.expect("OK").into_inner().count, 2);
        assert_eq!(received(world).compressed, 0);
        let Tally {
            encoding: named,
            messages,
            compressed,
            ..
        } = channel.tally();
        assert_eq!(
            (named, messages, compressed),
            (Some(encoding.to_string()), 1, 1)
        );
    }
    all()
}

/// Every pair of an encoding for the requests and one for the responses, of which either may be none.
pub async fn compressed_both_ways(world: &World) -> String {
    let channel = world.client().await;
    for sent in choices() {
        for accepted in choices() {
            let mut client = TestServiceClient::new(channel.clone());
            if let Some(sent) = sent {
                client = client.send_compressed(sent);
            }
            if let Some(accepted) = accepted {
                client = client.accept_compressed(accepted);
            }
            let requests = (0..)
                .zip(SIZES)
                .map(|(number, size)| StreamingOutputRequest {
                    responses: vec![wanted(size)],
                    payload: Some(Payload {
                        body: payload(size, number),
                    }),
                    ..StreamingOutputRequest::default()
                });
            let requests: Vec<_> = requests.collect();
            let call = client.full_duplex_call(stream::iter(requests)).await;
            let responses: Vec<_> = call.expect("OK").into_inner().collect().await;
            assert_eq!(responses.len(), 2);
            for (number, response) in (0..).zip(responses) {
                let body = response.expect("OK").payload.expect("a payload").body;
                assert!(is_payload(&body, number));
            }
            assert_wire(&received(world), 2, sent);
            assert_wire(&channel.tally(), 2, accepted);
        }
    }
    "16 pairs".to_owned()
}

/// A handler may switch compression off for a single message: the head still names the encoding, the message's flag says no.
pub async fn uncompressed_response(world: &World) -> String {
    let channel = world.client().await;
    for encoding in ENCODINGS {
        let mut client = TestServiceClient::new(channel.clone()).accept_compressed(encoding);
        let response = client.unary_call(large_response(false)).await.expect("OK");
        let body = response.into_inner().payload.expect("a payload").body;
        assert!(body.len() == SIZE && is_payload(&body, 0));
        assert_wire(&channel.tally(), 1, None);
        assert_eq!(channel.tally().encoding, Some(encoding.to_string()));

        let mut request = Request::new(stream::iter(inputs()));
        switch_off(&mut request);
        client.streaming_input_call(request).await.expect("OK");
        assert_eq!(channel.tally().compressed, 0);
        assert_eq!(channel.tally().encoding, Some(encoding.to_string()));
        // The next response is compressed again.
        client.unary_call(large_response(true)).await.expect("OK");
        assert_wire(&channel.tally(), 1, Some(encoding));
    }
    all()
}

pub fn large_response(compress_response: bool) -> SimpleRequest {
    SimpleRequest {
        response_size: SIZE as u32,
        compress_response,
        ..SimpleRequest::default()
    }
}

/// No compression, and each encoding.
fn choices() -> impl Iterator<Item = Option<CompressionEncoding>> {
    [None].into_iter().chain(ENCODINGS.map(Some))
}

/// What a cell says when all of [`ENCODINGS`] passed.
fn all() -> String {
    ENCODINGS.map(|it| it.to_string()).join(", ")
}

fn inputs() -> Vec<StreamingInputRequest> {
    let inputs = (0..)
        .zip(SIZES)
        .map(|(number, size)| StreamingInputRequest {
            payload: Some(Payload {
                body: payload(size, number),
            }),
        });
    inputs.collect()
}

fn switch_off<T>(request: &mut Request<T>) {
    let metadata = request.metadata_mut();
    metadata.insert(UNCOMPRESSED, MetadataValue::from_static("1"));
}

/// What arrived at the server of the last request.
fn received(world: &World) -> Tally {
    let request = world.backstage.take_request();
    let arrived = request.extensions().get::<Arrived>();
    arrived.expect("the server has the ArrivedLayer").tally()
}

/// `messages` arrived, together more than 100 kB before compression; all of them compressed with `encoding`, or none compressed.
pub fn assert_wire(tally: &Tally, messages: u64, encoding: Option<CompressionEncoding>) {
    assert_eq!(tally.messages, messages);
    match encoding {
        Some(encoding) => {
            assert_eq!(tally.encoding, Some(encoding.to_string()));
            assert_eq!(tally.compressed, messages);
            assert!(tally.bytes < 20_000, "{tally:?}");
        }
        None => {
            assert_eq!(tally.compressed, 0);
            assert!(tally.bytes > 100_000, "{tally:?}");
        }
    }
}

fn wanted(size: usize) -> ResponseParameters {
    ResponseParameters {
        size: size as u32,
        interval_ms: 0,
    }
}

//! What each side says of the encodings that it takes, and compressed messages that are refused.

use prost::Message as _;
use tonic::{
    Code, Request,
    body::Body,
    codec::CompressionEncoding::{self, Deflate, Gzip, Zstd},
    metadata::MetadataValue,
};
use tower::ServiceExt as _;
use tower_iroh_proto::{
    echo::{EchoRequest, echo_client::EchoClient},
    testing::{
        Empty, Payload, SimpleRequest, SimpleResponse, test_service_client::TestServiceClient,
    },
};

use crate::{
    compression::{SIZE, assert_wire, large_response},
    metadata::assert_status,
    support::{
        Client, ENCODINGS, ServerOptions, World,
        payload::payload,
        tamper::{TAMPER, UNKNOWN_ENCODING},
    },
};

/// The test service's limit for messages that come in.
const LIMIT: usize = 100_000;
/// The payload of a request that is exactly as long as [`LIMIT`].
const FITS: usize = LIMIT - 8;

/// The caller names what it accepts, in its own order, and the server takes the first of these that it has.
pub async fn accepted_encodings(world: &World) -> String {
    let channel = world.client().await;
    let mut plain = TestServiceClient::new(channel.clone());
    plain.empty_call(Empty {}).await.expect("OK");
    assert_eq!(accepted(world), None);

    let both = plain.accept_compressed(Zstd).accept_compressed(Deflate);
    let mut both = both.accept_compressed(Gzip);
    both.unary_call(large_response(true)).await.expect("OK");
    let named = accepted(world);
    assert_eq!(named.as_deref(), Some("zstd,deflate,gzip,identity"));
    assert_wire(&channel.tally(), 1, Some(Zstd));

    let gzip_alone = with_encodings(world, &[Gzip]).await;
    let channel = gzip_alone.client().await;
    let client = TestServiceClient::new(channel.clone()).accept_compressed(Zstd);
    client
        .clone()
        .unary_call(large_response(true))
        .await
        .expect("OK");
    assert_wire(&channel.tally(), 1, None);
    let mut client = client.accept_compressed(Gzip);
    client.unary_call(large_response(true)).await.expect("OK");
    assert_wire(&channel.tally(), 1, Some(Gzip));
    drop((client, channel));
    gzip_alone.stop().await;
    String::new()
}

/// A server that takes no compression says so.
pub async fn refused_compression(world: &World) -> String {
    for encoding in ENCODINGS {
        let mut client = EchoClient::new(world.client().await).send_compressed(encoding);
        let request = EchoRequest {
            payload: payload(100, 0),
        };
        let error = client.echo(request).await.expect_err("a status");
        assert_refused(&error, &encoding.to_string(), "identity");
    }
    "UNIMPLEMENTED".to_owned()
}

/// A server that takes another encoding names that one.
pub async fn refused_among_others(world: &World) -> String {
    let pairs: [(CompressionEncoding, &'static [_], &str); 3] = [
        (Gzip, &[Zstd], "zstd,identity"),
        (Zstd, &[Gzip, Deflate], "gzip,deflate,identity"),
        (Deflate, &[Gzip, Zstd], "gzip,zstd,identity"),
    ];
    for (sent, taken, names) in pairs {
        let server = with_encodings(world, taken).await;
        let client = server.test_client().await;
        let mut wrong = client.clone().send_compressed(sent);
        let error = wrong.unary_call(large_request(SIZE)).await;
        assert_refused(&error.expect_err("a status"), &sent.to_string(), names);
        let mut right = client.send_compressed(taken[0]);
        right.unary_call(large_request(SIZE)).await.expect("OK");
        drop((wrong, right));
        server.stop().await;
    }
    "UNIMPLEMENTED".to_owned()
}

/// The same on the client: a response whose encoding it does not know.
pub async fn unknown_response_encoding(world: &World) -> String {
    let mut client = world.test_client().await.accept_compressed(Gzip);
    let mut request = Request::new(large_response(true));
    let value = MetadataValue::from_static(UNKNOWN_ENCODING);
    request.metadata_mut().insert(TAMPER, value);
    let error = client.unary_call(request).await.expect_err("a status");
    assert_refused(&error, "br", "gzip,identity");
    client.empty_call(Empty {}).await.expect("OK");
    "UNIMPLEMENTED".to_owned()
}

/// A message whose flag says compressed, in a request whose head names no encoding.
pub async fn compressed_without_encoding(world: &World) -> String {
    let nameless = |mut request: http::Request<Body>| {
        let named = request.headers_mut().remove("grpc-encoding");
        assert!(named.is_some());
        request
    };
    for encoding in ENCODINGS {
        let channel = Client::new(world.client().await.map_request(nameless));
        let mut client = TestServiceClient::new(channel).send_compressed(encoding);
        let error = client.unary_call(large_request(SIZE)).await;
        let message = "protocol error: received message with compressed-flag but no grpc-encoding was specified";
        assert_status(&error.expect_err("a status"), Code::Internal, message);
    }
    "INTERNAL".to_owned()
}

/// The limit counts what a message is decompressed, so that a small message cannot fill the memory.
pub async fn compressed_request_above_the_limit(world: &World) -> String {
    let options = ServerOptions {
        decoding_limit: Some(LIMIT),
        ..ServerOptions::default()
    };
    let limited = World::start(world.arm(), options).await;
    assert_eq!(large_request(FITS).encoded_len(), LIMIT);
    let plain = limited.test_client().await;
    for encoding in ENCODINGS {
        let mut client = plain.clone().send_compressed(encoding);
        client.unary_call(large_request(FITS)).await.expect("OK");
        let error = client.unary_call(large_request(FITS + 1)).await;
        assert_above(&error.expect_err("a status"));
        client.unary_call(large_request(FITS)).await.expect("OK");
    }
    drop(plain);
    limited.stop().await;
    "RESOURCE_EXHAUSTED".to_owned()
}

pub async fn compressed_response_above_the_limit(world: &World) -> String {
    let response = |size| SimpleRequest {
        response_size: size,
        compress_response: true,
        ..SimpleRequest::default()
    };
    let plain = world.test_client().await;
    // What is in a response beside its payload differs with the way in.
    let answer = plain.clone().unary_call(response(FITS as u32)).await;
    let answer: SimpleResponse = answer.expect("OK").into_inner();
    let beside = answer.encoded_len() - FITS;
    let fits = (LIMIT - beside) as u32;
    for encoding in ENCODINGS {
        let client = plain.clone().accept_compressed(encoding);
        let mut client = client.max_decoding_message_size(LIMIT);
        client.unary_call(response(fits)).await.expect("OK");
        let error = client.unary_call(response(fits + 1)).await;
        assert_above(&error.expect_err("a status"));
        client.unary_call(response(fits)).await.expect("OK");
    }
    "RESOURCE_EXHAUSTED".to_owned()
}

async fn with_encodings(world: &World, encodings: &'static [CompressionEncoding]) -> World {
    let options = ServerOptions {
        encodings: Some(encodings),
        ..ServerOptions::default()
    };
    World::start(world.arm(), options).await
}

/// What the last request said of the encodings that its caller accepts.
fn accepted(world: &World) -> Option<String> {
    let request = world.backstage.take_request();
    let value = request.metadata().get("grpc-accept-encoding");
    value.map(|it| it.to_str().expect("ASCII").to_owned())
}

fn large_request(size: usize) -> SimpleRequest {
    SimpleRequest {
        payload: Some(Payload {
            body: payload(size, 0),
        }),
        ..SimpleRequest::default()
    }
}

/// An encoding was refused by a side that takes `taken`.
fn assert_refused(error: &tonic::Status, encoding: &str, taken: &str) {
    let message = format!("Content is compressed with `{encoding}` which isn't supported");
    assert_status(error, Code::Unimplemented, &message);
    let named = error.metadata().get("grpc-accept-encoding");
    assert_eq!(named.expect("what is taken"), taken);
}

fn assert_above(error: &tonic::Status) {
    let message =
        "Error decompressing: size limit, of 100000 bytes, exceeded while decompressing message";
    assert_status(error, Code::ResourceExhausted, message);
}

//! Metadata and status: what travels beside the messages.

use futures_util::stream;
use http::uri::PathAndQuery;
use tonic::{Code, Request, Status, metadata::MetadataValue};
use tower_iroh_proto::{
    ProstCodec,
    testing::{
        EchoStatus, Empty, Payload, ResponseParameters, SimpleRequest, StreamingOutputRequest,
        unimplemented_service_client::UnimplementedServiceClient,
    },
};

use crate::support::{
    World,
    echo_metadata::{INITIAL, TRAILING},
    payload::payload,
    service::IN_STATUS,
};

/// gRPC's interop text: whitespace that a header must not carry bare, and characters outside of ASCII and of the BMP.
const SPECIAL: &str =
    "\t\ntest with whitespace\r\nand Unicode BMP \u{263a} and non-BMP \u{1f608}\t\n";

pub async fn custom_metadata(world: &World) -> String {
    let mut client = world.test_client().await;
    let request = with_metadata(SimpleRequest {
        response_size: 10,
        ..SimpleRequest::default()
    });
    let response = client.unary_call(request).await.expect("OK");
    // For a unary call tonic puts the trailers beside the headers.
    assert_echoed_initial(response.metadata());
    assert_echoed_trailing(response.metadata());

    let request = StreamingOutputRequest {
        responses: vec![ResponseParameters::default()],
        ..StreamingOutputRequest::default()
    };
    let request = with_metadata(stream::iter([request]));
    let response = client.full_duplex_call(request).await.expect("OK");
    assert_echoed_initial(response.metadata());
    assert!(!response.metadata().contains_key(TRAILING));
    let mut responses = response.into_inner();
    assert!(responses.message().await.expect("OK").is_some());
    assert!(responses.message().await.expect("OK").is_none());
    let trailers = responses.trailers().await.expect("OK").expect("trailers");
    assert_echoed_trailing(&trailers);
    assert!(!trailers.contains_key(INITIAL));
    String::new()
}

/// Nearly as much as tonic accepts by default, 16 KiB, in each direction.
pub async fn metadata_of_12_kb(world: &World) -> String {
    let mut client = world.test_client().await;
    let text = "x".repeat(12 << 10);
    let mut request = Request::new(SimpleRequest::default());
    let value = text.parse().expect("ASCII");
    request.metadata_mut().insert(INITIAL, value);
    let response = client.unary_call(request).await.expect("OK");
    let echoed = response.metadata().get(INITIAL).expect("echoed");
    assert_eq!(echoed.as_bytes(), text.as_bytes());
    let wanted = status(Code::Aborted, &text);
    let error = client.unary_call(wanted.unary()).await;
    assert_status(&error.expect_err("a status"), Code::Aborted, &text);
    String::new()
}

/// Every code there is, with and without messages before it.
pub async fn status_code_and_message(world: &World) -> String {
    let mut client = world.test_client().await;
    for code in 1..=16 {
        let code = Code::from_i32(code);
        let message = format!("test status message {}", code as i32);
        let wanted = status(code, &message);
        let error = client.unary_call(wanted.clone().unary()).await;
        assert_status(&error.expect_err("a status"), code, &message);

        let call = client.full_duplex_call(stream::iter([wanted.stream(2)]));
        let mut responses = call.await.expect("a head").into_inner();
        for number in 0..2 {
            let response = responses.message().await.expect("OK").expect("a message");
            assert_eq!(response.sequence, number);
        }
        let error = responses.message().await.expect_err("a status");
        assert_status(&error, code, &message);
    }
    "all 16 codes".to_owned()
}

pub async fn special_status_message(world: &World) -> String {
    let mut client = world.test_client().await;
    let wanted = status(Code::Unknown, SPECIAL);
    let error = client.unary_call(wanted.clone().unary()).await;
    assert_status(&error.expect_err("a status"), Code::Unknown, SPECIAL);
    let call = client.streaming_output_call(wanted.stream(1)).await;
    let mut responses = call.expect("a head").into_inner();
    assert!(responses.message().await.expect("OK").is_some());
    let error = responses.message().await.expect_err("a status");
    assert_status(&error, Code::Unknown, SPECIAL);
    String::new()
}

/// The binary details of a status, which richer error models are made of.
pub async fn status_details(world: &World) -> String {
    let mut client = world.test_client().await;
    let mut wanted = status(Code::FailedPrecondition, "see the details");
    wanted.details = payload(1000, 3);
    let error = client.unary_call(wanted.unary()).await;
    let error = error.expect_err("a status");
    assert_status(&error, Code::FailedPrecondition, "see the details");
    assert_eq!(error.details(), payload(1000, 3));
    String::new()
}

/// Metadata that the handler puts into a status: repeated, and binary.
pub async fn status_metadata(world: &World) -> String {
    let [ascii, binary] = IN_STATUS;
    let mut client = world.test_client().await;
    let mut request = Request::new(status(Code::Internal, "see the metadata").unary());
    let metadata = request.metadata_mut();
    metadata.append(ascii, MetadataValue::from_static("first"));
    metadata.append(ascii, MetadataValue::from_static("second"));
    metadata.insert_bin(binary, MetadataValue::from_bytes(&trailing_value()));
    let error = client.unary_call(request).await.expect_err("a status");
    assert_status(&error, Code::Internal, "see the metadata");
    let values: Vec<_> = error.metadata().get_all(ascii).iter().collect();
    assert_eq!(values, ["first", "second"]);
    let value = error.metadata().get_bin(binary).expect("a value");
    assert_eq!(value.to_bytes().expect("base64"), trailing_value());
    String::new()
}

/// A method that the service has and the server refuses, and one that it never had.
pub async fn unimplemented_method(world: &World) -> String {
    let mut client = world.test_client().await;
    let error = client.unimplemented_call(Empty {}).await;
    let error = error.expect_err("a status");
    let message = "UnimplementedCall is not implemented";
    assert_status(&error, Code::Unimplemented, message);

    let mut client = tonic::client::Grpc::new(world.client().await);
    client.ready().await.expect("ready");
    let path = PathAndQuery::from_static("/tower_iroh.testing.v1.TestService/NoSuchCall");
    let call = client.unary(
        Request::new(Empty {}),
        path,
        ProstCodec::<Empty, Empty>::default(),
    );
    assert_status(&call.await.expect_err("a status"), Code::Unimplemented, "");
    "UNIMPLEMENTED".to_owned()
}

pub async fn unimplemented_service(world: &World) -> String {
    let mut client = UnimplementedServiceClient::new(world.client().await);
    let error = client.unimplemented_call(Empty {}).await;
    assert_status(&error.expect_err("a status"), Code::Unimplemented, "");
    "UNIMPLEMENTED".to_owned()
}

fn with_metadata<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let metadata = request.metadata_mut();
    for value in initial_values() {
        metadata.append(INITIAL, value.parse().expect("ASCII"));
    }
    metadata.insert_bin(TRAILING, MetadataValue::from_bytes(&trailing_value()));
    request
}

/// Two values, of which the second has everything that visible ASCII offers.
fn initial_values() -> [String; 2] {
    let visible = (b'!'..=b'~').map(char::from).collect();
    ["test_initial_metadata_value".to_owned(), visible]
}

/// Every byte there is.
fn trailing_value() -> Vec<u8> {
    (0..=255).collect()
}

fn assert_echoed_initial(metadata: &tonic::metadata::MetadataMap) {
    let values = metadata.get_all(INITIAL).iter();
    let values: Vec<_> = values.map(|value| value.to_str().expect("ASCII")).collect();
    assert_eq!(values, initial_values());
}

fn assert_echoed_trailing(metadata: &tonic::metadata::MetadataMap) {
    let values: Vec<_> = metadata.get_all_bin(TRAILING).iter().collect();
    assert_eq!(values.len(), 1);
    let bytes = values[0].to_bytes().expect("base64");
    assert_eq!(bytes, trailing_value());
}

pub fn status(code: Code, message: &str) -> EchoStatus {
    EchoStatus {
        code: code as i32,
        message: message.to_owned(),
        ..EchoStatus::default()
    }
}

pub trait AsRequest {
    fn unary(self) -> SimpleRequest;
    /// With `responses` messages before the status.
    fn stream(self, responses: usize) -> StreamingOutputRequest;
}

impl AsRequest for EchoStatus {
    fn unary(self) -> SimpleRequest {
        SimpleRequest {
            response_status: Some(self),
            ..SimpleRequest::default()
        }
    }

    fn stream(self, responses: usize) -> StreamingOutputRequest {
        StreamingOutputRequest {
            responses: vec![ResponseParameters::default(); responses],
            payload: Some(Payload {
                body: payload(8, 0),
            }),
            response_status: Some(self),
        }
    }
}

pub fn assert_status(status: &Status, code: Code, message: &str) {
    assert_eq!(
        (status.code(), status.message()),
        (code, message),
        "{status:?}"
    );
}

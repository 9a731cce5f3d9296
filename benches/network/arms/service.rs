//! The server's side of every arm: the same services, whatever carries them.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError, atomic::AtomicU64},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{Stream, StreamExt, stream};
use tonic::{Request, Response, Status, Streaming, transport::server::Router};
use tower_iroh_proto::{
    EchoService,
    echo::echo_server::EchoServer,
    testing::{
        Empty, Payload, SimpleRequest, SimpleResponse, StreamingInputRequest,
        StreamingInputResponse, StreamingOutputRequest, StreamingOutputResponse,
        test_service_server::{TestService, TestServiceServer},
    },
};

use super::{MESSAGE, counting::Counting};

/// How often the server handled each call that had a number.
#[derive(Debug, Default)]
pub struct Seen(Mutex<HashMap<u64, u32>>);

impl Seen {
    fn count(&self, id: u64) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *seen.entry(id).or_default() += 1;
    }

    /// How many calls came, and how many of them more than once.
    pub fn calls(&self) -> (usize, usize) {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (
            seen.len(),
            seen.values().filter(|times| **times > 1).count(),
        )
    }
}

/// tonic's server with both services; request bodies of bulk calls are counted.
pub fn router(
    mut server: tonic::transport::Server,
    carried: &Arc<AtomicU64>,
    seen: &Arc<Seen>,
) -> Router {
    let bulk = TestServiceServer::new(Sink { seen: seen.clone() })
        .max_decoding_message_size(MESSAGE)
        .max_encoding_message_size(MESSAGE);
    server
        .add_service(EchoServer::new(EchoService))
        .add_service(Counting::requests(bulk, carried.clone()))
}

/// Takes payloads and gives payloads.
struct Sink {
    seen: Arc<Seen>,
}

#[tonic::async_trait]
impl TestService for Sink {
    async fn empty_call(&self, _: Request<Empty>) -> Result<Response<Empty>, Status> {
        Ok(Response::new(Empty {}))
    }

    /// A payload of exactly eight bytes is a number, and is counted.
    async fn unary_call(
        &self,
        request: Request<SimpleRequest>,
    ) -> Result<Response<SimpleResponse>, Status> {
        let request = request.into_inner();
        let body = request.payload.unwrap_or_default().body;
        if let Ok(id) = body[..].try_into() {
            self.seen.count(u64::from_be_bytes(id));
        }
        Ok(Response::new(SimpleResponse {
            payload: Some(Payload {
                body: zeros(request.response_size as usize)?,
            }),
            received_size: body.len() as u64,
            ..SimpleResponse::default()
        }))
    }

    type StreamingOutputCallStream =
        Pin<Box<dyn Stream<Item = Result<StreamingOutputResponse, Status>> + Send>>;

    async fn streaming_output_call(
        &self,
        request: Request<StreamingOutputRequest>,
    ) -> Result<Response<Self::StreamingOutputCallStream>, Status> {
        let responses = request.into_inner().responses;
        let messages = stream::iter((0..).zip(responses)).then(|(sequence, wanted)| async move {
            tokio::time::sleep(Duration::from_millis(wanted.interval_ms.into())).await;
            let body = zeros(wanted.size as usize)?;
            let payload = Some(Payload { body });
            Ok(StreamingOutputResponse { payload, sequence })
        });
        Ok(Response::new(messages.boxed()))
    }

    async fn streaming_input_call(
        &self,
        _: Request<Streaming<StreamingInputRequest>>,
    ) -> Result<Response<StreamingInputResponse>, Status> {
        Err(Status::unimplemented("nothing is measured with it"))
    }

    type FullDuplexCallStream =
        Pin<Box<dyn Stream<Item = Result<StreamingOutputResponse, Status>> + Send>>;

    async fn full_duplex_call(
        &self,
        _: Request<Streaming<StreamingOutputRequest>>,
    ) -> Result<Response<Self::FullDuplexCallStream>, Status> {
        Err(Status::unimplemented("nothing is measured with it"))
    }

    async fn unimplemented_call(&self, _: Request<Empty>) -> Result<Response<Empty>, Status> {
        Err(Status::unimplemented("as its name says"))
    }
}

/// Zeros without making them anew for each call.
fn zeros(size: usize) -> Result<Bytes, Status> {
    static ZEROS: [u8; 1 << 20] = [0; 1 << 20];
    match ZEROS.get(..size) {
        Some(zeros) => Ok(Bytes::from_static(zeros)),
        None if size <= MESSAGE => Ok(vec![0; size].into()),
        None => Err(Status::invalid_argument("a message of more than 64 MiB")),
    }
}

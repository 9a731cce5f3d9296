//! The test service, with the semantics of gRPC's interoperability tests.

use std::{collections::VecDeque, pin::Pin, time::Duration};

use futures_util::{Stream, StreamExt as _, stream};
use tokio::time::sleep;
use tonic::{
    Code, Request, Response, Status, Streaming,
    metadata::{Ascii, MetadataMap, MetadataValue},
    service::Interceptor,
};
use tower_iroh::PeerInfo;
use tower_iroh_proto::testing::{
    EchoStatus, Empty, Payload, ResponseParameters, SimpleRequest, SimpleResponse,
    StreamingInputRequest, StreamingInputResponse, StreamingOutputRequest, StreamingOutputResponse,
    test_service_server::TestService,
};

use super::{
    backstage::{Backstage, Call},
    payload::{LARGEST, is_payload, payload},
    tamper::Left,
    wire::Arrived,
};

/// A duplex call with this header gets its response head only after its first message.
pub const WAIT_FOR_MESSAGE: &str = "x-test-wait-for-message";
/// Tells the service's interceptor to refuse the call.
pub const REFUSE: &str = "x-test-refuse";
/// The service's interceptor hands this on to the handler, as an extension.
pub const STAMP: &str = "x-test-stamp";
/// Where the handler answers with what the interceptor handed on.
pub const STAMPED: &str = "x-test-stamped";
/// A call with streamed requests is answered before any of them is read, with an empty response.
pub const AT_ONCE: &str = "x-test-at-once";
/// The handler of a unary call panics.
pub const PANIC: &str = "x-test-panic";
/// Come back in the metadata of a unary call's status.
pub const IN_STATUS: [&str; 2] = ["x-test-in-status", "x-test-in-status-bin"];
/// A unary call's handler leaves this in its response's extensions, see [`Left`].
pub const LEAVE: &str = "x-test-leave";
/// A streaming call with this header switches compression off for its response.
pub const UNCOMPRESSED: &str = "x-test-uncompressed";

#[derive(Clone, Debug)]
pub struct Tester {
    backstage: Backstage,
}

impl Tester {
    pub fn new(backstage: Backstage) -> Self {
        Self { backstage }
    }
}

type Outgoing = Pin<Box<dyn Stream<Item = Result<StreamingOutputResponse, Status>> + Send>>;

#[tonic::async_trait]
impl TestService for Tester {
    type StreamingOutputCallStream = Outgoing;
    type FullDuplexCallStream = Outgoing;

    async fn empty_call(&self, request: Request<Empty>) -> Result<Response<Empty>, Status> {
        self.backstage.remember(&request);
        self.backstage.begin().finish();
        Ok(Response::new(Empty {}))
    }

    async fn unary_call(
        &self,
        request: Request<SimpleRequest>,
    ) -> Result<Response<SimpleResponse>, Status> {
        self.backstage.remember(&request);
        let mut call = self.backstage.begin();
        assert!(!request.metadata().contains_key(PANIC), "as it was asked");
        let peer_id = peer_id(&request);
        let remote_addr = request.remote_addr().map(|addr| addr.to_string());
        let compressed = arrived(&request).compressed > 0;
        let stamp = request.extensions().get::<Stamp>().cloned();
        let leave = request.metadata().get(LEAVE).cloned();
        let metadata = request.metadata().clone();
        let request = request.into_inner();

        sleep(Duration::from_millis(request.sleep_ms.into())).await;
        call.finish();
        if request.expect_compressed.is_some_and(|it| it != compressed) {
            return Err(Status::invalid_argument(format!(
                "the request's message was {}compressed",
                if compressed { "" } else { "not " }
            )));
        }
        wanted_status(request.response_status).map_err(|status| with_metadata(status, metadata))?;
        let received_size = checked(request.payload, 0)?;
        let mut response = Response::new(SimpleResponse {
            payload: Some(made(request.response_size, 0)?),
            received_size,
            peer_id,
            remote_addr: remote_addr.unwrap_or_default(),
        });
        if let Some(Stamp(stamp)) = stamp {
            response.metadata_mut().insert(STAMPED, stamp);
        }
        if let Some(leave) = leave {
            response.extensions_mut().insert(Left(leave));
        }
        if !request.compress_response {
            response.disable_compression();
        }
        Ok(response)
    }

    async fn streaming_output_call(
        &self,
        request: Request<StreamingOutputRequest>,
    ) -> Result<Response<Outgoing>, Status> {
        self.backstage.remember(&request);
        let uncompressed = request.metadata().contains_key(UNCOMPRESSED);
        let mut talk = Talk::new(&self.backstage, None);
        talk.take(request.into_inner())?;
        Ok(respond(talk.into_stream(), uncompressed))
    }

    async fn streaming_input_call(
        &self,
        request: Request<Streaming<StreamingInputRequest>>,
    ) -> Result<Response<StreamingInputResponse>, Status> {
        self.backstage.remember(&request);
        let mut call = self.backstage.begin();
        let arrived = request.extensions().get::<Arrived>().cloned();
        let uncompressed = request.metadata().contains_key(UNCOMPRESSED);
        let mut response = StreamingInputResponse::default();
        if request.metadata().contains_key(AT_ONCE) {
            call.finish();
            return Ok(Response::new(response));
        }
        let mut incoming = request.into_inner();
        while let Some(message) = incoming.message().await? {
            response.aggregated_size += checked(message.payload, response.count)?;
            response.count += 1;
        }
        response.compressed_count = arrived.map_or(0, |it| it.tally().compressed);
        call.finish();
        Ok(respond(response, uncompressed))
    }

    async fn full_duplex_call(
        &self,
        request: Request<Streaming<StreamingOutputRequest>>,
    ) -> Result<Response<Outgoing>, Status> {
        self.backstage.remember(&request);
        let wait = request.metadata().contains_key(WAIT_FOR_MESSAGE);
        let uncompressed = request.metadata().contains_key(UNCOMPRESSED);
        let at_once = request.metadata().contains_key(AT_ONCE);
        let mut talk = Talk::new(&self.backstage, Some(request.into_inner()));
        talk.over = at_once;
        if wait {
            talk.hear().await?;
        }
        Ok(respond(talk.into_stream(), uncompressed))
    }

    async fn unimplemented_call(&self, _: Request<Empty>) -> Result<Response<Empty>, Status> {
        Err(Status::unimplemented(
            "UnimplementedCall is not implemented",
        ))
    }
}

fn respond<T>(message: T, uncompressed: bool) -> Response<T> {
    let mut response = Response::new(message);
    if uncompressed {
        response.disable_compression();
    }
    response
}

/// One streaming call: what it still has to hear, and what it still has to say.
struct Talk {
    call: Call,
    backstage: Backstage,
    incoming: Option<Streaming<StreamingOutputRequest>>,
    heard: u64,
    to_say: VecDeque<ResponseParameters>,
    said: u64,
    last_word: Option<Status>,
    over: bool,
}

impl Talk {
    fn new(backstage: &Backstage, incoming: Option<Streaming<StreamingOutputRequest>>) -> Self {
        Self {
            call: backstage.begin(),
            backstage: backstage.clone(),
            incoming,
            heard: 0,
            to_say: VecDeque::new(),
            said: 0,
            last_word: None,
            over: false,
        }
    }

    fn take(&mut self, request: StreamingOutputRequest) -> Result<(), Status> {
        checked(request.payload, self.heard)?;
        self.heard += 1;
        self.to_say.extend(request.responses);
        self.last_word = wanted_status(request.response_status).err();
        Ok(())
    }

    /// Takes the next message; without one the talk ends once everything is said.
    async fn hear(&mut self) -> Result<(), Status> {
        let next = match &mut self.incoming {
            Some(incoming) => incoming.message().await?,
            None => None,
        };
        match next {
            Some(request) => self.take(request),
            None => {
                self.over = true;
                Ok(())
            }
        }
    }

    async fn say(&mut self) -> Option<Result<StreamingOutputResponse, Status>> {
        loop {
            if let Some(next) = self.to_say.pop_front() {
                sleep(Duration::from_millis(next.interval_ms.into())).await;
                let sequence = self.said;
                self.said += 1;
                self.backstage.sent();
                return Some(
                    made(next.size, sequence).map(|payload| StreamingOutputResponse {
                        payload: Some(payload),
                        sequence,
                    }),
                );
            }
            if let Some(status) = self.last_word.take() {
                self.over = true;
                self.call.finish();
                return Some(Err(status));
            }
            if self.over {
                self.call.finish();
                return None;
            }
            if let Err(status) = self.hear().await {
                return Some(Err(status));
            }
        }
    }

    fn into_stream(self) -> Outgoing {
        stream::unfold(self, |mut talk| async {
            talk.say().await.map(|said| (said, talk))
        })
        .boxed()
    }
}

/// The service's interceptor: refuses what asks for it, and hands a stamp on to the handler.
#[derive(Clone, Copy, Debug)]
pub struct Guard;

#[derive(Clone, Debug)]
struct Stamp(MetadataValue<Ascii>);

impl Interceptor for Guard {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if request.metadata().contains_key(REFUSE) {
            return Err(Status::permission_denied(
                "refused by the server's interceptor",
            ));
        }
        if let Some(stamp) = request.metadata().get(STAMP).cloned() {
            request.extensions_mut().insert(Stamp(stamp));
        }
        Ok(request)
    }
}

fn arrived<T>(request: &Request<T>) -> super::wire::Tally {
    let arrived = request.extensions().get::<Arrived>();
    arrived.expect("the server has the ArrivedLayer").tally()
}

/// The caller's endpoint id, where the transport proved one.
fn peer_id<T>(request: &Request<T>) -> String {
    let info = request.extensions().get::<PeerInfo>();
    info.and_then(PeerInfo::id)
        .map(|id| id.to_string())
        .unwrap_or_default()
}

/// The status that the caller wants to see, as an error.
fn wanted_status(wanted: Option<EchoStatus>) -> Result<(), Status> {
    match wanted {
        Some(EchoStatus {
            code,
            message,
            details,
        }) if code != Code::Ok as i32 => Err(Status::with_details(code.into(), message, details)),
        _ => Ok(()),
    }
}

/// Adds what of the request's metadata is [`IN_STATUS`].
fn with_metadata(mut status: Status, metadata: MetadataMap) -> Status {
    let headers = metadata.into_headers();
    let mut wanted = http::HeaderMap::new();
    for name in IN_STATUS {
        for value in headers.get_all(name) {
            wanted.append(name, value.clone());
        }
    }
    *status.metadata_mut() = MetadataMap::from_headers(wanted);
    status
}

/// The size of a payload, if it is the one that message `number` must have.
fn checked(payload: Option<Payload>, number: u64) -> Result<u64, Status> {
    let body = payload.unwrap_or_default().body;
    if is_payload(&body, number) {
        Ok(body.len() as u64)
    } else {
        Err(Status::data_loss(format!(
            "the {} bytes of message {number} are not what was sent",
            body.len()
        )))
    }
}

fn made(size: u32, number: u64) -> Result<Payload, Status> {
    if size as usize > LARGEST {
        return Err(Status::invalid_argument(format!(
            "a payload of {size} bytes is above the {LARGEST} that this server makes"
        )));
    }
    let body = payload(size as usize, number);
    Ok(Payload { body })
}

//! Streams that one side ends while the other would go on.

use std::{future::pending, time::Duration};

use futures_util::{Stream, StreamExt as _, stream};
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Request, metadata::MetadataValue};
use tower_iroh_proto::testing::{
    Empty, Payload, ResponseParameters, SimpleRequest, StreamingInputRequest,
    StreamingOutputRequest,
};

use crate::{
    metadata::{AsRequest as _, assert_status, status},
    report::code_name,
    support::{
        World,
        backstage::Counts,
        payload::{is_payload, payload},
        service::{AT_ONCE, PANIC, REFUSE},
        tamper::{NO_STATUS, TAMPER},
    },
};

/// Longer than this no event of these cases takes.
const PATIENCE: Duration = Duration::from_secs(10);

/// A caller that never stops sending, and one that has sent nothing.
#[derive(Clone, Copy, Debug)]
enum Caller {
    Floods,
    Waits,
}

impl Caller {
    const ALL: [Caller; 2] = [Caller::Floods, Caller::Waits];

    /// The requests, and what ends when the channel lets go of them.
    fn requests(
        self,
    ) -> (
        impl Stream<Item = StreamingInputRequest> + Send + 'static,
        oneshot::Receiver<()>,
    ) {
        let (held, let_go) = oneshot::channel();
        let requests = stream::unfold((held, 0), move |(held, number)| async move {
            if let Caller::Waits = self {
                pending::<()>().await;
            }
            let body = payload(60_000, number);
            let request = StreamingInputRequest {
                payload: Some(Payload { body }),
            };
            Some((request, (held, number + 1)))
        });
        (requests, let_go)
    }
}

/// The server answers OK and has read nothing. The caller gets the answer, and its requests are let go.
pub async fn server_answers_unread(world: &World) -> String {
    let mut client = world.test_client().await;
    for caller in Caller::ALL {
        let (requests, let_go) = caller.requests();
        let call = client.streaming_input_call(marked(requests, AT_ONCE));
        let answer = timeout(PATIENCE, call).await.expect("at once");
        let answer = answer.unwrap_or_else(|error| panic!("{caller:?}: {error:?}"));
        assert_eq!(answer.into_inner().count, 0);
        assert_let_go(let_go).await;
    }
    client.empty_call(Empty {}).await.expect("OK");
    String::new()
}

/// The same with a status, from before the handler.
pub async fn server_refuses_unread(world: &World) -> String {
    let mut client = world.test_client().await;
    for caller in Caller::ALL {
        let (requests, let_go) = caller.requests();
        let call = client.streaming_input_call(marked(requests, REFUSE));
        let error = timeout(PATIENCE, call).await.expect("at once");
        let message = "refused by the server's interceptor";
        let error = error.expect_err("a status");
        assert_status(&error, Code::PermissionDenied, message);
        assert_let_go(let_go).await;
    }
    assert_eq!(world.backstage.counts().begun, 0);
    client.empty_call(Empty {}).await.expect("OK");
    code_name(Code::PermissionDenied).to_owned()
}

/// The server ends a conversation with a status: what it said before arrives, then the status, and then nothing more.
pub async fn server_ends_a_conversation(world: &World) -> String {
    let mut client = world.test_client().await;
    let (requests, outgoing) = mpsc::channel(1);
    let call = client.full_duplex_call(ReceiverStream::new(outgoing)).await;
    let mut responses = call.expect("OK").into_inner();
    let last = status(Code::Aborted, "enough").stream(3);
    requests.send(last).await.expect("the call is open");
    for number in 0..3 {
        let response = responses.message().await.expect("OK").expect("a message");
        assert_eq!(response.sequence, number);
    }
    let error = responses.message().await.expect_err("a status");
    assert_status(&error, Code::Aborted, "enough");
    assert!(
        responses
            .message()
            .await
            .expect("no second status")
            .is_none()
    );
    // The channel of the requests closes though nobody dropped the responses.
    timeout(PATIENCE, requests.closed()).await.expect("let go");
    client.empty_call(Empty {}).await.expect("OK");
    code_name(Code::Aborted).to_owned()
}

/// The caller has said all and drops its requests before the first response: every response arrives.
pub async fn caller_ends_first(world: &World) -> String {
    let mut client = world.test_client().await;
    let (requests, outgoing) = mpsc::channel(1);
    let only = StreamingOutputRequest {
        responses: vec![wanted(60_000, 20); 5],
        ..StreamingOutputRequest::default()
    };
    requests.send(only).await.expect("open");
    drop(requests);
    let call = client.full_duplex_call(ReceiverStream::new(outgoing)).await;
    let responses: Vec<_> = call.expect("OK").into_inner().collect().await;
    assert_eq!(responses.len(), 5);
    for (number, response) in (0..).zip(responses) {
        let body = response.expect("OK").payload.expect("a payload").body;
        assert!(is_payload(&body, number));
    }
    let over = world.backstage.wait("the end", |it| it.finished == 1);
    assert_eq!(over.await.cancelled, 0);
    String::new()
}

/// The caller drops a response stream of which it has read one message. The handler is dropped, whether it was about to send or waited.
pub async fn caller_drops_the_responses(world: &World) -> String {
    let mut client = world.test_client().await;
    for (dropped, interval_ms) in [(1, 0), (2, 60_000)] {
        let mut responses = vec![wanted(60_000, interval_ms); 1_000];
        responses[0].interval_ms = 0;
        let request = StreamingOutputRequest {
            responses,
            ..StreamingOutputRequest::default()
        };
        let call = client.streaming_output_call(request).await;
        let mut responses = call.expect("OK").into_inner();
        assert!(responses.message().await.expect("OK").is_some());
        drop(responses);
        let over = world
            .backstage
            .wait("the end", |it| it.cancelled == dropped);
        assert_eq!(over.await.finished, 0);
    }
    client.empty_call(Empty {}).await.expect("OK");
    String::new()
}

/// The caller drops the responses of a conversation and keeps its side open. In our channel that is the end of the call. In tonic's the handler goes on, until the
/// requests end as well.
pub async fn caller_stops_listening(world: &World) -> String {
    let mut client = world.test_client().await;
    let (requests, outgoing) = mpsc::channel(1);
    let call = client.full_duplex_call(ReceiverStream::new(outgoing)).await;
    let mut responses = call.expect("OK").into_inner();
    requests.send(asking_for_one()).await.expect("open");
    assert!(responses.message().await.expect("OK").is_some());
    drop(responses);
    let goes_on = world.arm().is_tonic();
    if goes_on {
        for sent in 2..10 {
            requests.send(asking_for_one()).await.expect("open");
            world.backstage.wait("more", |it| it.sent == sent).await;
        }
        assert_eq!(world.backstage.counts().cancelled, 0);
        drop(requests);
        let over = |it: &Counts| it.finished + it.cancelled == 1;
        world.backstage.wait("the end", over).await;
    } else {
        timeout(PATIENCE, requests.closed()).await.expect("let go");
        let over = |it: &Counts| it.cancelled == 1;
        world.backstage.wait("the end", over).await;
    }
    client.empty_call(Empty {}).await.expect("OK");
    match goes_on {
        true => "goes on",
        false => "ends the call",
    }
    .to_owned()
}

/// Both sides end together, again and again: no call is left behind on either side, and the connection stays good.
pub async fn both_end_at_once(world: &World) -> String {
    const CALLS: u64 = 100;
    let mut client = world.test_client().await;
    for _ in 0..CALLS {
        let (requests, outgoing) = mpsc::channel(1);
        let outgoing = marked(ReceiverStream::new(outgoing), AT_ONCE);
        let call = client.full_duplex_call(outgoing).await;
        let responses = call.expect("OK").into_inner();
        drop((requests, responses));
    }
    let all = |it: &Counts| it.finished + it.cancelled == CALLS;
    world.backstage.wait("the ends", all).await;
    client.empty_call(Empty {}).await.expect("OK");
    format!("{CALLS} times")
}

/// A response that ends without a status, as one does whose server broke off.
pub async fn missing_status(world: &World) -> String {
    let mut client = world.test_client().await;
    let mut request = Request::new(asking_for_one());
    let value = MetadataValue::from_static(NO_STATUS);
    request.metadata_mut().insert(TAMPER, value.clone());
    let call = client.streaming_output_call(request).await;
    let mut responses = call.expect("a head").into_inner();
    assert!(responses.message().await.expect("OK").is_some());
    let streaming = responses.message().await.expect_err("a status");
    let mut request = Request::new(SimpleRequest::default());
    request.metadata_mut().insert(TAMPER, value);
    let unary = client.unary_call(request).await.map(drop);
    for error in [streaming, unary.expect_err("a status")] {
        assert_eq!(error.code(), Code::Unknown, "{error:?}");
        assert!(error.message().contains("missing grpc-status"), "{error:?}");
    }
    client.empty_call(Empty {}).await.expect("OK");
    code_name(Code::Unknown).to_owned()
}

/// A handler that panics ends its own call, however often, and no other on its connection.
pub async fn handler_panics(world: &World) -> String {
    let mut client = world.test_client().await;
    let (requests, outgoing) = mpsc::channel(1);
    let call = client.full_duplex_call(ReceiverStream::new(outgoing)).await;
    let mut neighbour = call.expect("OK").into_inner();
    for panics in 1..=20 {
        let call = client.unary_call(marked(SimpleRequest::default(), PANIC));
        let error = timeout(PATIENCE, call).await.expect("at once");
        let error = error.expect_err("a status");
        assert_eq!(error.code(), Code::Cancelled, "{error:?}");
        let over = |it: &Counts| it.cancelled == panics;
        world.backstage.wait("the panic", over).await;
    }
    requests.send(asking_for_one()).await.expect("open");
    assert!(neighbour.message().await.expect("OK").is_some());
    client.empty_call(Empty {}).await.expect("OK");
    code_name(Code::Cancelled).to_owned()
}

fn marked<T>(message: T, mark: &'static str) -> Request<T> {
    let mut request = Request::new(message);
    let value = MetadataValue::from_static("1");
    request.metadata_mut().insert(mark, value);
    request
}

/// Nobody ever sends, so the end is that the sender was dropped.
async fn assert_let_go(let_go: oneshot::Receiver<()>) {
    let end = timeout(PATIENCE, let_go).await;
    assert!(end.expect("the requests are let go").is_err());
}

fn asking_for_one() -> StreamingOutputRequest {
    StreamingOutputRequest {
        responses: vec![wanted(10, 0)],
        ..StreamingOutputRequest::default()
    }
}

fn wanted(size: u32, interval_ms: u32) -> ResponseParameters {
    ResponseParameters { size, interval_ms }
}

//! What decides how urgent a call is, and that the body stays what it was.

use std::{convert::Infallible, sync::Arc, task::Poll};

use bytes::Bytes;
use http::Request;
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::{BodyExt, Full};
use proptest::prelude::*;
use tonic::body::Body;
use tower::{Layer, ServiceExt, service_fn};
use tower_iroh_layers::{
    MethodConfig, Methods, Urgency,
    priority::{PriorityConfig, PriorityLayer, ReadPriorityLayer},
    urgency::PRIORITY,
};
use tower_iroh_proto::{
    EchoService,
    echo::{EchoRequest, echo_client::EchoClient, echo_server::EchoServer},
};

/// One gRPC message of `len` bytes.
fn message(len: usize) -> Bytes {
    let mut bytes = vec![0];
    bytes.extend_from_slice(&u32::try_from(len).expect("short").to_be_bytes());
    bytes.extend((0..len).map(|n| n as u8));
    bytes.into()
}

fn request(path: &str, len: usize) -> Request<Body> {
    Request::post(path)
        .body(Body::new(Full::new(message(len))))
        .expect("a request")
}

fn layer() -> PriorityLayer {
    let config = PriorityConfig::builder().large(1000, Urgency::BULK).build();
    let urgency = |urgency| MethodConfig::new().urgency(urgency);
    let methods = Methods::builder()
        .method("/raft.Raft/*", urgency(Urgency::CONTROL))
        .method("/raft.Raft/Vote", urgency(Urgency::HIGHEST))
        .method("/raft.Raft/Idle", urgency(Urgency::LOWEST))
        .method("/raft.Raft/Plain", urgency(Urgency::INTERACTIVE))
        .build();
    PriorityLayer::new(config.expect("a configuration")).methods(methods.expect("a table"))
}

/// The request as the service below sees it.
async fn seen(layer: &PriorityLayer, request: Request<Body>) -> Request<Body> {
    let service = service_fn(async |request| Ok::<_, Infallible>(request));
    layer
        .layer(service)
        .oneshot(request)
        .await
        .expect("infallible")
}

/// The urgency that a layer below finds, and the header.
async fn decided(request: Request<Body>) -> (u8, Option<String>) {
    let seen = seen(&layer(), request).await;
    let header = seen.headers().get(PRIORITY);
    let header = header.map(|value| value.to_str().expect("text").to_owned());
    (Urgency::of(&seen).get(), header)
}

fn says(urgency: u8) -> (u8, Option<String>) {
    (urgency, Some(format!("u={urgency}")))
}

#[tokio::test]
async fn the_first_that_says_something_decides() {
    assert_eq!(
        decided(request("/a.B/C", 1)).await,
        (3, None),
        "the default needs no header"
    );
    assert_eq!(decided(request("/raft.Raft/Append", 1)).await, says(1));
    assert_eq!(decided(request("/raft.Raft/Vote", 1)).await, says(0));

    let mut by_header = request("/raft.Raft/Vote", 1);
    by_header
        .headers_mut()
        .insert(PRIORITY, "u=5, i".parse().expect("a value"));
    let expected = (5, Some("u=5, i".to_owned()));
    assert_eq!(decided(by_header).await, expected, "left as it came");

    for header in ["u=5", "u=3"] {
        let mut both = request("/raft.Raft/Vote", 1);
        both.headers_mut()
            .insert(PRIORITY, header.parse().expect("a value"));
        both.extensions_mut().insert(Urgency::CONTROL);
        assert_eq!(
            decided(both).await,
            says(1),
            "the extension outranks the header"
        );
    }
    let mut default = request("/raft.Raft/Vote", 1);
    default
        .headers_mut()
        .insert(PRIORITY, "u=5".parse().expect("a value"));
    default.extensions_mut().insert(Urgency::INTERACTIVE);
    assert_eq!(
        decided(default).await,
        says(3),
        "a header that says otherwise is put right"
    );
}

#[tokio::test]
async fn size_lowers_what_nobody_asked_for() {
    assert_eq!(decided(request("/a.B/C", 999)).await, (3, None));
    assert_eq!(decided(request("/a.B/C", 1000)).await, says(6));
    assert_eq!(
        decided(request("/raft.Raft/Vote", 1000)).await,
        says(6),
        "the table too"
    );
    assert_eq!(
        decided(request("/raft.Raft/Idle", 1)).await,
        says(7),
        "and raises nothing"
    );
    assert_eq!(decided(request("/raft.Raft/Idle", 1000)).await, says(7));
    let mut asked = request("/a.B/C", 1000);
    asked.extensions_mut().insert(Urgency::CONTROL);
    assert_eq!(decided(asked).await, says(1));
    let mut asked = request("/a.B/C", 1000);
    asked
        .headers_mut()
        .insert(PRIORITY, "u=2".parse().expect("a value"));
    assert_eq!(decided(asked).await, says(2));
}

/// A body that counts its polls.
struct Watched(Arc<()>, bool);

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut std::task::Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        // Each poll is one more reference.
        std::mem::forget(self.0.clone());
        match std::mem::replace(&mut self.1, true) {
            true => Poll::Ready(None),
            false => Poll::Ready(Some(Ok(Frame::data(message(1))))),
        }
    }
}

#[tokio::test]
async fn no_body_is_looked_at_in_vain() {
    let polls = async |layer: &PriorityLayer, path: &str, urgency: Option<Urgency>| {
        let witness = Arc::new(());
        let mut request = request(path, 0);
        *request.body_mut() = Body::new(Watched(witness.clone(), false));
        if let Some(urgency) = urgency {
            request.extensions_mut().insert(urgency);
        }
        let _seen = seen(layer, request).await;
        Arc::strong_count(&witness) - 2
    };
    assert!(polls(&layer(), "/a.B/C", None).await > 0);
    assert_eq!(polls(&layer(), "/a.B/C", Some(Urgency::CONTROL)).await, 0);
    assert_eq!(polls(&layer(), "/raft.Raft/Idle", None).await, 0);
    let config = PriorityConfig::builder().ignore_size().build();
    let sizeless = PriorityLayer::new(config.expect("a configuration"));
    assert_eq!(polls(&sizeless, "/a.B/C", None).await, 0);
}

#[tokio::test]
async fn a_body_with_nothing_to_say_yet_is_not_waited_for_and_wakes_later() {
    let (sender, stream) = tokio::sync::mpsc::channel(1);
    let stream = tokio_stream::wrappers::ReceiverStream::new(stream);
    let mut request = request("/a.B/C", 0);
    *request.body_mut() = Body::new(http_body_util::StreamBody::new(stream));
    let seen = seen(&layer(), request).await;
    let late = tokio::spawn(seen.into_body().collect());
    tokio::task::yield_now().await;
    let frame = Ok::<_, Infallible>(Frame::data(message(5000)));
    sender.send(frame).await.expect("it is read");
    drop(sender);
    let whole = late.await.expect("joined").expect("a body").to_bytes();
    assert_eq!(whole, message(5000));
}

#[tokio::test]
async fn size_hint_and_end_are_the_body_s() {
    let seen = seen(&layer(), request("/a.B/C", 40)).await;
    let mut body = seen.into_body();
    assert!(!body.is_end_stream());
    assert_eq!(body.size_hint().exact(), Some(45));
    let frame = body.frame().await.expect("a frame").expect("data");
    assert_eq!(frame.into_data().expect("data"), message(40));
    assert!(body.is_end_stream(), "no empty frame is owed");

    let mut empty = request("/a.B/C", 0);
    *empty.body_mut() = Body::empty();
    let body = self::seen(&layer(), empty).await.into_body();
    assert!(body.is_end_stream());
    assert_eq!(body.size_hint().exact(), SizeHint::with_exact(0).exact());
}

#[tokio::test]
async fn it_works_over_tonic_s_channel_and_a_server_reads_it() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
        .await
        .expect("a port");
    let address = format!("http://{}", listener.local_addr().expect("an address"));
    let (sender, mut said) = tokio::sync::mpsc::unbounded_channel();
    let spy = tower::layer::layer_fn(move |inner| {
        let sender = sender.clone();
        tower::util::MapRequest::new(inner, move |request: Request<Body>| {
            let urgency = request.extensions().get::<Urgency>().copied();
            sender.send(urgency).expect("somebody listens");
            request
        })
    });
    let echo = EchoServer::new(EchoService);
    let server = tonic::transport::Server::builder()
        .layer(ReadPriorityLayer::new())
        .layer(spy)
        .add_service(echo)
        .serve_with_incoming(tokio_stream::wrappers::TcpListenerStream::new(listener));
    let server = tokio::spawn(server);
    let channel = tonic::transport::Endpoint::new(address)
        .expect("an address")
        .connect_lazy();
    let mut client = EchoClient::new(layer().layer(channel));
    for (len, expected) in [(10, None), (5000, Some(Urgency::BULK))] {
        let payload = Bytes::from(vec![5; len]);
        let request = EchoRequest {
            payload: payload.clone(),
        };
        let answer = client.echo(request).await.expect("an answer").into_inner();
        assert_eq!(answer.payload, payload);
        assert_eq!(said.recv().await.expect("a call"), expected);
    }
    server.abort();
}

proptest! {
    #[test]
    fn no_header_fails_a_call_and_no_body_changes(
        header in prop::collection::vec(any::<u8>(), 0..24),
        body in prop::collection::vec(any::<u8>(), 0..2000),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
        runtime.block_on(async {
            let mut request = request("/raft.Raft/Plain", 0);
            if let Ok(value) = http::HeaderValue::from_bytes(&header) {
                request.headers_mut().insert(PRIORITY, value);
            }
            *request.body_mut() = Body::new(Full::new(Bytes::from(body.clone())));
            let seen = seen(&layer(), request).await;
            let urgency = Urgency::of(&seen);
            prop_assert_eq!(Urgency::from_headers(seen.headers()).unwrap_or_default(), urgency);
            let whole = seen.into_body().collect().await.expect("a body").to_bytes();
            prop_assert_eq!(whole.to_vec(), body);
            Ok(())
        })?;
    }
}

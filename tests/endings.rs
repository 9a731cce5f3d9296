//! How connections and calls end: drains that wait, drains beside health pings, bodies that fail, what may be sent again.

use std::{error::Error as _, time::Duration};

use iroh::{Endpoint, protocol::Router};
use tokio::{sync::oneshot, time::timeout};
use tonic::{Code, Status, body::Body};
use tower::ServiceExt;
use tower_iroh::{Acceptor, AcceptorBuilder, Channel, ConfigError, ErrorKind, Peer, presets};
use tower_iroh_proto::{
    EchoService,
    echo::{EchoRequest, StreamRequest, echo_client::EchoClient, echo_server::EchoServer},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_waits_for_the_drain_loses_no_answer() {
    let server = Endpoint::bind(presets::Offline).await.expect("bound");
    let peer = Peer::of(&server).expect("dialable");
    let (acceptor, incoming) = Acceptor::new();
    let router = acceptor.router(server.clone()).spawn();
    let (stop, stopped) = oneshot::channel::<()>();
    let serving = tokio::spawn(
        tonic::transport::Server::builder()
            .add_service(EchoServer::new(EchoService))
            .serve_with_incoming_shutdown(incoming, async {
                // A sender that is dropped says it as well.
                let _ = stopped.await;
            }),
    );

    let client = Endpoint::bind(presets::Offline).await.expect("bound");
    let channel = Channel::builder(client.clone()).peer(peer).build();
    let mut echo = EchoClient::new(channel.expect("valid"));
    echo.echo(EchoRequest::default()).await.expect("answered");
    let request = StreamRequest {
        count: 20,
        size: 1000,
        interval_ms: 10,
    };
    let stream = echo.server_stream(request).await.expect("begun");
    let mut stream = stream.into_inner();
    stream.message().await.expect("whole").expect("the first");

    let mut drained = Box::pin(acceptor.drained());
    assert!(futures_util::poll!(&mut drained).is_pending(), "it serves");
    stop.send(()).expect("it serves");
    let mut rest = 0;
    while stream.message().await.expect("whole").is_some() {
        rest += 1;
    }
    assert_eq!(rest, 19);
    timeout(Duration::from_secs(5), drained)
        .await
        .expect("nothing is left");
    assert_eq!(acceptor.connections(), 0);
    serving.await.expect("no panic").expect("served");
    client.close().await;
    router.shutdown().await.expect("no panic");
}

/// A server that is told to stop by the sender, and a client's endpoint.
async fn world(acceptor: AcceptorBuilder) -> (Router, oneshot::Sender<()>, Peer, Endpoint) {
    let server = Endpoint::bind(presets::Offline).await.expect("bound");
    let peer = Peer::of(&server).expect("dialable");
    let (acceptor, incoming) = acceptor.build().expect("valid");
    let router = acceptor.router(server).spawn();
    let (stop, stopped) = oneshot::channel::<()>();
    tokio::spawn(
        tonic::transport::Server::builder()
            .add_service(EchoServer::new(EchoService))
            .serve_with_incoming_shutdown(incoming, async {
                let _ = stopped.await;
            }),
    );
    let client = Endpoint::bind(presets::Offline).await.expect("bound");
    (router, stop, peer, client)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_outlives_the_health_pings_that_it_refuses() {
    let drain = Acceptor::builder().drain_timeout(Duration::from_secs(30));
    let (router, stop, peer, client) = world(drain).await;
    let channel = Channel::builder(client.clone())
        .peer(peer)
        .links(|links| links.health_interval(Duration::from_millis(100)))
        .build()
        .expect("valid");
    let request = StreamRequest {
        count: 20,
        size: 8,
        interval_ms: 50,
    };
    let stream = EchoClient::new(channel).server_stream(request).await;
    let mut stream = stream.expect("begun").into_inner();
    stop.send(()).expect("it serves");
    // Ten health intervals: were a refused ping a failed one, two of them would end the call.
    let mut messages = 0;
    while stream.message().await.expect("whole").is_some() {
        messages += 1;
    }
    assert_eq!(messages, 20);
    client.close().await;
    router.shutdown().await.expect("no panic");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_may_take_a_year() {
    let (router, stop, peer, client) =
        world(Acceptor::builder().drain_timeout(ConfigError::LONGEST)).await;
    let channel = Channel::builder(client.clone()).peer(peer).build();
    let mut echo = EchoClient::new(channel.expect("valid"));
    echo.echo(EchoRequest::default()).await.expect("answered");
    drop(stop);
    let shutdown = timeout(Duration::from_secs(5), router.shutdown()).await;
    shutdown.expect("nothing is in flight").expect("no panic");
    client.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_request_body_that_fails_gives_its_own_status() {
    let (router, _stop, peer, client) = world(Acceptor::builder()).await;
    let channel = Channel::builder(client.clone()).peer(peer).build();
    let channel = channel.expect("valid");
    let mut limited = EchoClient::new(channel.clone()).max_encoding_message_size(1000);
    let payload = vec![1; 2000].into();
    let status = limited.echo(EchoRequest { payload }).await;
    let status = status.expect_err("larger than the limit");
    assert_eq!(status.code(), Code::OutOfRange, "{status:?}");

    // The same in the middle of a stream: an encoded message first, then one that is too large.
    let requests = [10, 2000].map(|size| EchoRequest {
        payload: vec![1; size].into(),
    });
    let status = limited.client_stream(tokio_stream::iter(requests)).await;
    let status = status.expect_err("larger than the limit");
    assert_eq!(status.code(), Code::OutOfRange, "{status:?}");
    client.close().await;
    router.shutdown().await.expect("no panic");
}

fn raw_echo() -> http::Request<Body> {
    http::Request::post("/tower_iroh.echo.v1.Echo/ServerStream")
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        // A body without an end: the server waits for the rest, so the call is in flight.
        .body(Body::new(http_body_util::StreamBody::new(
            tokio_stream::pending::<Result<http_body::Frame<bytes::Bytes>, Status>>(),
        )))
        .expect("valid")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_may_have_been_begun_is_told_from_what_was_not() {
    let (router, _stop, peer, client) = world(Acceptor::builder()).await;
    let channel = Channel::builder(client.clone()).peer(peer).build();
    let channel = channel.expect("valid");
    EchoClient::new(channel.clone())
        .echo(EchoRequest::default())
        .await
        .expect("answered");
    let mut in_flight = Box::pin(channel.clone().oneshot(raw_echo()));
    assert!(futures_util::poll!(&mut in_flight).is_pending());
    channel.close();
    let error = in_flight.await.expect_err("closed");
    assert_eq!(error.kind(), ErrorKind::Closed);
    assert!(!error.not_processed(), "it was in flight");
    assert_eq!(error.status().code(), Code::Unavailable);
    let fault = error.source().expect("a source");
    assert!(fault.is::<tower_iroh::layers::Fault>());
    assert!(fault.source().is_some_and(|source| source.is::<Status>()));

    let nowhere = Peer::new(iroh::SecretKey::from_bytes(&[9; 32]).public());
    let channel = Channel::builder(client.clone()).peer(nowhere).build();
    let error = channel.expect("valid").oneshot(raw_echo()).await;
    let error = error.expect_err("nobody knows where it is");
    assert_eq!(error.kind(), ErrorKind::NoAddress, "{error:?}");
    assert!(error.not_processed());
    client.close().await;
    router.shutdown().await.expect("no panic");
}

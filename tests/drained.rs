//! `Acceptor::drained` ends when everything in flight has been answered and received.

use std::time::Duration;

use iroh::{Endpoint, protocol::Router};
use tokio::{sync::oneshot, time::timeout};
use tower_iroh::{Acceptor, Channel, Peer, presets};
use tower_iroh_proto::{
    EchoService,
    echo::{EchoRequest, StreamRequest, echo_client::EchoClient, echo_server::EchoServer},
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_waits_for_the_drain_loses_no_answer() {
    let server = Endpoint::bind(presets::Offline).await.expect("bound");
    let peer = Peer::of(&server).expect("dialable");
    let (acceptor, incoming) = Acceptor::new();
    let router = Router::builder(server.clone())
        .accept(tower_iroh::ALPN, acceptor.clone())
        .spawn();
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

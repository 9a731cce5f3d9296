//! A reader that stands still costs its own call, and no other call of its lane.

#[path = "support/waiting.rs"]
#[allow(dead_code, reason = "each program uses a part")]
mod waiting;

use std::time::{Duration, Instant};

use tower_iroh::{Channel, LaneConfig, Lanes, Server, TransportKind, presets::Offline};
use tower_iroh_proto::{
    EchoService,
    echo::{EchoRequest, StreamRequest, echo_client::EchoClient, echo_server::EchoServer},
};
use waiting::soon;

const PATIENCE: Duration = Duration::from_secs(15);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readers_that_stand_still_hold_up_nobody_on_their_lane() {
    let endpoint = iroh::Endpoint::bind(Offline).await.expect("bound");
    let server = Server::builder().endpoint(endpoint);
    let server = server.tcp(([127, 0, 0, 1], 0).into()).bind();
    let server = server.await.expect("bound");
    let (peer, handle) = (server.addresses().expect("dialable"), server.handle());
    let services = EchoServer::new(EchoService);
    let services = tonic::transport::Server::builder().add_service(services);
    let serving = tokio::spawn(
        server.serve(|incoming, stopped| services.serve_with_incoming_shutdown(incoming, stopped)),
    );
    let endpoint = iroh::Endpoint::bind(Offline).await.expect("bound");
    for transport in TransportKind::ALL {
        let builder = match transport {
            TransportKind::Iroh => Channel::builder(endpoint.clone()),
            _ => Channel::tcp(endpoint.secret_key().clone()),
        };
        // All of them on one stream.
        let lanes = Lanes::new([LaneConfig::new(0..=7).max_streams(1)]);
        let channel = builder.peer(peer.clone()).lanes(lanes).build();
        let mut client = EchoClient::new(channel.expect("valid"));
        let mut stream = async |count, size| {
            let call = StreamRequest {
                count,
                size,
                interval_ms: 0,
            };
            let call = client.server_stream(call).await;
            let mut messages = call.expect("begun").into_inner();
            soon("a message", messages.message()).await.expect("sent");
            messages
        };
        let mut large = Vec::new();
        for _ in 0..5 {
            large.push(stream(80, 64 << 10).await);
        }
        let mut many = stream(60_000, 8).await;
        // Meanwhile all of it arrives that the windows let in.
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(2) {
            let payload = b"beside them".as_slice().into();
            let echo = client.echo(EchoRequest { payload });
            soon("an echo", echo).await.expect("answered");
        }
        let mut count = 1;
        while let Some(_message) = soon("a message", many.message()).await.expect("it goes on") {
            count += 1;
        }
        assert_eq!(count, 60_000);
        for mut messages in large {
            let mut count = 1;
            while soon("a message", messages.message())
                .await
                .expect("it goes on")
                .is_some()
            {
                count += 1;
            }
            assert_eq!(count, 80);
        }
    }
    endpoint.close().await;
    handle.shutdown();
    let served = soon("the server's end", serving).await;
    served.expect("no panic").expect("served");
}

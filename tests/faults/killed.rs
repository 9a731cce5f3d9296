//! Servers and clients that are gone from one moment to the next.

use std::time::Duration;

use tokio::time::{Instant, sleep};

use iroh::{Endpoint, SecretKey, endpoint::QuicTransportConfig};
use tonic::Code;
use tower_iroh::{Acceptor, LinksBuilder, presets::Offline};
use tower_iroh_proto::echo::StreamRequest;

use crate::support::{
    Arm, Caller, ENDLESS, Elsewhere, End, HANG, Server, another_runtime, number, on_both_arms,
    request, soon,
};

on_both_arms! {
    server_closed_mid_call
    server_vanished_mid_call
    server_started_again_on_its_port
    server_closed_mid_stream
    server_vanished_mid_stream
    client_drops_a_call
    client_drops_a_stream
    client_endpoint_closed_mid_call
    client_vanished_mid_call
}

/// Pings that notice a vanished peer within three seconds instead of the default's minute.
fn watchful(links: LinksBuilder) -> LinksBuilder {
    links.health_interval(Duration::from_millis(200))
}

async fn server_closed_mid_call(arm: Arm) {
    mid_call(arm, End::Closed).await;
}

async fn server_vanished_mid_call(arm: Arm) {
    mid_call(arm, End::Vanished).await;
}

async fn mid_call(arm: Arm, end: End) {
    let key = SecretKey::generate();
    let mut server = Elsewhere::start(&key).await;
    let caller = Caller::with(arm, &server.peer, None, watchful).await;
    let hanging = tokio::spawn({
        let caller = caller.clone();
        async move { caller.echo(HANG).await }
    });
    server
        .stage
        .wait("the call", |counts| counts.begun == 1)
        .await;
    server.end(end).await;
    let ended = soon("the call's end", hanging).await.expect("no panic");
    let status = ended.expect_err("nobody answered it");
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    carries_on(&caller, &key).await;
}

/// Killed, and back on its port with its key: with the default settings new calls find it at once, and the call in flight ends soon.
async fn server_started_again_on_its_port(arm: Arm) {
    let key = SecretKey::generate();
    let mut server = Elsewhere::start(&key).await;
    let caller = Caller::with(arm, &server.peer, None, |links| links).await;
    let hanging = tokio::spawn({
        let caller = caller.clone();
        async move { caller.echo(HANG).await }
    });
    let begun = server.stage.wait("the call", |counts| counts.begun == 1);
    begun.await;
    let addr = server.endpoint.bound_sockets()[0];
    server.end(End::Vanished).await;
    // Its handle of the endpoint holds the port.
    drop(server);
    let bind = async {
        loop {
            let endpoint = Endpoint::builder(Offline).secret_key(key.clone());
            let endpoint = endpoint.clear_ip_transports().bind_addr(addr);
            match endpoint.expect("an address").bind().await {
                Ok(endpoint) => return endpoint,
                Err(_) => sleep(Duration::from_millis(10)).await,
            }
        }
    };
    let server = Server::on(soon("the port", bind).await, Acceptor::builder());
    let back = Instant::now();
    caller.recovers().await;
    let found = back.elapsed();
    assert!(found < Duration::from_secs(10), "found after {found:?}");
    let ended = soon("the call's end", hanging).await.expect("no panic");
    let status = ended.expect_err("nobody answered it");
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    let ended = back.elapsed();
    assert!(ended < Duration::from_secs(15), "ended after {ended:?}");
    assert_eq!(server.stage.counts().finished, 1, "one answer, one call");
}

async fn server_closed_mid_stream(arm: Arm) {
    mid_stream(arm, End::Closed).await;
}

async fn server_vanished_mid_stream(arm: Arm) {
    mid_stream(arm, End::Vanished).await;
}

async fn mid_stream(arm: Arm, end: End) {
    let key = SecretKey::generate();
    let mut server = Elsewhere::start(&key).await;
    let caller = Caller::with(arm, &server.peer, None, watchful).await;
    let mut stream = endless(&caller).await;
    for expected in 0..3 {
        let message = soon("a message", stream.message()).await;
        assert_eq!(number(&message.expect("sent").expect("endless")), expected);
    }
    server.end(end).await;
    let mut next = 3;
    let status = loop {
        match soon("the stream's end", stream.message()).await {
            Ok(Some(message)) => {
                assert_eq!(number(&message), next, "what was on its way, in order");
                next += 1;
            }
            Ok(None) => panic!("a stream that was cut looks like one that ended"),
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    carries_on(&caller, &key).await;
}

async fn endless(caller: &Caller) -> tonic::Streaming<tower_iroh_proto::echo::EchoResponse> {
    let request = StreamRequest {
        count: ENDLESS,
        size: 100,
        interval_ms: 5,
    };
    let call = caller.client().server_stream(request).await;
    call.expect("a stream").into_inner()
}

/// The same peer on another port: the same client finds it and goes on.
async fn carries_on(caller: &Caller, key: &SecretKey) {
    let server = Server::with_key(key).await;
    assert_eq!(server.peer.id(), caller.peer.id());
    assert_ne!(server.peer.addr(), caller.peer.addr(), "another port");
    caller.links.add_peer(server.peer.clone());
    caller.recovers().await;
    assert_eq!(server.stage.counts().finished, 1, "one answer, one call");
}

async fn client_drops_a_call(arm: Arm) {
    let server = Server::start().await;
    let caller = Caller::new(arm, &server.peer).await;
    let mut client = caller.client();
    {
        let mut call = Box::pin(client.echo(request(HANG)));
        tokio::select! {
            _ = &mut call => panic!("nobody answers it"),
            _ = server.stage.wait("the call", |counts| counts.begun == 1) => {}
        }
    }
    server
        .stage
        .wait("the handler's drop", |counts| counts.cancelled == 1)
        .await;
    // The connection is as good as before.
    soon("an answer", caller.echo(b"next"))
        .await
        .expect("answered");
    assert_eq!(caller.links.connections(), 1);
}

async fn client_drops_a_stream(arm: Arm) {
    let server = Server::start().await;
    let caller = Caller::new(arm, &server.peer).await;
    let mut stream = endless(&caller).await;
    soon("a message", stream.message()).await.expect("sent");
    drop(stream);
    server
        .stage
        .wait("the handler's drop", |counts| counts.cancelled == 1)
        .await;
    soon("an answer", caller.echo(b"next"))
        .await
        .expect("answered");
}

async fn client_endpoint_closed_mid_call(arm: Arm) {
    let server = Server::start().await;
    let caller = Caller::new(arm, &server.peer).await;
    let hanging = tokio::spawn({
        let caller = caller.clone();
        async move { caller.echo(HANG).await }
    });
    server
        .stage
        .wait("the call", |counts| counts.begun == 1)
        .await;
    caller.endpoint.close().await;
    server
        .stage
        .wait("the handler's drop", |counts| counts.cancelled == 1)
        .await;
    let ended = soon("the call's end", hanging).await.expect("no panic");
    let status = ended.expect_err("closed");
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
}

/// A client whose process is gone says nothing; the server learns of it from QUIC's idle timeout, 30 s by default and 2 s here.
async fn client_vanished_mid_call(arm: Arm) {
    let idle = Duration::from_secs(2).try_into().expect("short");
    let transport = QuicTransportConfig::builder()
        .max_idle_timeout(Some(idle))
        .build();
    let endpoint = Endpoint::builder(Offline).transport_config(transport);
    let endpoint = endpoint.bind().await.expect("bound");
    let server = Server::on(endpoint, Acceptor::builder());

    let client = another_runtime();
    let peer = server.peer.clone();
    client.spawn(async move {
        let caller = Caller::new(arm, &peer).await;
        let _ = caller.echo(HANG).await;
    });
    server
        .stage
        .wait("the call", |counts| counts.begun == 1)
        .await;
    client.shutdown_background();
    server
        .stage
        .wait("the handler's drop", |counts| counts.cancelled == 1)
        .await;
    assert_eq!(server.stage.counts().finished, 0);
}

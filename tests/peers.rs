//! The directory of peers, over real connections.

// Nothing is public in a test binary.
#![allow(unreachable_pub)]

use std::time::Duration;

use iroh::{Endpoint, SecretKey, protocol::Router};
use tokio::{net::TcpListener, sync::mpsc, task::JoinHandle};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, body::Body, transport::Server as Tonic};
use tower::ServiceExt;
use tower_iroh::{
    Acceptor, Channel, ErrorKind, Links, Peer, Peers, PeersError,
    layers::breaker::BreakerConfig,
    presets::Offline,
    tcp::{TcpAcceptor, TcpLinks},
};
use tower_iroh_proto::{
    EchoService,
    echo::{EchoRequest, echo_client::EchoClient, echo_server::EchoServer},
};

#[path = "support/waiting.rs"]
#[allow(dead_code, reason = "what is announced needs no polling")]
mod waiting;

use waiting::soon;

const PATIENCE: Duration = Duration::from_secs(20);

struct Server {
    router: Router,
    task: JoinHandle<()>,
    peer: Peer,
}

impl Server {
    async fn new(seed: u8) -> Self {
        let key = SecretKey::from_bytes(&[seed; 32]);
        let endpoint = Endpoint::builder(Offline)
            .secret_key(key)
            .bind()
            .await
            .expect("it binds");
        let peer = Peer::of(&endpoint).expect("it has an address");
        let (acceptor, incoming) = Acceptor::new();
        let router = acceptor.router(endpoint).spawn();
        let serve = Tonic::builder()
            .add_service(EchoServer::new(EchoService))
            .serve_with_incoming_shutdown(incoming, std::future::pending());
        let task = tokio::spawn(async move { serve.await.expect("it serves") });
        Self { router, task, peer }
    }

    async fn stop(self) {
        self.router.shutdown().await.expect("it stops");
        self.task.abort();
    }
}

async fn links() -> Links {
    Links::new(Endpoint::bind(Offline).await.expect("it binds"))
}

async fn echo(channel: Channel, text: &'static str) -> Result<(), Status> {
    let call = async move {
        let request = EchoRequest {
            payload: text.into(),
        };
        let answer = EchoClient::new(channel).echo(request).await?.into_inner();
        assert_eq!(answer.payload, text);
        Ok(())
    };
    soon("an answer", call).await
}

#[tokio::test]
async fn a_name_leads_to_its_peer_over_one_connection() {
    let (one, two) = (Server::new(1).await, Server::new(2).await);
    let peers = Peers::new(links().await);
    assert_eq!(peers.add("one", one.peer.clone()), None);
    peers.add("two", two.peer.clone());
    peers.add("also-one", one.peer.clone());
    assert_eq!(
        peers.links().expect("iroh").connections(),
        0,
        "nobody was called"
    );

    for name in ["one", "two", "also-one", "one"] {
        let channel = peers.channel(name).expect("known");
        echo(channel, "hello").await.expect("answered");
    }
    assert_eq!(peers.channel("two").expect("known").peer(), two.peer.id());
    assert_eq!(
        peers.links().expect("iroh").connections(),
        2,
        "one for each peer"
    );
    let names: Vec<_> = peers.list().into_iter().map(|(name, _)| name).collect();
    assert_eq!(names, ["also-one", "one", "two"]);
    one.stop().await;
    two.stop().await;
}

#[tokio::test]
async fn who_is_not_known_is_said() {
    let peers = Peers::new(links().await);
    let error = peers.channel("nobody").expect_err("unknown");
    assert_eq!(error, PeersError::Unknown("nobody".into()));
    assert_eq!(Status::from(error).code(), Code::NotFound);
    let bad = Peers::builder()
        .iroh(links().await)
        .channel(|_, channel| channel.timeout(Duration::ZERO))
        .build();
    bad.add("peer", Peer::new(SecretKey::from_bytes(&[3; 32]).public()));
    let error = bad.channel("peer").expect_err("no timeout");
    assert!(matches!(error, PeersError::Channel(_)), "{error:?}");
    assert_eq!(Status::from(error).code(), Code::FailedPrecondition);
}

/// Restarted elsewhere, with the same key: the name says where, and a channel that was there before finds it.
#[tokio::test]
async fn a_peer_that_moved_is_found_by_the_same_channel() {
    let before = Server::new(4).await;
    let peers = Peers::builder()
        .iroh(links().await)
        .channel(|_, channel| channel.timeout(Duration::from_secs(10)))
        .build();
    peers.add("it", before.peer.clone());
    let channel = peers.channel("it").expect("known");
    echo(channel.clone(), "here").await.expect("answered");
    before.stop().await;

    let after = Server::new(4).await;
    let old = peers
        .add("it", after.peer.clone())
        .expect("it had an address");
    assert_ne!(old, after.peer);
    // The first call after a loss may be the one that finds it.
    let answered = async {
        while echo(channel.clone(), "there").await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    soon("the peer's new place", answered).await;
    after.stop().await;
}

#[tokio::test]
async fn a_name_that_is_given_to_another_leads_there() {
    let (one, two) = (Server::new(5).await, Server::new(6).await);
    let peers = Peers::new(links().await);
    peers.add("leader", one.peer.clone());
    let held = peers.channel("leader").expect("known");
    echo(held.clone(), "one").await.expect("answered");
    peers.add("leader", two.peer.clone());
    let channel = peers.channel("leader").expect("known");
    assert_eq!(channel.peer(), two.peer.id());
    echo(channel, "two").await.expect("answered");
    echo(held, "one still").await.expect("who holds it goes on");
    one.stop().await;
    two.stop().await;
}

/// Removed and added again, a peer that fails does not begin with a clean slate.
#[tokio::test]
async fn a_circuit_survives_its_channel() {
    let breaker = BreakerConfig::builder()
        .failure_threshold(2)
        .build()
        .expect("valid");
    let peers = Peers::builder()
        .iroh(links().await)
        .breaker(breaker)
        .channel(|_, channel| channel.stack(|stack| stack.without_retry().without_fail_fast()))
        .build();
    // Without an address and without a lookup a dial fails at once.
    let gone = Peer::new(SecretKey::from_bytes(&[7; 32]).public());
    peers.add("gone", gone.clone());
    let channel = peers.channel("gone").expect("known");
    let refused = async {
        while channel.stack().circuit().state().is_closed() {
            let error = echo(channel.clone(), "nobody").await;
            let error = error.expect_err("nobody is there");
            assert_eq!(error.code(), Code::Unavailable);
        }
    };
    soon("an open circuit", refused).await;
    drop(channel);
    assert_eq!(peers.remove("gone"), Some(gone.clone()));
    assert_eq!(peers.get("gone"), None);
    assert_eq!(peers.remove("gone"), None);
    peers.channel("gone").expect_err("removed");

    peers.add("gone", gone);
    let channel = peers.channel("gone").expect("known again");
    assert!(!channel.stack().circuit().state().is_closed(), "as it was");
}

/// What a call fails with.
async fn failure(channel: Channel) -> ErrorKind {
    let call = channel.oneshot(http::Request::new(Body::empty()));
    let error = soon("an error", call).await;
    error.expect_err("nobody knows where it is").kind()
}

/// Somebody else may have the address now, and be called in the clear.
#[tokio::test]
async fn a_tcp_address_that_no_name_has_any_more_is_not_dialled() {
    let key = SecretKey::from_bytes(&[8; 32]);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let addr = listener.local_addr().expect("bound");
    let bare = Peer::new(key.public());
    let (_acceptor, incoming) = TcpAcceptor::new(listener, key).expect("valid");
    let serve = Tonic::builder()
        .add_service(EchoServer::new(EchoService))
        .serve_with_incoming(incoming);
    let serving = tokio::spawn(serve);

    let peers = Peers::builder()
        .tcp(TcpLinks::new(SecretKey::generate()))
        .channel(|_, channel| channel.stack(|stack| stack.without_retry().without_fail_fast()))
        .build();
    peers.add("it", bare.clone().with_tcp(addr));
    peers.add("also-it", bare.clone().with_tcp(addr));
    let channel = peers.channel("it").expect("known");
    echo(channel.clone(), "here").await.expect("answered");
    let (asks, asked) = mpsc::channel(1);
    let mut client = EchoClient::new(channel.clone());
    let stream = soon("a stream", client.bidi_stream(ReceiverStream::new(asked))).await;
    let mut stream = stream.expect("answered").into_inner();

    peers.add("it", bare.clone());
    echo(channel.clone(), "the other name says it")
        .await
        .expect("answered");
    peers.remove("also-it");
    assert_eq!(failure(channel.clone()).await, ErrorKind::NoAddress);
    // What was begun goes on.
    let request = EchoRequest {
        payload: "still".into(),
    };
    asks.send(request).await.expect("it goes on");
    let answer = soon("an answer", stream.message())
        .await
        .expect("it goes on");
    assert_eq!(answer.expect("an answer").payload, "still");

    peers.add("it", bare.clone().with_tcp(addr));
    echo(channel.clone(), "there again")
        .await
        .expect("answered");
    // Who holds a channel to a peer that left goes on until the peer is back, and is elsewhere.
    peers.remove("it");
    echo(channel.clone(), "held").await.expect("answered");
    peers.add("it", bare);
    assert_eq!(failure(channel).await, ErrorKind::NoAddress);
    serving.abort();
}

#[tokio::test]
async fn an_iroh_address_that_no_name_has_any_more_is_not_dialled() {
    let server = Server::new(10).await;
    let peers = Peers::builder()
        .iroh(links().await)
        .channel(|_, channel| channel.stack(|stack| stack.without_retry().without_fail_fast()))
        .build();
    peers.add("it", server.peer.clone());
    let channel = peers.channel("it").expect("known");
    peers.add("it", server.peer.id());
    assert_eq!(failure(channel.clone()).await, ErrorKind::NoAddress);
    peers.add("it", server.peer.clone());
    echo(channel, "here").await.expect("answered");
    server.stop().await;
}

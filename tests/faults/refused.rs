//! Peers that answer the dial and refuse it, or that are somebody else.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
};

use iroh::{
    Endpoint, EndpointAddr, SecretKey,
    endpoint::{AfterHandshakeOutcome, Connection, EndpointHooks, VarInt},
    protocol::Router,
};
use tokio::{net::UdpSocket, sync::Notify};
use tonic::{Code, Status};
use tower_iroh::{
    Acceptor, ErrorKind, Links, Peer, Urgency,
    presets::Offline,
    wire::{self, close},
};
use tower_iroh_proto::echo::echo_client::EchoClient;

use crate::{
    rawlane,
    support::{Arm, Caller, HOLD, Server, offline, on_both_arms, raw, request, soon, until},
};

on_both_arms! {
    wrong_identity
    refused_by_a_hook_as_unknown
    refused_by_a_hook_as_forbidden
    refused_by_a_hook_with_any_code
    closed_with_any_code_after_an_answer
    alpn_mismatch
    too_many_connections
    too_many_lanes
    too_many_handshakes
    too_many_handshakes_with_the_filter
}

/// Calls until the refusal comes, and expects its exact code.
///
/// Our channel has it at once. tonic's has it unless the connection was gone before the call was handed to it: hyper says
/// no more of that than that it was closed, which is UNAVAILABLE.
async fn refusal(arm: Arm, caller: &Caller, expected: Code) -> Status {
    let refused = refused_as(arm, expected, || caller.echo(b""));
    soon("the refusal", refused).await
}

async fn refused_as<F>(arm: Arm, expected: Code, call: impl Fn() -> F) -> Status
where
    F: Future<Output = Result<(), Status>>,
{
    loop {
        let status = call().await.expect_err("refused");
        if status.code() == expected {
            return status;
        }
        assert_eq!(arm, Arm::Tonic, "{status:?}");
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    }
}

async fn wrong_identity(arm: Arm) {
    let server = Server::start().await;
    let other = SecretKey::generate().public();
    let addrs = server.peer.addr().addrs.iter().cloned();
    let liar = Peer::from(EndpointAddr::from_parts(other, addrs));
    let caller = Caller::new(arm, &liar).await;
    let ended = soon("the dial's end", caller.kind()).await;
    assert_eq!(ended, Err((ErrorKind::WrongIdentity, Code::Unavailable)));
    assert_eq!(server.stage.counts().begun, 0);
    assert_eq!(caller.links.connections(), 0);
}

#[derive(Debug)]
struct Refuse {
    code: VarInt,
    open: Arc<AtomicBool>,
}

impl EndpointHooks for Refuse {
    async fn after_handshake<'a>(&'a self, _: &'a Connection) -> AfterHandshakeOutcome {
        if self.open.load(Ordering::SeqCst) {
            return AfterHandshakeOutcome::Accept;
        }
        AfterHandshakeOutcome::Reject {
            error_code: self.code,
            reason: b"not today".to_vec(),
        }
    }
}

async fn refused_by_a_hook_as_unknown(arm: Arm) {
    refused_by_a_hook(arm, close::UNAUTHENTICATED, Code::Unauthenticated).await;
}

async fn refused_by_a_hook_as_forbidden(arm: Arm) {
    refused_by_a_hook(arm, close::FORBIDDEN, Code::PermissionDenied).await;
}

async fn refused_by_a_hook_with_any_code(arm: Arm) {
    refused_by_a_hook(arm, VarInt::from_u32(0x77777), Code::PermissionDenied).await;
}

async fn refused_by_a_hook(arm: Arm, code: VarInt, expected: Code) {
    let open = Arc::new(AtomicBool::new(false));
    let hook = Refuse {
        code,
        open: open.clone(),
    };
    let endpoint = Endpoint::builder(Offline).hooks(hook).bind().await;
    let server = Server::on(endpoint.expect("bound"), Acceptor::builder());
    let caller = Caller::new(arm, &server.peer).await;
    let status = refusal(arm, &caller, expected).await;
    assert!(status.message().contains("not today"), "{status:?}");
    // As long as the backoff lasts, too.
    let status = refusal(arm, &caller, expected).await;
    assert!(status.message().contains("not today"), "{status:?}");
    assert_eq!(server.stage.counts().begun, 0);
    // A policy that changes its mind is found out.
    open.store(true, Ordering::SeqCst);
    caller.links.add_peer(server.peer.clone());
    let answer = soon("the answer", caller.echo(b"and now")).await;
    answer.expect("accepted");
}

/// Keeps the connections that it lets in.
#[derive(Debug, Clone, Default)]
struct Keep(Arc<Mutex<Vec<Connection>>>);

impl EndpointHooks for Keep {
    async fn after_handshake<'a>(&'a self, connection: &'a Connection) -> AfterHandshakeOutcome {
        self.0.lock().expect("no panic").push(connection.clone());
        AfterHandshakeOutcome::Accept
    }
}

/// A hook refuses before there is any answer. A connection that had worked is lost, whatever code the application gives.
async fn closed_with_any_code_after_an_answer(arm: Arm) {
    let keep = Keep::default();
    let endpoint = Endpoint::builder(Offline).hooks(keep.clone()).bind().await;
    let server = Server::on(endpoint.expect("bound"), Acceptor::builder());
    let caller = Caller::new(arm, &server.peer).await;
    caller.echo(b"first").await.expect("answered");
    let holding = tokio::spawn({
        let caller = caller.clone();
        async move { caller.echo(HOLD).await }
    });
    let begun = server.stage.wait("the call", |counts| counts.begun == 2);
    begun.await;
    for connection in keep.0.lock().expect("no panic").drain(..) {
        connection.close(VarInt::from_u32(0x77777), b"restarting");
    }
    let ended = soon("the call's end", holding).await.expect("no panic");
    let status = ended.expect_err("the connection is gone");
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    caller.recovers().await;
}

async fn alpn_mismatch(arm: Arm) {
    let endpoint = offline().await;
    let peer = Peer::of(&endpoint).expect("dialable");
    let (acceptor, _incoming) = Acceptor::new();
    let router = Router::builder(endpoint)
        .accept(b"something/else", acceptor)
        .spawn();
    let caller = Caller::new(arm, &peer).await;
    let ended = soon("the dial's end", caller.kind()).await;
    assert_eq!(ended, Err((ErrorKind::AlpnMismatch, Code::Unavailable)));
    router.shutdown().await.expect("shut down");
}

async fn too_many_connections(arm: Arm) {
    let limited = Acceptor::builder().max_connections_per_peer(1);
    let server = Server::on(offline().await, limited);
    let endpoint = offline().await;
    // Two sets of links of one endpoint are two connections of one peer.
    let first = Caller::over(arm, &server.peer, None, Links::new(endpoint.clone()));
    let second = Caller::over(arm, &server.peer, None, Links::new(endpoint));
    first.echo(b"first").await.expect("the first is accepted");
    refusal(arm, &second, Code::ResourceExhausted).await;
    refusal(arm, &second, Code::ResourceExhausted).await;
    first.echo(b"again").await.expect("the first stays");
    // Another peer is another count.
    let other = Caller::new(arm, &server.peer).await;
    other.echo(b"other").await.expect("accepted");

    first.links.close(server.peer.id());
    until("the connection's end", || {
        server.acceptor.connections() == 1
    })
    .await;
    second.links.add_peer(server.peer.clone());
    soon("the answer", second.echo(b"second"))
        .await
        .expect("there is room now");

    // A key costs nothing, so there is a bound for all of them.
    let limited = Acceptor::builder().max_connections(1);
    let server = Server::on(offline().await, limited);
    let first = Caller::new(arm, &server.peer).await;
    first.echo(b"first").await.expect("the first is accepted");
    let other = Caller::new(arm, &server.peer).await;
    refusal(arm, &other, Code::ResourceExhausted).await;
    first.echo(b"again").await.expect("the first stays");
}

async fn too_many_lanes(arm: Arm) {
    let limited = Acceptor::builder().max_lanes_per_connection(1);
    let server = Server::on(offline().await, limited);
    let links = Links::new(offline().await);
    let first = Caller::over(arm, &server.peer, None, links.clone());
    first
        .echo(b"first")
        .await
        .expect("the first lane is accepted");

    // Our channel takes a second lane by urgency; each of tonic's channels is a lane of its own.
    let second = Caller::over(arm, &server.peer, None, links);
    let refused = refused_as(arm, Code::ResourceExhausted, || async {
        let mut bulk = tonic::Request::new(request(b"second"));
        bulk.extensions_mut().insert(Urgency::BULK);
        second.client().echo(bulk).await.map(|_| ())
    });
    soon("the refusal", refused).await;
    first.echo(b"again").await.expect("the first lane stays");
    assert_eq!(server.acceptor.connections(), 1, "and the connection");
}

/// What a path brings at once when it heals after a silence: many pings, and a lane behind them. On one thread the server
/// accepts all of them before it can answer any.
#[tokio::test]
async fn a_burst_of_pings_refuses_no_lane() {
    let server = Server::start().await;
    let endpoint = offline().await;
    let connection = raw(&endpoint, &server.peer).await;
    let ping = wire::Preamble {
        kind: wire::Kind::Ping,
        urgency: Urgency::HIGHEST,
    };
    let mut pings = Vec::new();
    for _ in 0..20 {
        let (mut send, recv) = connection.open_bi().await.expect("a stream");
        send.write_all(&ping.encode()).await.expect("written");
        pings.push((send, recv));
    }
    let (lane, _) = rawlane::channel(&connection, Some(Urgency::INTERACTIVE)).await;
    let answer = soon("an answer", EchoClient::new(lane).echo(request(b"lane"))).await;
    answer.expect("the lane is taken");
    for (send, recv) in &mut pings {
        send.write_all(b"12345678").await.expect("written");
        let mut echoed = [0; wire::PING_LEN];
        let echo = soon("the echo", recv.read_exact(&mut echoed)).await;
        echo.expect("the ping is answered");
        assert_eq!(&echoed, b"12345678");
    }

    // Pings have a limit of their own, and one beyond it is refused as nothing else is.
    for _ in 0..33 {
        let (mut send, recv) = connection.open_bi().await.expect("a stream");
        send.write_all(&ping.encode()).await.expect("written");
        pings.push((send, recv));
    }
    let (_, last) = pings.last_mut().expect("33 pings");
    let refused = soon("the refusal", last.read(&mut [0; 8])).await;
    let expected = iroh::endpoint::ReadError::Reset(wire::reset::DROPPED);
    assert_eq!(refused.expect_err("refused"), expected);
    let (lane, _) = rawlane::channel(&connection, Some(Urgency::BULK)).await;
    let answer = soon("an answer", EchoClient::new(lane).echo(request(b"lane"))).await;
    answer.expect("the lane is taken");
}

/// Forwards a client's packets to the server and none back: a handshake that stays begun. Returns when the server has
/// answered the first packet, so that the handshake has its place before anybody else's begins.
async fn half_a_handshake(server: &Server) -> (Endpoint, tokio::task::JoinHandle<()>) {
    let way = UdpSocket::bind("127.0.0.1:0").await.expect("bound");
    let way_addr = way.local_addr().expect("bound");
    let onward: SocketAddr = server.endpoint.bound_sockets()[0];
    let endpoint = offline().await;
    let dial = endpoint.clone();
    let addr = EndpointAddr::new(server.peer.id()).with_ip_addr(way_addr);
    let answered = Arc::new(Notify::new());
    let answer = answered.clone();
    let held = tokio::spawn(async move {
        let dialling = dial.connect(addr, tower_iroh::ALPN);
        let forward = async {
            let mut packet = [0; 2048];
            loop {
                let (len, from) = way.recv_from(&mut packet).await.expect("received");
                if from == onward {
                    answer.notify_one();
                } else {
                    way.send_to(&packet[..len], onward).await.expect("sent");
                }
            }
        };
        tokio::select! {
            _ = dialling => panic!("half a handshake has come to an end"),
            () = forward => {}
        }
    });
    soon("the server's answer", answered.notified()).await;
    (endpoint, held)
}

async fn too_many_handshakes_with_the_filter(arm: Arm) {
    let limited = Acceptor::builder().max_handshakes(1);
    let server = Server::on(offline().await, limited);
    let (_slow, held) = half_a_handshake(&server).await;
    // Its address is not proved, and the caller's is by then.
    let caller = Caller::new(arm, &server.peer).await;
    soon("the answer", caller.echo(b"second"))
        .await
        .expect("answered");
    held.abort();
}

async fn too_many_handshakes(arm: Arm) {
    let limited = Acceptor::builder().max_handshakes(1);
    let server = Server::routed(offline().await, limited, |router, acceptor| {
        let endpoint = router.endpoint().clone();
        Router::builder(endpoint).accept(tower_iroh::ALPN, acceptor.clone())
    });
    let (_slow, held) = half_a_handshake(&server).await;
    // The server's answer may be a moment ahead of the count, and then the first caller is taken: the refusal comes next.
    let refused = async {
        loop {
            let caller = Caller::new(arm, &server.peer).await;
            match caller.echo(b"second").await {
                Ok(()) => {}
                Err(status) => return status,
            }
        }
    };
    let status = soon("the refusal", refused).await;
    // QUIC hides an application's code until the handshake is over (RFC 9000 section 10.2.3), and a refusal before it has none.
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    held.abort();
}

//! Connections that nobody uses, and what is known of those that somebody does.

use std::time::{Duration, Instant, SystemTime};

use tonic::Code;
use tower_iroh::{Channel, Links, Path, Peer, State, wire::close};
use tower_iroh_proto::echo::{StreamRequest, echo_client::EchoClient};

use crate::support::{
    Arm, Caller, ENDLESS, HOLD, Server, offline, on_both_arms, request, soon, until,
};

on_both_arms! {
    pool_evicts_the_least_recently_used
    statistics
}

const IDLE: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connection_is_closed_with_its_code() {
    // A raw server, to see the code. It answers nothing, so the call ends by its deadline; that is a use as any other.
    let endpoint = offline().await;
    endpoint.set_alpns(vec![tower_iroh::ALPN.to_vec()]);
    let peer = Peer::of(&endpoint).expect("dialable");
    let closed = tokio::spawn(async move {
        let connection = endpoint
            .accept()
            .await
            .expect("open")
            .await
            .expect("shaken");
        connection.closed().await
    });
    let most = Duration::from_millis(50);
    let caller = Caller::with(Arm::Channel, &peer, Some(most), |links| {
        links.idle_timeout(IDLE)
    })
    .await;
    let status = caller.echo(b"").await.expect_err("nobody answers");
    assert_eq!(status.code(), Code::DeadlineExceeded, "{status:?}");
    match soon("the close", closed).await.expect("no panic") {
        iroh::endpoint::ConnectionError::ApplicationClosed(frame) => {
            assert_eq!(frame.error_code, close::IDLE);
        }
        other => panic!("closed by {other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_close_counts_from_the_last_call_and_pings_are_no_use() {
    let server = Server::start().await;
    let caller = Caller::with(Arm::Channel, &server.peer, None, |links| {
        links.idle_timeout(IDLE).health_interval(IDLE / 10)
    })
    .await;
    let id = server.peer.id();
    caller.echo(b"first").await.expect("answered");
    // Used again before it is over: the time begins anew.
    tokio::time::sleep(IDLE / 2).await;
    let used = Instant::now();
    caller.echo(b"second").await.expect("answered");
    until("a ping", || {
        caller
            .links
            .stats(id)
            .is_some_and(|stats| stats.ping.is_some())
    })
    .await;
    let mut state = caller.links.state(id);
    soon("the close", state.wait_for(|state| *state == State::Idle))
        .await
        .expect("open");
    let after = used.elapsed();
    assert!(after >= IDLE - IDLE / 20 && after < IDLE * 3, "{after:?}");
    assert!(caller.links.stats(id).is_none());
    assert_eq!(caller.links.connections(), 0);
    until("the server's side", || server.acceptor.connections() == 0).await;
    // Nothing is lost by it: the next call dials, at once.
    caller.echo(b"third").await.expect("answered");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_close_spares_a_connection_with_an_open_stream() {
    let server = Server::start().await;
    let caller = Caller::with(Arm::Channel, &server.peer, None, |links| {
        links.idle_timeout(IDLE)
    })
    .await;
    let id = server.peer.id();
    let holding = tokio::spawn({
        let caller = caller.clone();
        async move { caller.echo(HOLD).await }
    });
    server
        .stage
        .wait("the call", |counts| counts.begun == 1)
        .await;
    let established = caller.links.stats(id).expect("connected").established_at;
    // That nothing happens has no event to wait for: three times as long as it would take.
    tokio::time::sleep(IDLE * 3).await;
    let stats = caller.links.stats(id).expect("still connected");
    assert_eq!((stats.established_at, stats.open_calls), (established, 1));
    let ended = Instant::now();
    server.stage.release();
    soon("the answer", holding)
        .await
        .expect("no panic")
        .expect("answered");
    until("the close", || caller.links.stats(id).is_none()).await;
    assert!(
        ended.elapsed() >= IDLE - IDLE / 20,
        "counted from the stream's end"
    );
}

async fn pool_evicts_the_least_recently_used(arm: Arm) {
    let servers = [
        Server::start().await,
        Server::start().await,
        Server::start().await,
    ];
    let links = Links::builder(offline().await).max_connections(2);
    let links = links.build().expect("valid");
    // Over tonic a channel uses its connection as long as it lives, so each call has a channel of its own there.
    let call = async |server: &Server| {
        let caller = Caller::over(arm, &server.peer, None, links.clone());
        soon("an answer", caller.echo(b"")).await.expect("answered");
        drop(caller);
        let id = server.peer.id();
        until("the end of its use", || {
            links.stats(id).is_none_or(|stats| stats.open_calls == 0)
        })
        .await;
    };
    let [a, b, c] = &servers;
    call(a).await;
    call(b).await;
    call(a).await;
    call(c).await;
    let connected = |server: &Server| links.stats(server.peer.id()).is_some();
    assert!(
        connected(a) && !connected(b) && connected(c),
        "b was the least recently used"
    );
    call(b).await;
    assert!(!connected(a) && connected(b) && connected(c), "then a");
    assert_eq!(links.connections(), 2);
}

async fn statistics(arm: Arm) {
    let server = Server::start().await;
    let before = SystemTime::now();
    let caller = Caller::new(arm, &server.peer).await;
    let id = server.peer.id();
    assert!(
        caller.links.stats(id).is_none(),
        "nothing is dialled before a call"
    );
    assert_eq!(*caller.links.state(id).borrow(), State::Idle);
    caller.echo(&[1; 50_000]).await.expect("answered");
    assert_eq!(*caller.links.state(id).borrow(), State::Ready);
    let first = caller.links.stats(id).expect("connected");
    assert!(first.established_at >= before && first.established_at <= SystemTime::now());
    assert!(first.last_used >= first.established_at && first.last_used <= SystemTime::now());
    assert!(
        first.bytes_sent > 50_000 && first.bytes_sent < 200_000,
        "{first}"
    );
    assert!(
        first.bytes_received > 50_000 && first.bytes_received < 200_000,
        "{first}"
    );
    assert!(first.sent_packets > 0 && first.lost_packets <= first.sent_packets);
    assert_eq!(
        first.path,
        Some(Path::Direct(server.endpoint.bound_sockets()[0]))
    );
    assert!(
        first
            .rtt
            .is_some_and(|rtt| !rtt.is_zero() && rtt < Duration::from_secs(1))
    );
    let expected = match arm {
        Arm::Channel => (0, 1),
        // The channel's own connection.
        Arm::Tonic => (1, 1),
    };
    assert_eq!((first.open_calls, first.calls), expected);

    let endless = StreamRequest {
        count: ENDLESS,
        size: 10,
        interval_ms: 5,
    };
    let mut client = caller.client();
    let mut stream = client
        .server_stream(endless)
        .await
        .expect("a stream")
        .into_inner();
    soon("a message", stream.message()).await.expect("sent");
    let open = caller.links.stats(id).expect("connected");
    let expected = match arm {
        Arm::Channel => (1, 2),
        Arm::Tonic => (1, 1),
    };
    assert_eq!((open.open_calls, open.calls), expected);
    drop(stream);
    if arm == Arm::Channel {
        assert_eq!(caller.links.stats(id).expect("connected").open_calls, 0);
    }
    assert_eq!(open.established_at, first.established_at);
}

/// The last clone of a channel takes its connection along; calls in flight keep it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn last_clone_closes_the_connection() {
    let server = Server::start().await;
    // An endpoint that is dropped without a close tells its peers nothing; that is iroh's, and not what this is about.
    let endpoint = offline().await;
    let channel = Channel::builder(endpoint.clone()).peer(server.peer.clone());
    let channel = channel.build().expect("valid");
    let mut client = EchoClient::new(channel.clone());
    let holding = tokio::spawn(async move { client.echo(request(HOLD)).await });
    server
        .stage
        .wait("the call", |counts| counts.begun == 1)
        .await;
    drop(channel);
    server.stage.release();
    soon("the answer", holding)
        .await
        .expect("no panic")
        .expect("answered");
    until("the connection's end", || {
        server.acceptor.connections() == 0
    })
    .await;
}

/// A peer that answers no ping keeps no connection: the ping in flight is not a use, and does not hold the link.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn last_clone_closes_while_a_ping_waits() {
    const INTERVAL: Duration = Duration::from_secs(2);
    let endpoint = offline().await;
    endpoint.set_alpns(vec![tower_iroh::ALPN.to_vec()]);
    let peer = Peer::of(&endpoint).expect("dialable");
    let (pinged, ping_came) = tokio::sync::oneshot::channel();
    let closed = tokio::spawn(async move {
        let incoming = endpoint.accept().await.expect("open");
        let connection = incoming.await.expect("shaken");
        let _lane = connection.accept_bi().await.expect("the call's lane");
        let _ping = connection.accept_bi().await.expect("a ping");
        pinged.send(()).expect("the test waits");
        connection.closed().await
    });
    let most = Duration::from_millis(50);
    let caller = Caller::with(Arm::Channel, &peer, Some(most), |links| {
        links.health_interval(INTERVAL)
    })
    .await;
    let _endpoint = caller.endpoint.clone();
    caller.echo(b"").await.expect_err("nobody answers");
    soon("a ping", ping_came).await.expect("no panic");
    let dropped = Instant::now();
    drop(caller);
    match soon("the close", closed).await.expect("no panic") {
        iroh::endpoint::ConnectionError::ApplicationClosed(frame) => {
            assert_eq!(frame.error_code, close::CLIENT_CLOSED);
        }
        other => panic!("closed by {other:?}"),
    }
    assert!(dropped.elapsed() < INTERVAL / 2, "before the ping is over");
}

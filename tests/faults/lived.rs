//! Connections that the server ends by itself: to make room, because nobody uses them, because they are old, because their peer is gone.

use std::time::Duration;

use iroh::{SecretKey, endpoint::ConnectionError};
use tokio::{
    sync::oneshot,
    time::{Instant, sleep},
};
use tonic::{Code, body::Body, client::GrpcService};
use tower::Layer as _;
use tower_iroh::{
    Acceptor, Links, Urgency,
    layers::{
        BoxError,
        retry::{RetryLayer, RetryPolicy},
    },
    wire::{self, close},
};
use tower_iroh_proto::echo::echo_client::EchoClient;

use crate::{
    rawlane,
    support::{
        Arm, Caller, HANG, HOLD, Server, another_runtime, offline, offline_with, on_both_arms, raw,
        request, soon, until,
    },
};

on_both_arms! {
    a_full_server_makes_room_and_cuts_no_call
    an_idle_connection_is_replaced_with_the_next_call
    a_call_in_flight_keeps_its_connection
    old_connections_are_replaced_and_no_call_fails
    ghosts_of_a_peer_do_not_keep_it_out
}

/// The code with which the server closed a connection.
fn code(error: ConnectionError) -> u64 {
    match error {
        ConnectionError::ApplicationClosed(frame) => frame.error_code.into(),
        other => panic!("closed by {other:?}"),
    }
}

/// What a caller is told while there is no room. hyper says no more of a connection that is gone before the call was handed to it.
fn for_room(arm: Arm) -> Vec<Code> {
    match arm {
        Arm::Channel => vec![Code::ResourceExhausted],
        Arm::Tonic => vec![Code::ResourceExhausted, Code::Unavailable],
    }
}

async fn a_full_server_makes_room_and_cuts_no_call(arm: Arm) {
    let server = Server::on(offline().await, Acceptor::builder().max_connections(3));
    let busy = Caller::new(arm, &server.peer).await;
    let holding = tokio::spawn({
        let busy = busy.clone();
        async move { busy.echo(HOLD).await }
    });
    let begun = server.stage.wait("the call", |counts| counts.begun == 1);
    begun.await;
    let unused = Caller::new(arm, &server.peer).await;
    unused.echo(b"once").await.expect("answered");
    let strange = offline().await;
    let stranger = raw(&strange, &server.peer).await;
    until("the stranger", || server.acceptor.connections() == 3).await;

    // Whoever has never called goes first.
    let next = Caller::new(arm, &server.peer).await;
    soon("an answer", next.echo(b"next"))
        .await
        .expect("there is room");
    let closed = soon("the close", stranger.closed()).await;
    assert_eq!(code(closed), close::EVICTED.into_inner());

    // Then who calls no more; and nobody who called a moment ago.
    let another = Caller::new(arm, &server.peer).await;
    another.recovers_from(&for_room(arm)).await;
    until("the close", || {
        unused.links.stats(server.peer.id()).is_none()
    })
    .await;
    assert_eq!(server.acceptor.connections(), 3);

    server.stage.release();
    let held = soon("the held answer", holding).await.expect("no panic");
    held.expect("its connection was spared");
    // Whoever was evicted dials again, and no call fails but for want of room.
    unused.recovers_from(&for_room(arm)).await;
}

async fn an_idle_connection_is_replaced_with_the_next_call(arm: Arm) {
    const IDLE: Duration = Duration::from_millis(500);
    let server = Server::on(offline().await, Acceptor::builder().idle_timeout(IDLE));
    let caller = Caller::with(arm, &server.peer, None, |links| {
        // Pings are no use of a connection.
        links.health_interval(IDLE / 5)
    })
    .await;
    for _ in 0..3 {
        let began = Instant::now();
        caller.echo(b"again").await.expect("never a failure");
        until("the close", || server.acceptor.connections() == 0).await;
        assert!(began.elapsed() >= IDLE, "{:?}", began.elapsed());
    }
}

async fn a_call_in_flight_keeps_its_connection(arm: Arm) {
    const IDLE: Duration = Duration::from_millis(300);
    let server = Server::on(offline().await, Acceptor::builder().idle_timeout(IDLE));
    let caller = Caller::new(arm, &server.peer).await;
    let holding = tokio::spawn({
        let caller = caller.clone();
        async move { caller.echo(HOLD).await }
    });
    let begun = server.stage.wait("the call", |counts| counts.begun == 1);
    begun.await;
    // That nothing happens has no event to wait for: several times as long as it would take. Not a byte moves meanwhile.
    sleep(IDLE * 8).await;
    assert_eq!(server.acceptor.connections(), 1);
    server.stage.release();
    let held = soon("the answer", holding).await.expect("no panic");
    held.expect("answered");
    until("the close", || server.acceptor.connections() == 0).await;
}

/// A lane of a client that takes no notice of GOAWAY is ended, then its connection, with a code.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_connection_is_closed_with_its_code() {
    let idle = Duration::from_millis(300);
    let server = Server::on(offline().await, Acceptor::builder().idle_timeout(idle));
    let endpoint = offline().await;
    let connection = raw(&endpoint, &server.peer).await;
    let (lane, _) = rawlane::channel(&connection, Some(Urgency::INTERACTIVE)).await;
    let answer = EchoClient::new(lane).echo(request(b"")).await;
    answer.expect("answered");
    let closed = soon("the close", connection.closed()).await;
    assert_eq!(code(closed), close::UNUSED.into_inner());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_without_a_lane_has_ten_seconds() {
    let server = Server::start().await;
    let endpoint = offline().await;
    let began = Instant::now();
    let connection = raw(&endpoint, &server.peer).await;
    // Pings are no lanes.
    let (mut send, _recv) = connection.open_bi().await.expect("a stream");
    let ping = wire::Preamble {
        kind: wire::Kind::Ping,
        urgency: Urgency::HIGHEST,
    };
    send.write_all(&ping.encode()).await.expect("written");
    let closed = tokio::time::timeout(Duration::from_secs(30), connection.closed());
    let closed = closed.await.expect("closed");
    assert_eq!(code(closed), close::UNUSED.into_inner());
    assert!(
        began.elapsed() >= Duration::from_secs(10),
        "{:?}",
        began.elapsed()
    );
}

async fn call_until<S>(until: Instant, mut client: EchoClient<S>) -> Result<u64, tonic::Status>
where
    S: GrpcService<Body, Error: Into<BoxError>>,
    S::ResponseBody:
        http_body::Body<Data = bytes::Bytes, Error: Into<BoxError> + Send> + Send + 'static,
{
    let mut calls = 0;
    while Instant::now() < until {
        client.echo(request(&[0; 100])).await?;
        calls += 1;
    }
    Ok(calls)
}

/// Calls without a pause while connections grow old.
async fn old_connections_are_replaced_and_no_call_fails(arm: Arm) {
    const AGE: Duration = Duration::from_secs(2);
    let seconds = std::env::var("TOWER_IROH_AGE_SECONDS").ok();
    let seconds = seconds.map_or(7, |it| it.parse().expect("a number"));
    let server = Server::on(offline().await, Acceptor::builder().max_connection_age(AGE));
    let caller = Caller::new(arm, &server.peer).await;
    let until = Instant::now() + Duration::from_secs(seconds);
    // hyper gives calls back that it has not sent when their connection takes no more, and tonic does not send them again: its users need a retry of what was
    // provably not begun.
    let retry = RetryLayer::new(RetryPolicy::default());
    let calls: Vec<_> = (0..8)
        .map(|_| match arm {
            Arm::Channel => tokio::spawn(call_until(until, caller.client())),
            Arm::Tonic => {
                let service = retry.layer(caller.service.clone());
                tokio::spawn(call_until(until, EchoClient::new(service)))
            }
        })
        .collect();
    let mut ages = 0;
    let mut last = None;
    while Instant::now() < until {
        let established = caller
            .links
            .stats(server.peer.id())
            .map(|stats| stats.established_at);
        if established.is_some() && established != last {
            (ages, last) = (ages + 1, established);
        }
        sleep(Duration::from_millis(20)).await;
    }
    let mut total = 0;
    for call in calls {
        let calls = soon("the end", call).await.expect("no panic");
        total += calls.expect("no call fails");
    }
    println!("{arm:?}: {total} calls over {ages} connections, none failed");
    assert!(ages >= 3, "{ages} connections");
}

async fn ghosts_of_a_peer_do_not_keep_it_out(arm: Arm) {
    let server = Server::start().await;
    let key = SecretKey::generate();
    let mut slowest = Duration::ZERO;
    for number in 0..24 {
        // A runtime of its own stands for a process: when it is gone, nothing is sent any more.
        let process = another_runtime();
        let (answered, answer) = oneshot::channel();
        let (key, peer) = (key.clone(), server.peer.clone());
        let began = Instant::now();
        process.spawn(async move {
            let links = Links::new(offline_with(key).await);
            let caller = Caller::over(arm, &peer, None, links);
            let status = caller.echo(b"here").await;
            let _ = answered.send((status, began.elapsed()));
            let _ = caller.echo(HANG).await;
        });
        let (status, took) = soon("an answer", answer).await.expect("told");
        status.unwrap_or_else(|status| panic!("number {number}: {status:?}"));
        slowest = slowest.max(took);
        let begun = |begun| begun == 2 * (number + 1);
        server
            .stage
            .wait("its watch", |counts| begun(counts.begun))
            .await;
        process.shutdown_background();
    }
    println!("{arm:?}: the slowest answer came after {slowest:?}");
    assert!(slowest < Duration::from_secs(10), "{slowest:?}");
    assert_eq!(server.acceptor.connections(), 16);
}

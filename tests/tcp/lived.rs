//! Connections that the server ends by itself: to make room, because nobody uses them, because they are old.

use std::time::Duration;

use iroh::SecretKey;
use tokio::{
    io::AsyncReadExt as _,
    time::{Instant, sleep},
};
use tonic::{Code, body::Body, client::GrpcService};
use tower::Layer as _;
use tower_iroh::layers::{
    BoxError,
    retry::{RetryLayer, RetryPolicy},
};
use tower_iroh_proto::echo::echo_client::EchoClient;

use crate::support::{
    Caller, HOLD, KINDS, Kind, Server, plain_client, request, socket, soon, until,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_server_makes_room_and_cuts_no_call() {
    for kind in KINDS {
        let key = SecretKey::generate();
        let server = Server::with(&key, |acceptor| acceptor.max_connections(3)).await;
        let busy = Caller::new(kind, &server.peer);
        let holding = tokio::spawn({
            let busy = busy.clone();
            async move { busy.echo(HOLD).await }
        });
        let begun = server.stage.wait("the call", |counts| counts.begun == 1);
        begun.await;
        let others = [(); 2].map(|()| Caller::new(kind, &server.peer));
        for other in &others {
            other.echo(b"once").await.expect("answered");
        }
        // All have called a moment ago, or do so.
        let next = Caller::new(kind, &server.peer);
        recovers(&next).await;
        assert_eq!(server.acceptor.connections(), 3);
        server.stage.release();
        let held = soon("the held answer", holding).await.expect("no panic");
        held.expect("its connection was spared");
        for other in &others {
            recovers(other).await;
        }
    }
}

/// Waits for room; nothing else may fail a call.
async fn recovers(caller: &Caller) {
    let calls = async {
        while let Err(status) = caller.echo(b"again").await {
            // hyper says no more of a connection that is gone before the call was handed to it.
            let refused = [Code::ResourceExhausted, Code::Unavailable].contains(&status.code());
            assert!(refused, "{status:?}");
            sleep(Duration::from_millis(20)).await;
        }
    };
    soon("room", calls).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_connection_is_replaced_with_the_next_call() {
    const IDLE: Duration = Duration::from_millis(500);
    for kind in KINDS {
        let key = SecretKey::generate();
        let server = Server::with(&key, |acceptor| acceptor.idle_timeout(IDLE)).await;
        let caller = Caller::with(kind, &server.peer, &SecretKey::generate(), |links| {
            // Pings are no use of a connection.
            links.health_interval(IDLE / 5)
        });
        for _ in 0..3 {
            let began = Instant::now();
            caller.echo(b"again").await.expect("never a failure");
            until("the close", || server.acceptor.connections() == 0).await;
            assert!(began.elapsed() >= IDLE, "{:?}", began.elapsed());
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_call_in_flight_keeps_its_connection() {
    const IDLE: Duration = Duration::from_millis(300);
    let key = SecretKey::generate();
    let server = Server::with(&key, |acceptor| acceptor.idle_timeout(IDLE).plaintext(true)).await;
    let caller = Caller::new(Kind::Channel, &server.peer);
    let holding = tokio::spawn(async move { caller.echo(HOLD).await });
    let mut plain = plain_client(server.addr).await;
    let plain = tokio::spawn(async move { plain.echo(request(HOLD)).await });
    let begun = server.stage.wait("the calls", |counts| counts.begun == 2);
    begun.await;
    // That nothing happens has no event to wait for: several times as long as it would take. Not a byte moves meanwhile.
    sleep(IDLE * 8).await;
    assert_eq!(server.acceptor.connections(), 2);
    server.stage.release();
    soon("the answer", holding)
        .await
        .expect("no panic")
        .expect("answered");
    soon("the answer", plain)
        .await
        .expect("no panic")
        .expect("answered");
    until("the close", || server.acceptor.connections() == 0).await;
}

/// Also one that has spoken: a client that has said its preface has made no call yet.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_without_a_call_has_ten_seconds() {
    let key = SecretKey::generate();
    let server = Server::with(&key, |acceptor| acceptor.plaintext(true)).await;
    let began = Instant::now();
    let mut socket = socket(server.addr).await;
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
    let said = tokio::io::AsyncWriteExt::write_all(&mut socket, preface).await;
    said.expect("sent");
    let mut heard = Vec::new();
    let end = tokio::time::timeout(Duration::from_secs(30), socket.read_to_end(&mut heard));
    end.await.expect("the end").expect("in good order");
    assert!(
        began.elapsed() >= Duration::from_secs(10),
        "{:?}",
        began.elapsed()
    );
    // GOAWAY says that nothing was begun.
    assert!(
        heard.ends_with(&[0, 0, 8, 7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0]),
        "{heard:?}"
    );
}

async fn call_until<S>(until: Instant, mut client: EchoClient<S>) -> Result<(), tonic::Status>
where
    S: GrpcService<Body, Error: Into<BoxError>>,
    S::ResponseBody:
        http_body::Body<Data = bytes::Bytes, Error: Into<BoxError> + Send> + Send + 'static,
{
    while Instant::now() < until {
        client.echo(request(&[0; 100])).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_connections_are_replaced_and_no_call_fails() {
    const AGE: Duration = Duration::from_secs(2);
    let seconds = std::env::var("TOWER_IROH_AGE_SECONDS").ok();
    let seconds = seconds.map_or(7, |it| it.parse().expect("a number"));
    for kind in KINDS {
        let key = SecretKey::generate();
        let server = Server::with(&key, |acceptor| acceptor.max_connection_age(AGE)).await;
        let caller = Caller::new(kind, &server.peer);
        let until = Instant::now() + Duration::from_secs(seconds);
        // hyper gives calls back that it has not sent when their connection takes no more, and tonic does not send them again: its users need a retry of what
        // was provably not begun.
        let retry = RetryLayer::new(RetryPolicy::default());
        let calls: Vec<_> = (0..8)
            .map(|_| match kind {
                Kind::Channel => tokio::spawn(call_until(until, caller.client())),
                Kind::Tonic => {
                    let service = retry.layer(caller.service.clone());
                    tokio::spawn(call_until(until, EchoClient::new(service)))
                }
            })
            .collect();
        for call in calls {
            let ended = call.await.expect("no panic");
            ended.expect("no call fails");
        }
        let mut ports: Vec<_> = {
            let callers = server.callers.lock().expect("not poisoned");
            let remotes = callers
                .iter()
                .map(|info| format!("{:?}", info.remote_addr()));
            remotes.collect()
        };
        let total = ports.len();
        ports.sort_unstable();
        ports.dedup();
        println!(
            "{kind:?}: {total} calls over {} connections, none failed",
            ports.len()
        );
        assert!(ports.len() >= 3, "{} connections", ports.len());
    }
}

//! The pool and the dials: full, closed, and from both sides at once.

use std::time::{Duration, Instant};

use futures_util::future::{join, join_all};
use tonic::Code;
use tower_iroh::{ErrorKind, Links};

use crate::support::{Arm, Caller, HANG, HOLD, Server, offline, on_both_arms, request, soon};

on_both_arms! {
    endpoint_closed_under_load
    server_closed_under_load
    links_closed_under_load
    two_peers_dial_each_other
}

const FULL: Duration = Duration::from_secs(1);

async fn one_connection() -> Links {
    let links = Links::builder(offline().await)
        .max_connections(1)
        .dial_timeout(FULL);
    links.build().expect("valid")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pool_full_of_busy_connections() {
    let (busy, wanted) = (Server::start().await, Server::start().await);
    let links = one_connection().await;
    let first = Caller::over(Arm::Channel, &busy.peer, None, links.clone());
    let second = Caller::over(Arm::Channel, &wanted.peer, None, links.clone());
    let holding = tokio::spawn({
        let first = first.clone();
        async move { first.echo(HOLD).await }
    });
    busy.stage
        .wait("the call", |counts| counts.begun == 1)
        .await;

    // Without a deadline: as long as a dial may take.
    let start = Instant::now();
    let ended = soon("the call's end", second.kind()).await;
    assert_eq!(ended, Err((ErrorKind::Exhausted, Code::ResourceExhausted)));
    assert!(start.elapsed() >= FULL && start.elapsed() < FULL * 5);
    assert_eq!(links.connections(), 1);

    // With one: until then, and the answer says what it waited for.
    let most = FULL / 8;
    let hasty = Caller::over(Arm::Channel, &wanted.peer, Some(most), links.clone());
    let start = Instant::now();
    let ended = soon("the call's end", hasty.kind()).await;
    assert_eq!(ended, Err((ErrorKind::Exhausted, Code::ResourceExhausted)));
    assert!(start.elapsed() >= most && start.elapsed() < FULL);

    // Nothing of this was held against the peer, and the first call did not suffer.
    let waiting = tokio::spawn({
        let second = second.clone();
        async move { second.echo(b"room now?").await }
    });
    busy.stage.release();
    let held = soon("the held call", holding).await.expect("no panic");
    held.expect("answered");
    let answer = soon("the waiting call", waiting).await.expect("no panic");
    answer.expect("answered once there was room");
    assert_eq!(links.connections(), 1);
    assert!(links.stats(busy.peer.id()).is_none(), "the unused one went");
}

/// A tonic channel uses its connection as long as it lives.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pool_full_of_tonic_channels() {
    let (busy, wanted) = (Server::start().await, Server::start().await);
    let links = one_connection().await;
    let first = Caller::over(Arm::Tonic, &busy.peer, None, links.clone());
    first.echo(b"first").await.expect("answered");
    let second = Caller::over(Arm::Tonic, &wanted.peer, None, links.clone());
    let ended = soon("the call's end", second.kind()).await;
    assert_eq!(ended, Err((ErrorKind::Exhausted, Code::ResourceExhausted)));
    drop(first);
    let answer = soon("the answer", second.echo(b"room now?")).await;
    answer.expect("answered once there was room");
}

/// Callers that call one after the other until it fails.
fn load(caller: &Caller) -> Vec<tokio::task::JoinHandle<(u64, tonic::Status)>> {
    (0..32u64)
        .map(|n| {
            let caller = caller.clone();
            tokio::spawn(async move {
                let mut answers = 0;
                loop {
                    // One of them hangs rather than asks anew.
                    let payload = if n == 0 { HANG } else { b"load" };
                    match caller.echo(payload).await {
                        Ok(()) => answers += 1,
                        Err(status) => return (answers, status),
                    }
                }
            })
        })
        .collect()
}

async fn all_end(load: Vec<tokio::task::JoinHandle<(u64, tonic::Status)>>) {
    let ended = soon("the end of every call", join_all(load)).await;
    let mut answers = 0;
    for ended in ended {
        let (answered, status) = ended.expect("no panic");
        answers += answered;
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    }
    assert!(answers > 0, "there was load");
}

async fn endpoint_closed_under_load(arm: Arm) {
    let server = Server::start().await;
    let caller = Caller::new(arm, &server.peer).await;
    let load = load(&caller);
    server
        .stage
        .wait("load", |counts| counts.finished > 200)
        .await;
    soon("the close", caller.endpoint.close()).await;
    all_end(load).await;
    let ended = soon("a later call's end", caller.echo(b"")).await;
    assert_eq!(ended.expect_err("closed").code(), Code::Unavailable);
}

async fn server_closed_under_load(arm: Arm) {
    let server = Server::start().await;
    // Whoever dials again meets silence, for as long as a dial may take.
    let caller = Caller::with(arm, &server.peer, None, |links| links.dial_timeout(FULL)).await;
    let load = load(&caller);
    server
        .stage
        .wait("load", |counts| counts.finished > 200)
        .await;
    soon("the close", server.endpoint.close()).await;
    all_end(load).await;
    server
        .stage
        .wait("each handler's end", |counts| {
            counts.begun == counts.finished + counts.cancelled
        })
        .await;
}

async fn links_closed_under_load(arm: Arm) {
    let server = Server::start().await;
    let caller = Caller::new(arm, &server.peer).await;
    let load = load(&caller);
    server
        .stage
        .wait("load", |counts| counts.finished > 200)
        .await;
    // Whoever calls again dials again, so it takes a while until each has seen the end of a connection.
    let closing = tokio::spawn({
        let caller = caller.clone();
        async move {
            loop {
                caller.links.close(caller.peer.id());
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    });
    all_end(load).await;
    closing.abort();
    let _ = closing.await;
    caller.recovers().await;
}

async fn two_peers_dial_each_other(arm: Arm) {
    for _ in 0..5 {
        let (left, right) = (Server::start().await, Server::start().await);
        let to_right = Links::new(left.endpoint.clone());
        let to_left = Links::new(right.endpoint.clone());
        let to_right = Caller::over(arm, &right.peer, None, to_right);
        let to_left = Caller::over(arm, &left.peer, None, to_left);
        let both = join(to_right.echo(b"from left"), to_left.echo(b"from right"));
        let (one, other) = soon("both answers", both).await;
        one.expect("answered");
        other.expect("answered");
        let established = |caller: &Caller| {
            let stats = caller.links.stats(caller.peer.id()).expect("connected");
            stats.established_at
        };
        let before = (established(&to_right), established(&to_left));
        for _ in 0..20 {
            let both = join(to_right.echo(b"from left"), to_left.echo(b"from right"));
            let (one, other) = soon("both answers", both).await;
            one.expect("answered");
            other.expect("answered");
        }
        assert_eq!(
            before,
            (established(&to_right), established(&to_left)),
            "both stay"
        );
        assert_eq!(left.acceptor.connections(), 1);
        assert_eq!(right.acceptor.connections(), 1);
        // A dialler cannot be called on the connection it dialled: each direction has its own.
        let mut client = to_right.client();
        let answer = client.echo(request(b"still")).await.expect("answered");
        assert_eq!(answer.into_inner().payload.as_ref(), b"still");
    }
}

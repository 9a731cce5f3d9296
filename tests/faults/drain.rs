//! Servers that shut down while they are used.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use futures_util::future::join_all;
use iroh::{
    Endpoint, SecretKey,
    endpoint::{Connection, ConnectionError, VarInt},
};
use tokio::{task::JoinHandle, time::sleep};
use tonic::{Code, Status};
use tower_iroh::{Acceptor, Peer, Urgency, wire::close};
use tower_iroh_proto::echo::{StreamRequest, echo_client::EchoClient};

use crate::{
    rawlane,
    support::{
        Arm, Caller, ENDLESS, HANG, HOLD, Server, offline, on_both_arms, raw, request, soon, until,
    },
};

on_both_arms! {
    drain_finishes_what_is_in_flight
    drain_refuses_what_is_new
    drain_cuts_what_does_not_end
    drain_by_router_shutdown_alone
    drain_of_an_idle_server_is_quick
    restarted_under_load
    restarted_on_the_same_endpoint
}

/// Calls that hold until they are released.
fn holding(caller: &Caller, calls: usize) -> Vec<JoinHandle<Result<(), Status>>> {
    let calls = (0..calls).map(|_| {
        let caller = caller.clone();
        tokio::spawn(async move { caller.echo(HOLD).await })
    });
    calls.collect()
}

async fn all_answered(calls: Vec<JoinHandle<Result<(), Status>>>) {
    for ended in soon("every answer", join_all(calls)).await {
        ended.expect("no panic").expect("answered");
    }
}

/// A connection of the test's own, with one call on it, that can see its close code.
async fn witness(
    peer: &Peer,
    payload: &'static [u8],
) -> (Endpoint, Connection, JoinHandle<Result<(), Status>>) {
    let endpoint = offline().await;
    let connection = raw(&endpoint, peer).await;
    let (channel, _) = rawlane::channel(&connection, Some(Urgency::INTERACTIVE)).await;
    let call = tokio::spawn(async move {
        let answer = EchoClient::new(channel).echo(request(payload)).await?;
        assert_eq!(answer.into_inner().payload, payload);
        Ok(())
    });
    (endpoint, connection, call)
}

fn code(error: ConnectionError) -> VarInt {
    match error {
        ConnectionError::ApplicationClosed(frame) => frame.error_code,
        other => panic!("closed by {other:?}"),
    }
}

/// Waits until the server refuses new connections with the code for it.
async fn draining(server: &Server) {
    let refused = async {
        loop {
            let endpoint = offline().await;
            let connection = raw(&endpoint, &server.peer).await;
            // A server that does not drain yet keeps it.
            let closed = tokio::time::timeout(Duration::from_millis(50), connection.closed()).await;
            if let Ok(closed) = closed {
                assert_eq!(code(closed), close::DRAINING);
                return;
            }
        }
    };
    soon("the drain", refused).await;
}

async fn drain_finishes_what_is_in_flight(arm: Arm) {
    let mut server = Server::start().await;
    let caller = Caller::new(arm, &server.peer).await;
    let held = holding(&caller, 20);
    let (_endpoint, connection, witnessed) = witness(&server.peer, HOLD).await;
    server
        .stage
        .wait("the calls", |counts| counts.begun == 21)
        .await;
    server.signal();
    draining(&server).await;
    assert!(held.iter().all(|call| !call.is_finished()), "they hold");
    assert_eq!(connection.close_reason(), None);
    server.stage.release();
    all_answered(held).await;
    soon("the answer", witnessed)
        .await
        .expect("no panic")
        .expect("answered");
    assert_eq!(
        code(soon("the close", connection.closed()).await),
        close::DRAINED
    );
    server.served().await;
    let counts = server.stage.counts();
    assert_eq!((counts.finished, counts.cancelled), (21, 0));
    server.router.shutdown().await.expect("shut down");
}

async fn drain_refuses_what_is_new(arm: Arm) {
    let mut server = Server::start().await;
    let caller = Caller::new(arm, &server.peer).await;
    let held = holding(&caller, 1);
    server
        .stage
        .wait("the call", |counts| counts.begun == 1)
        .await;
    server.signal();
    draining(&server).await;
    // On the connection that drains: HTTP/2 takes calls until its last GOAWAY has come (RFC 9113 section 6.8), and no one after.
    let mut begun = 1;
    let refused = async {
        loop {
            match caller.echo(b"new").await {
                Ok(()) => begun += 1,
                Err(status) => return status,
            }
        }
    };
    let status = soon("the refusal", refused).await;
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    for _ in 0..3 {
        let ended = soon("the refusal", caller.echo(b"new")).await;
        let status = ended.expect_err("it drains");
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    }
    // And from somebody who comes only now.
    let late = Caller::new(arm, &server.peer).await;
    let status = soon("the refusal", late.echo(b"late"))
        .await
        .expect_err("drains");
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert_eq!(
        server.stage.counts().begun,
        begun,
        "none that was refused began"
    );
    server.stage.release();
    all_answered(held).await;
    server.served().await;
}

async fn drain_cuts_what_does_not_end(arm: Arm) {
    let most = Duration::from_millis(600);
    let mut server = Server::on(offline().await, Acceptor::builder().drain_timeout(most));
    let caller = Caller::new(arm, &server.peer).await;
    let endless = StreamRequest {
        count: ENDLESS,
        size: 10,
        interval_ms: 5,
    };
    let stream = caller.client().server_stream(endless).await;
    let mut stream = stream.expect("a stream").into_inner();
    soon("a message", stream.message()).await.expect("sent");
    let (_endpoint, connection, witnessed) = witness(&server.peer, HANG).await;
    server
        .stage
        .wait("the calls", |counts| counts.begun == 2)
        .await;
    let start = Instant::now();
    server.signal();
    let status = loop {
        match soon("the cut", stream.message()).await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("a stream that was cut looks like one that ended"),
            Err(status) => break status,
        }
    };
    let took = start.elapsed();
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert!(took >= most && took < most * 4, "{took:?}");
    assert_eq!(
        code(soon("the close", connection.closed()).await),
        close::DRAIN_EXPIRED
    );
    soon("the end", witnessed)
        .await
        .expect("no panic")
        .expect_err("cut");
    server.served().await;
    let ended = |counts: &crate::support::Counts| counts.cancelled == 2;
    server.stage.wait("the handlers' drop", ended).await;
}

async fn drain_by_router_shutdown_alone(arm: Arm) {
    let mut server = Server::start().await;
    let caller = Caller::new(arm, &server.peer).await;
    let held = holding(&caller, 20);
    let (_endpoint, connection, witnessed) = witness(&server.peer, HOLD).await;
    server
        .stage
        .wait("the calls", |counts| counts.begun == 21)
        .await;
    let router = server.router.clone();
    let shutdown = tokio::spawn(async move { router.shutdown().await });
    // iroh's router accepts nothing any more from the first moment on, so whoever comes now is refused on the connection that
    // there is, or waits for a dial that nobody answers.
    let refused = async {
        loop {
            match tokio::time::timeout(Duration::from_millis(200), caller.echo(b"new")).await {
                Ok(Ok(())) => {}
                Ok(Err(status)) => {
                    return assert_eq!(status.code(), Code::Unavailable, "{status:?}");
                }
                Err(_) => return,
            }
        }
    };
    soon("the drain", refused).await;
    assert!(!shutdown.is_finished(), "it waits for them");
    server.stage.release();
    all_answered(held).await;
    soon("the answer", witnessed)
        .await
        .expect("no panic")
        .expect("answered");
    assert_eq!(
        code(soon("the close", connection.closed()).await),
        close::DRAINED
    );
    server.served().await;
    let ended = soon("the router's end", shutdown).await.expect("no panic");
    ended.expect("shut down");
    assert!(server.endpoint.is_closed());
    assert_eq!(server.stage.counts().cancelled, 0);
}

async fn drain_of_an_idle_server_is_quick(arm: Arm) {
    let mut server = Server::start().await;
    let caller = Caller::new(arm, &server.peer).await;
    caller.echo(b"before").await.expect("answered");
    let start = Instant::now();
    server.signal();
    server.served().await;
    server.router.shutdown().await.expect("shut down");
    // Ten seconds would be the bound; nothing is in flight.
    assert!(
        start.elapsed() < Duration::from_secs(3),
        "{:?}",
        start.elapsed()
    );
}

/// Callers that go on whatever happens, and what they have seen.
struct Load {
    stop: Arc<AtomicBool>,
    answers: Arc<AtomicU64>,
    calling: Vec<JoinHandle<u64>>,
}

impl Load {
    fn start(caller: &Caller) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let answers = Arc::new(AtomicU64::new(0));
        let calling = (0..16u32).map(|caller_number| {
            let (caller, stop, answers) = (caller.clone(), stop.clone(), answers.clone());
            tokio::spawn(async move {
                let mut failures = 0;
                for call in 0u32.. {
                    if stop.load(Ordering::SeqCst) {
                        break;
                    }
                    let payload = format!("caller {caller_number}, call {call}");
                    match caller.echo(payload.as_bytes()).await {
                        Ok(()) => drop(answers.fetch_add(1, Ordering::SeqCst)),
                        Err(status) => {
                            assert_eq!(status.code(), Code::Unavailable, "{status:?}");
                            failures += 1;
                            sleep(Duration::from_millis(5)).await;
                        }
                    }
                }
                failures
            })
        });
        Self {
            calling: calling.collect(),
            stop,
            answers,
        }
    }

    fn answers(&self) -> u64 {
        self.answers.load(Ordering::SeqCst)
    }

    async fn another(&self, answers: u64) {
        let goal = self.answers() + answers;
        until("answers", || {
            assert!(
                self.calling.iter().all(|it| !it.is_finished()),
                "a caller gave up"
            );
            self.answers() >= goal
        })
        .await;
    }

    /// How many calls were answered, and how many were not.
    async fn end(self) -> (u64, u64) {
        self.stop.store(true, Ordering::SeqCst);
        let ended = soon("the load's end", join_all(self.calling)).await;
        let failures = ended.into_iter().map(|it| it.expect("no panic")).sum();
        (self.answers.load(Ordering::SeqCst), failures)
    }
}

async fn restarted_under_load(arm: Arm) {
    let key = SecretKey::generate();
    let mut server = Server::with_key(&key).await;
    let caller = Caller::new(arm, &server.peer).await;
    let load = Load::start(&caller);
    let mut handled = 0;
    for _ in 0..3 {
        load.another(200).await;
        server.signal();
        server.served().await;
        server.router.shutdown().await.expect("shut down");
        let counts = server.stage.counts();
        assert_eq!(counts.begun, counts.finished, "none was cut");
        handled += counts.finished;
        server = Server::with_key(&key).await;
        caller.links.add_peer(server.peer.clone());
    }
    load.another(200).await;
    let (answers, failures) = load.end().await;
    handled += server.stage.counts().finished;
    assert_eq!(
        handled, answers,
        "each call that a server handled was answered, once; {failures} failed"
    );
}

/// The endpoint stays, and with it the address; only what serves is replaced.
async fn restarted_on_the_same_endpoint(arm: Arm) {
    let endpoint = offline().await;
    let mut server = Server::on(endpoint.clone(), Acceptor::builder());
    let caller = Caller::new(arm, &server.peer).await;
    let load = Load::start(&caller);
    let mut handled = 0;
    for _ in 0..3 {
        load.another(200).await;
        server.signal();
        server.served().await;
        let counts = server.stage.counts();
        assert_eq!(counts.begun, counts.finished, "none was cut");
        handled += counts.finished;
        // tonic is done when it has written everything; the acceptor waits until the peers have received it.
        until("the drain's end", || server.acceptor.connections() == 0).await;
        // The old router would go on to refuse; without it the endpoint is the new one's alone.
        drop(server);
        server = Server::on(endpoint.clone(), Acceptor::builder());
    }
    load.another(200).await;
    let (answers, failures) = load.end().await;
    handled += server.stage.counts().finished;
    assert_eq!(
        handled, answers,
        "each call that a server handled was answered, once; {failures} failed"
    );
}

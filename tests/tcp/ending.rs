//! What a channel makes of connections that end, of servers that go and come back, and of lanes.

use std::time::Duration;

use futures_util::StreamExt as _;
use iroh::SecretKey;
use tokio::{
    net::TcpListener,
    task::JoinSet,
    time::{Instant, sleep},
};
use tonic::Code;
use tower_iroh::{
    Channel, ErrorKind, State, Urgency,
    layers::{Fault, Origin},
    tcp::TcpAcceptor,
};
use tower_iroh_proto::echo::{StreamRequest, echo_client::EchoClient};

use crate::{
    faulty::another_runtime,
    support::{
        Caller, ENDLESS, HANG, HOLD, KINDS, Kind, Server, at, listener, request, soon, until,
    },
};

/// A server on a runtime of its own, which stands for a process of its own.
struct Elsewhere {
    runtime: Option<tokio::runtime::Runtime>,
    server: Server,
}

impl Elsewhere {
    async fn start(key: &SecretKey, listener: TcpListener) -> Self {
        let runtime = another_runtime();
        let key = key.clone();
        let listener = listener.into_std().expect("a socket");
        let started = runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).expect("a socket");
            Server::on(listener, &key, |acceptor| acceptor)
        });
        let server = soon("the server's start", started).await.expect("started");
        Self {
            runtime: Some(runtime),
            server,
        }
    }

    /// Its process is gone: the kernel closes what it had.
    fn kill(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        self.kill();
    }
}

async fn bound_again(addr: std::net::SocketAddr) -> TcpListener {
    let bind = async {
        loop {
            match TcpListener::bind(addr).await {
                Ok(listener) => return listener,
                Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
            }
        }
    };
    soon("the port", bind).await
}

fn incident(error: &tonic::Status) -> u64 {
    match Fault::find(error).expect("a fault").origin() {
        Origin::Link(incident) => incident.get(),
        other => panic!("{other:?}: {error:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_killed_mid_call_is_one_incident_and_its_successor_is_found() {
    let key = SecretKey::generate();
    let mut server = Elsewhere::start(&key, listener().await).await;
    let (addr, stage) = (server.server.addr, server.server.stage.clone());
    let channel = Channel::tcp(SecretKey::generate())
        .peer(server.server.peer.clone())
        .stack(|stack| stack.without_retry().without_fail_fast())
        .build()
        .expect("valid");
    let mut state = channel.state();
    let client = EchoClient::new(channel.clone());

    // On two lanes, so on two TCP connections.
    let call = |urgency: Urgency| {
        let mut client = client.clone();
        tokio::spawn(async move {
            let mut call = tonic::Request::new(request(HANG));
            call.extensions_mut().insert(urgency);
            client.echo(call).await
        })
    };
    let calls = [
        call(Urgency::INTERACTIVE),
        call(Urgency::INTERACTIVE),
        call(Urgency::CONTROL),
    ];
    stage.wait("three calls", |counts| counts.begun == 3).await;
    let asked = StreamRequest {
        count: ENDLESS,
        size: 100,
        interval_ms: 1,
    };
    let stream = client.clone().server_stream(asked).await;
    let mut stream = stream.expect("begun").into_inner();
    stream.message().await.expect("alive").expect("one");
    assert_eq!(*state.borrow_and_update(), State::Ready);
    assert_eq!(channel.stats().expect("connected").open_calls, 4);

    server.kill();
    let mut incidents = Vec::new();
    for call in calls {
        let error = soon("the end", call)
            .await
            .expect("no panic")
            .expect_err("lost");
        assert_eq!(error.code(), Code::Unavailable, "{error:?}");
        assert!(!Fault::find(&error).expect("a fault").not_processed());
        incidents.push(incident(&error));
    }
    let ended = async {
        loop {
            if let Err(error) = stream.message().await {
                return error;
            }
        }
    };
    let error = soon("the stream's end", ended).await;
    assert_eq!(error.code(), Code::Unavailable, "{error:?}");
    incidents.push(incident(&error));
    incidents.dedup();
    assert_eq!(incidents.len(), 1, "{incidents:?}");
    soon("the news", state.wait_for(|state| *state != State::Ready))
        .await
        .expect("watched");

    // Nobody listens now; what is called fails, and the next server is found.
    let _next = Elsewhere::start(&key, bound_again(addr).await).await;
    let recovers = async {
        loop {
            match client.clone().echo(request(b"again")).await {
                Ok(_) => return,
                Err(status) => assert_eq!(status.code(), Code::Unavailable, "{status:?}"),
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    soon("the recovery", recovers).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tonic_s_channel_has_the_same_codes() {
    let key = SecretKey::generate();
    let mut server = Elsewhere::start(&key, listener().await).await;
    let (addr, stage) = (server.server.addr, server.server.stage.clone());
    let caller = Caller::new(Kind::Tonic, &server.server.peer);
    let hanging = {
        let caller = caller.clone();
        tokio::spawn(async move { caller.client().echo(request(HANG)).await })
    };
    stage.wait("the call", |counts| counts.begun == 1).await;
    server.kill();
    let error = soon("the end", hanging)
        .await
        .expect("no panic")
        .expect_err("lost");
    assert_eq!(error.code(), Code::Unavailable, "{error:?}");
    let _next = Elsewhere::start(&key, bound_again(addr).await).await;
    let recovers = async {
        while let Err(status) = caller.echo(b"again").await {
            assert_eq!(status.code(), Code::Unavailable, "{status:?}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    soon("the recovery", recovers).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_never_answers_takes_the_dial_time() {
    // The kernel completes TCP's handshake, nobody does TLS's.
    let silent = listener().await;
    let addr = silent.local_addr().expect("an address");
    for kind in KINDS {
        let caller = Caller::with(
            kind,
            &at(&SecretKey::generate(), addr),
            &SecretKey::generate(),
            |links| links.dial_timeout(Duration::from_millis(300)),
        );
        let began = Instant::now();
        let error = caller.error().await;
        assert_eq!(
            (error.kind(), error.status().code()),
            (ErrorKind::DialTimeout, Code::Unavailable)
        );
        assert!(error.not_processed());
        assert!(began.elapsed() >= Duration::from_millis(290));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_ends_what_can_end_and_cuts_the_rest() {
    let mut server = Server::with(&SecretKey::generate(), |acceptor| {
        acceptor.drain_timeout(Duration::from_secs(3))
    })
    .await;
    let caller = Caller::new(Kind::Channel, &server.peer);
    let holding = {
        let caller = caller.clone();
        tokio::spawn(async move { caller.echo(HOLD).await })
    };
    let hanging = {
        let caller = caller.clone();
        tokio::spawn(async move { caller.echo(HANG).await })
    };
    server.stage.wait("both", |counts| counts.begun == 2).await;
    server.signal();
    let told = async {
        loop {
            // tonic closes the port first, and tells its callers with GOAWAY then.
            if let Err(status) = caller.echo(b"late").await {
                return status;
            }
        }
    };
    let late = soon("the news", told).await;
    assert_eq!(late.code(), Code::Unavailable);
    assert!(
        Fault::find(&late).expect("a fault").not_processed(),
        "{late:?}"
    );

    server.stage.release();
    soon("the held call", holding)
        .await
        .expect("no panic")
        .expect("finished");
    // Looked at last: a SYN that meets the listener's end is sent again only a second later.
    let port_closed = async {
        while tokio::net::TcpStream::connect(server.addr).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    soon("the port's end", port_closed).await;
    let began = Instant::now();
    let cut = soon("the cut", hanging)
        .await
        .expect("no panic")
        .expect_err("cut");
    assert_eq!(cut.code(), Code::Unavailable, "{cut:?}");
    assert!(began.elapsed() < Duration::from_secs(10));
    server.served().await;
    soon("the drain", server.acceptor.drained()).await;
    assert_eq!(server.acceptor.connections(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_lane_has_a_connection_of_its_own_and_an_idle_peer_is_let_go() {
    let server = Server::start().await;
    let caller = Caller::with(
        Kind::Channel,
        &server.peer,
        &SecretKey::generate(),
        |links| links.idle_timeout(Duration::from_millis(300)),
    );
    let id = server.peer.id();
    caller.echo(b"interactive").await.expect("answered");
    assert_eq!(server.acceptor.connections(), 1);
    caller.echo(&[1; 100_000]).await.expect("answered as bulk");
    assert_eq!(server.acceptor.connections(), 2);
    assert_eq!(caller.links.connections(), 1, "one peer");
    until("the peer's end", || caller.links.connections() == 0).await;
    until("the connections' end", || {
        server.acceptor.connections() == 0
    })
    .await;
    assert!(caller.links.stats(id).is_none());
    caller.echo(b"again").await.expect("answered");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn closing_ends_calls_and_the_next_dials_again() {
    let server = Server::start().await;
    let caller = Caller::new(Kind::Channel, &server.peer);
    let hanging = {
        let caller = caller.clone();
        tokio::spawn(async move { caller.error_of(HANG).await })
    };
    server
        .stage
        .wait("the call", |counts| counts.begun == 1)
        .await;
    caller.links.close(server.peer.id());
    let status = soon("the end", hanging).await.expect("no panic");
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert!(
        status.message().contains("closed on this side"),
        "{status:?}"
    );
    caller.echo(b"again").await.expect("answered");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_is_dialled_once_for_all_who_ask_and_pinged() {
    let server = Server::start().await;
    let caller = Caller::with(
        Kind::Channel,
        &server.peer,
        &SecretKey::generate(),
        |links| links.health_interval(Duration::from_millis(500)),
    );
    let calls = (0..50).map(|_| caller.echo(b"at once"));
    for answer in futures_util::future::join_all(calls).await {
        answer.expect("answered");
    }
    assert_eq!(server.acceptor.connections(), 1);
    let id = server.peer.id();
    until("a ping", || {
        let stats = caller.links.stats(id);
        stats.is_some_and(|stats| stats.ping.is_some())
    })
    .await;
}

/// A peer whose kernel and HTTP/2 answer is not silent, however long its handlers take.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_takes_its_time_is_not_dialled_again() {
    let server = Server::start().await;
    let key = SecretKey::generate();
    let caller = Caller::with(Kind::Channel, &server.peer, &key, |links| links);
    caller.echo(b"before").await.expect("answered");
    let state = caller.links.state(server.peer.id());
    let mut hanging = JoinSet::new();
    // Eight looks, each of which finds another request without an answer.
    for _ in 0..8 {
        let caller = caller.clone();
        hanging.spawn(async move { caller.echo(HANG).await });
        sleep(Duration::from_millis(250)).await;
        assert_eq!(*state.borrow(), State::Ready);
    }
    assert_eq!(server.acceptor.connections(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_that_takes_the_connection_and_says_nothing_is_closed_by_pings() {
    let key = SecretKey::generate();
    let (acceptor, mut incoming) = TcpAcceptor::new(listener().await, key.clone()).expect("valid");
    // Its handshake is complete, and then nobody reads.
    let stalled = tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Some(io) = incoming.next().await {
            kept.push(io);
        }
    });
    let peer = at(&key, acceptor.local_addr());
    let caller = Caller::with(Kind::Channel, &peer, &SecretKey::generate(), |links| {
        let hour = Duration::from_secs(3600);
        let links = links.health_interval(Duration::from_millis(150));
        links.backoff(hour, hour)
    });
    let began = Instant::now();
    let error = caller.error().await;
    assert_eq!(
        (error.kind(), error.status().code()),
        (ErrorKind::Lost, Code::Unavailable)
    );
    assert!(!error.not_processed());
    assert!(
        began.elapsed() >= Duration::from_millis(400),
        "{:?}",
        began.elapsed()
    );
    // It never answered, so the next dial waits as after one that failed.
    assert_eq!(caller.refusal().await.0, ErrorKind::Backoff);
    stalled.abort();
}

/// A refused dial fails at once, so probes by a breaker's backoff alone would find the server after twice its absence.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_that_is_back_is_found_at_once() {
    let key = SecretKey::generate();
    let mut server = Server::with(&key, |acceptor| acceptor).await;
    let addr = server.addr;
    let channel = Channel::tcp(SecretKey::generate()).peer(server.peer.clone());
    let channel = channel.timeout(Duration::from_secs(5)).build();
    let client = EchoClient::new(channel.expect("valid"));
    let call = || {
        let mut client = client.clone();
        async move { client.echo(request(b"hello")).await }
    };
    call().await.expect("answered");
    server.signal();
    server.served().await;
    drop(server);
    // Twenty calls a second, which are refused or wait.
    let away = Instant::now();
    let mut calls = tokio::task::JoinSet::new();
    while away.elapsed() < Duration::from_secs(8) {
        calls.spawn(call());
        sleep(Duration::from_millis(50)).await;
    }
    let _server = Server::on(bound_again(addr).await, &key, |acceptor| acceptor);
    let back = Instant::now();
    let found = async {
        while call().await.is_err() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    soon("the server", found).await;
    let found = back.elapsed();
    // The next dial is due 1.25 s later at most; by a breaker's backoff alone it would be 8 s.
    assert!(found < Duration::from_secs(4), "after {found:?}");
    calls.shutdown().await;
}

//! One connection of several to the same peer: what it ends, and what it leaves alone.

use std::{
    net::SocketAddr,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::StreamExt as _;
use iroh::SecretKey;
use tokio::{
    io::AsyncReadExt as _,
    net::TcpStream,
    task::AbortHandle,
    time::{sleep, timeout},
};
use tonic::{Code, Request, Status};
use tower::Layer as _;
use tower_iroh::{
    Channel, ExactCodesLayer, LaneConfig, Lanes, Peer, Urgency,
    tcp::{TcpAcceptor, TcpConnector, TcpLinks},
};
use tower_iroh_proto::echo::{StreamRequest, echo_client::EchoClient};

use crate::{
    faulty::another_runtime,
    support::{
        Caller, Client, ENDLESS, HANG, HOLD, Kind, Server, Service, at, listener, request, soon,
        until,
    },
};

/// What stands between a client and its server: it counts connections, delays them, and cuts them.
struct Between {
    peer: Peer,
    count: Arc<AtomicUsize>,
    delay: Arc<Mutex<Duration>>,
    connections: Arc<Mutex<Vec<AbortHandle>>>,
}

impl Between {
    async fn new(server: &Server) -> Self {
        let listener = listener().await;
        let addr = listener.local_addr().expect("an address");
        let between = Self {
            peer: Peer::new(server.peer.id()).with_tcp(addr),
            count: Arc::default(),
            delay: Arc::default(),
            connections: Arc::default(),
        };
        let (count, delay) = (between.count.clone(), between.delay.clone());
        let (connections, onward) = (between.connections.clone(), server.addr);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::SeqCst);
                let delay = *delay.lock().expect("whole");
                let task = tokio::spawn(forward(stream, onward, delay)).abort_handle();
                connections.lock().expect("whole").push(task);
            }
        });
        between
    }

    fn count(&self) -> usize {
        self.count.load(Ordering::SeqCst)
    }

    fn delay(&self, delay: Duration) {
        *self.delay.lock().expect("whole") = delay;
    }

    /// Cuts a connection, counted from 0.
    fn cut(&self, which: usize) {
        self.connections.lock().expect("whole")[which].abort();
    }
}

async fn forward(mut near: TcpStream, onward: SocketAddr, delay: Duration) {
    sleep(delay).await;
    let Ok(mut far) = TcpStream::connect(onward).await else {
        return;
    };
    let _ = tokio::io::copy_bidirectional(&mut near, &mut far).await;
}

async fn one_per_peer() -> Server {
    let key = SecretKey::generate();
    Server::with(&key, |acceptor| acceptor.max_connections_per_peer(1)).await
}

fn endless() -> StreamRequest {
    StreamRequest {
        count: ENDLESS,
        size: 8,
        interval_ms: 1,
    }
}

async fn echo(client: &Client, urgency: Urgency) -> Result<(), Status> {
    let mut call = Request::new(request(b"hello"));
    call.extensions_mut().insert(urgency);
    let mut client = client.clone();
    soon("an answer", client.echo(call)).await.map(|_| ())
}

/// A client of the program's own stack, without what would hide a failure.
fn bare(links: &TcpLinks, peer: &Peer) -> Client {
    let channel = Channel::with_tcp_links(links.clone()).peer(peer.clone());
    let channel = channel.stack(|stack| stack.without_retry().without_breaker());
    EchoClient::new(Service::new(channel.build().expect("valid")))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_connection_leaves_the_others_of_its_connector_alone() {
    let server = one_per_peer().await;
    let between = Between::new(&server).await;
    let links = TcpLinks::new(SecretKey::generate());
    links.add_peer(between.peer.clone());
    let connector = TcpConnector::with_links(links.clone());
    let channel = || {
        let endpoint = tonic::transport::Endpoint::from(between.peer.uri());
        let channel = endpoint.connect_with_connector_lazy(connector.clone());
        EchoClient::new(Service::new(ExactCodesLayer.layer(channel)))
    };
    let mut first = channel();
    let stream = first.server_stream(endless()).await.expect("begun");
    let mut stream = stream.into_inner();
    soon("a message", stream.message()).await.expect("alive");

    let second = channel();
    let refused = async {
        loop {
            let refused = echo(&second, Urgency::default()).await;
            let refused = refused.expect_err("refused");
            if refused.code() == Code::ResourceExhausted {
                return;
            }
            // hyper says no more of a connection that is gone before the call was handed to it.
            assert_eq!(refused.code(), Code::Unavailable, "{refused:?}");
        }
    };
    soon("the reason", refused).await;
    for _ in 0..50 {
        let message = soon("a message", stream.message()).await;
        message.expect("it goes on").expect("without an end");
    }
    // However often it is tried, a server that is full is not stormed.
    let before = between.count();
    for _ in 0..200 {
        echo(&second, Urgency::default()).await.expect_err("full");
    }
    let tried = between.count() - before;
    assert!(tried <= 5, "{tried} dials for 200 calls");
    drop((first, stream));
    let let_in = async {
        while echo(&second, Urgency::default()).await.is_err() {
            sleep(Duration::from_millis(20)).await;
        }
    };
    soon("room", let_in).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_lane_fails_its_own_calls_and_its_reason_stays_its_own() {
    let server = one_per_peer().await;
    let between = Between::new(&server).await;
    let links = TcpLinks::new(SecretKey::generate());
    let client = bare(&links, &between.peer);
    let stream = client.clone().server_stream(endless()).await;
    let mut stream = stream.expect("begun").into_inner();
    soon("a message", stream.message()).await.expect("alive");
    for _ in 0..200 {
        let refused = echo(&client, Urgency::BULK).await.expect_err("refused");
        assert_eq!(refused.code(), Code::ResourceExhausted, "{refused:?}");
        assert!(refused.message().contains("connection"), "{refused:?}");
    }
    let tried = between.count() - 1;
    assert!(tried <= 5, "{tried} dials for 200 calls");
    echo(&client, Urgency::INTERACTIVE)
        .await
        .expect("the other lane stays");
    soon("a message", stream.message())
        .await
        .expect("and its stream");
    assert_eq!(links.connections(), 1);

    // The lane that works is lost in its turn, for a reason of its own.
    between.cut(0);
    let lost = async {
        loop {
            if let Err(lost) = stream.message().await {
                return lost;
            }
        }
    };
    let lost = soon("the end", lost).await;
    assert_eq!(lost.code(), Code::Unavailable, "{lost:?}");
    assert!(!lost.message().contains("refused"), "{lost:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_connection_leaves_the_other_lanes_alone() {
    let server = Server::start().await;
    let between = Between::new(&server).await;
    let links = TcpLinks::new(SecretKey::generate());
    let client = bare(&links, &between.peer);
    echo(&client, Urgency::INTERACTIVE).await.expect("answered");
    let mut hanging = Request::new(request(HANG));
    hanging.extensions_mut().insert(Urgency::CONTROL);
    let hanging = {
        let mut client = client.clone();
        tokio::spawn(async move { client.echo(hanging).await })
    };
    server.stage.wait("both", |counts| counts.begun == 2).await;
    assert_eq!(between.count(), 2);
    between.cut(0);
    until("the end of one", || server.acceptor.connections() == 1).await;
    // A call may meet the connection's end itself.
    let answered = async { while echo(&client, Urgency::INTERACTIVE).await.is_err() {} };
    soon("an answer", answered).await;
    assert_eq!(between.count(), 3, "one for the one that was lost");
    assert!(!hanging.is_finished());
    hanging.abort();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lane_opens_though_every_call_is_shorter_than_its_dial() {
    let server = Server::start().await;
    let between = Between::new(&server).await;
    let links = TcpLinks::new(SecretKey::generate());
    let client = bare(&links, &between.peer);
    echo(&client, Urgency::INTERACTIVE).await.expect("answered");
    between.delay(Duration::from_secs(3));
    let mut answers = Vec::new();
    for _ in 0..3 {
        let mut call = Request::new(request(b"heartbeat"));
        call.set_timeout(Duration::from_millis(1500));
        call.extensions_mut().insert(Urgency::CONTROL);
        let answer = soon("an answer", client.clone().echo(call)).await;
        answers.push(answer.map_or_else(|status| status.code(), |_| Code::Ok));
        until("the lane", || server.acceptor.connections() == 2).await;
    }
    assert_eq!(answers, [Code::DeadlineExceeded, Code::Ok, Code::Ok]);
    assert_eq!(between.count(), 2, "one dial for the lane");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_wait_leave_a_link_that_takes_no_more() {
    let key = SecretKey::generate();
    let servers = [
        Server::with(&key, |acceptor| acceptor).await,
        Server::with(&key, |acceptor| acceptor).await,
    ];
    let lane = LaneConfig::new(0..=7).max_streams(1).calls_per_stream(1);
    let links = TcpLinks::builder(SecretKey::generate()).lanes(Lanes::new([lane]));
    let links = links.build().expect("valid");
    let client = bare(&links, &servers[0].peer);
    let stream = client.clone().server_stream(endless()).await;
    let mut stream = stream.expect("begun").into_inner();
    let waiting: Vec<_> = (0..10)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { echo(&client, Urgency::default()).await })
        })
        .collect();
    sleep(Duration::from_millis(50)).await;
    assert!(waiting.iter().all(|call| !call.is_finished()));
    // The peer is elsewhere now. What waits goes there, what it has goes on.
    links.add_peer(servers[1].peer.clone());
    for call in waiting {
        let answer = soon("an answer", call).await.expect("no panic");
        answer.expect("answered elsewhere");
    }
    assert_eq!(servers[1].stage.counts().begun, 10);
    soon("a message", stream.message()).await.expect("alive");
    assert_eq!(servers[0].acceptor.connections(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_servers_limit_makes_further_streams_and_the_urgent_go_first() {
    let key = SecretKey::generate();
    let (acceptor, incoming) = TcpAcceptor::new(listener().await, key.clone()).expect("valid");
    let server = Server::serving(acceptor, incoming, &key, |server| {
        server.max_concurrent_streams(10)
    });
    let lane = LaneConfig::new(0..=7).max_streams(3);
    let links = TcpLinks::builder(SecretKey::generate()).lanes(Lanes::new([lane]));
    let links = links.build().expect("valid");
    let client = bare(&links, &server.peer);
    echo(&client, Urgency::default()).await.expect("answered");
    let mut hanging = tokio::task::JoinSet::new();
    let mut handles = Vec::new();
    for _ in 0..30 {
        let mut client = client.clone();
        let call = async move { client.echo(request(HANG)).await.map(|_| ()) };
        handles.push(hanging.spawn(call));
    }
    let stage = &server.stage;
    stage.wait("thirty", |counts| counts.begun == 31).await;
    assert_eq!(server.acceptor.connections(), 3);

    let order = Mutex::new(Vec::new());
    let call = |urgency| {
        let (client, order) = (&client, &order);
        async move {
            echo(client, urgency).await.expect("answered in the end");
            order.lock().expect("whole").push(urgency);
        }
    };
    let calls = async { tokio::join!(call(Urgency::LOWEST), call(Urgency::HIGHEST)) };
    let room = async {
        sleep(Duration::from_millis(50)).await;
        assert_eq!(stage.counts().begun, 31, "both wait on this side");
        handles[0].abort();
    };
    tokio::join!(calls, room);
    let order = order.into_inner().expect("whole");
    assert_eq!(order, [Urgency::HIGHEST, Urgency::LOWEST]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_came_before_the_servers_limit_was_known_are_spread_as_well() {
    let key = SecretKey::generate();
    let (acceptor, incoming) = TcpAcceptor::new(listener().await, key.clone()).expect("valid");
    let server = Server::serving(acceptor, incoming, &key, |server| {
        server.max_concurrent_streams(10)
    });
    let lane = LaneConfig::new(0..=7).max_streams(3);
    let links = TcpLinks::builder(SecretKey::generate()).lanes(Lanes::new([lane]));
    let channel = Channel::with_tcp_links(links.build().expect("valid"));
    // With retries: the server refuses what it has not said that it does not take.
    let channel = channel.peer(server.peer.clone()).build();
    let client = EchoClient::new(channel.expect("valid"));
    let mut calls = tokio::task::JoinSet::new();
    for _ in 0..30 {
        let mut client = client.clone();
        calls.spawn(async move { client.echo(request(HOLD)).await.map(|_| ()) });
    }
    server
        .stage
        .wait("all at once", |counts| counts.begun == 30)
        .await;
    assert_eq!(server.acceptor.connections(), 3);
    server.stage.release();
    for answer in soon("the answers", calls.join_all()).await {
        answer.expect("answered");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_wait_for_the_stream_that_is_open_where_the_server_takes_no_further_one() {
    let key = SecretKey::generate();
    let acceptor = TcpAcceptor::builder(key.clone()).max_connections_per_peer(1);
    let (acceptor, incoming) = acceptor.build(listener().await).expect("valid");
    let server = Server::serving(acceptor, incoming, &key, |server| {
        server.max_concurrent_streams(10)
    });
    let lane = LaneConfig::new(0..=7).max_streams(2);
    let links = TcpLinks::builder(SecretKey::generate()).lanes(Lanes::new([lane]));
    let client = bare(&links.build().expect("valid"), &server.peer);
    echo(&client, Urgency::default()).await.expect("answered");
    let hold = || {
        let mut client = client.clone();
        tokio::spawn(async move { client.echo(request(HOLD)).await.map(|_| ()) })
    };
    let holding: Vec<_> = (0..10).map(|_| hold()).collect();
    let stage = &server.stage;
    stage.wait("ten", |counts| counts.begun == 11).await;
    // The first call beyond is refused with its connection, and waits where it had not left yet.
    let mut beyond = hold();
    let refused = timeout(Duration::from_secs(1), &mut beyond).await;
    if let Ok(refused) = &refused {
        let refused = refused.as_ref().expect("no panic").as_ref();
        assert_eq!(refused.expect_err("full").code(), Code::ResourceExhausted);
    }
    let beyond = refused.is_err().then_some(beyond);
    // After that calls wait, also while the next connections are tried.
    let waiting: Vec<_> = beyond.into_iter().chain((0..20).map(|_| hold())).collect();
    sleep(Duration::from_millis(700)).await;
    assert!(waiting.iter().all(|call| !call.is_finished()));
    stage.release();
    for call in holding.into_iter().chain(waiting) {
        let answer = soon("an answer", call).await.expect("no panic");
        answer.expect("answered");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_end_with_their_runtime_and_calls_go_on_on_another() {
    let server = Server::start().await;
    let away = another_runtime();
    let links = TcpLinks::builder(SecretKey::generate()).runtime(away.handle().clone());
    let links = links.build().expect("valid");
    let client = bare(&links, &server.peer);
    echo(&client, Urgency::default()).await.expect("answered");
    let hanging = {
        let mut client = client.clone();
        tokio::spawn(async move { client.echo(request(HANG)).await })
    };
    server
        .stage
        .wait("the call", |counts| counts.begun == 2)
        .await;
    away.shutdown_background();
    let lost = soon("the end", hanging).await.expect("no panic");
    assert_eq!(lost.expect_err("lost").code(), Code::Unavailable);
    let recovers = async {
        while let Err(status) = echo(&client, Urgency::default()).await {
            assert_eq!(status.code(), Code::Unavailable, "{status:?}");
        }
    };
    soon("the recovery", recovers).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_that_nobody_uses_any_more_says_goodbye() {
    let key = SecretKey::generate();
    let (acceptor, mut incoming) = TcpAcceptor::new(listener().await, key.clone()).expect("valid");
    let peer = at(&key, acceptor.local_addr());
    let caller = Caller::new(Kind::Channel, &peer);
    let call = {
        let caller = caller.clone();
        tokio::spawn(async move { caller.echo(b"hello").await })
    };
    let io = soon("a connection", incoming.next()).await;
    let mut io = io.expect("one").expect("accepted");
    let mut said = vec![0; 24];
    soon("the preface", io.read_exact(&mut said))
        .await
        .expect("said");
    call.abort();
    let _ = call.await;
    drop(caller);
    // TLS without close_notify would be an unexpected end.
    soon("the end", io.read_to_end(&mut said))
        .await
        .expect("not cut off");
    // The last frame is GOAWAY without an error: its type, flags, stream, last stream and reason.
    let goaway = [7, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    assert!(said.ends_with(&goaway), "{said:?}");
}

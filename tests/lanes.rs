//! Which lane a call takes, seen from the server; and what lanes do for each other.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use iroh::{Endpoint, protocol::Router};
use tonic::{Request, Status, service::interceptor::InterceptedService};
use tower_iroh::{
    Acceptor, Channel, Connector, LaneConfig, Lanes, Links, Peer, PeerInfo, Urgency, presets,
};
use tower_iroh_proto::{
    EchoService,
    echo::{EchoRequest, StreamRequest, echo_client::EchoClient, echo_server::EchoServer},
};

/// What the server saw of a call: its lane's urgency and its `priority` header.
type Seen = Arc<Mutex<Vec<(u8, Option<String>)>>>;

struct World {
    router: Router,
    seen: Seen,
    endpoint: Endpoint,
    peer: Peer,
}

impl World {
    async fn new() -> Self {
        let server = Endpoint::bind(presets::Offline).await.expect("bound");
        let peer = Peer::of(&server).expect("dialable");
        let (acceptor, incoming) = Acceptor::new();
        let router = acceptor.router(server).spawn();
        let seen = Seen::default();
        let record = seen.clone();
        let echo = InterceptedService::new(
            EchoServer::new(EchoService)
                .max_decoding_message_size(64 << 20)
                .max_encoding_message_size(64 << 20),
            move |request: Request<()>| {
                let info = request.extensions().get::<PeerInfo>();
                let info = info.ok_or_else(|| Status::internal("no PeerInfo"))?;
                let header = request.metadata().get("priority");
                let header = header.and_then(|value| value.to_str().ok());
                let call = (info.urgency().get(), header.map(str::to_owned));
                record.lock().expect("whole").push(call);
                Ok(request)
            },
        );
        tokio::spawn(
            tonic::transport::Server::builder()
                .add_service(echo)
                .serve_with_incoming_shutdown(incoming, std::future::pending()),
        );
        let endpoint = Endpoint::bind(presets::Offline).await.expect("bound");
        Self {
            router,
            seen,
            endpoint,
            peer,
        }
    }

    fn client(&self, lanes: Lanes) -> EchoClient<Channel> {
        let channel = Channel::builder(self.endpoint.clone())
            .peer(self.peer.clone())
            .lanes(lanes)
            .build()
            .expect("valid");
        EchoClient::new(channel)
            .max_decoding_message_size(64 << 20)
            .max_encoding_message_size(64 << 20)
    }

    fn last(&self) -> (u8, Option<String>) {
        let seen = self.seen.lock().expect("whole");
        seen.last().expect("a call").clone()
    }

    async fn end(self) {
        self.endpoint.close().await;
        self.router.shutdown().await.expect("no panic");
    }
}

fn request(size: usize, urgency: Option<Urgency>) -> Request<EchoRequest> {
    let mut request = Request::new(EchoRequest {
        payload: vec![7; size].into(),
    });
    if let Some(urgency) = urgency {
        request.extensions_mut().insert(urgency);
    }
    request
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn urgency_and_size_choose_the_lane_and_the_header_tells_the_peer() {
    let world = World::new().await;
    let mut client = world.client(Lanes::standard());
    let header = |text: &str| Some(text.to_owned());
    for (size, urgency, expected) in [
        (64, None, (3, None)),
        (64, Some(Urgency::INTERACTIVE), (3, None)),
        (64, Some(Urgency::HIGHEST), (1, header("u=0"))),
        (64, Some(Urgency::CONTROL), (1, header("u=1"))),
        (64, Some(Urgency::BULK), (6, header("u=6"))),
        // A message that is large is bulk and says so; what the caller asked for is told as it was asked.
        (64 * 1024, None, (6, header("u=6"))),
        (1 << 20, Some(Urgency::CONTROL), (6, header("u=1"))),
    ] {
        let answer = client.echo(request(size, urgency)).await.expect("answered");
        assert_eq!(answer.into_inner().payload.len(), size);
        assert_eq!(world.last(), expected, "{size} bytes, {urgency:?}");
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_raft_preset_keeps_heartbeats_and_elections_apart() {
    let world = World::new().await;
    let mut client = world.client(Lanes::raft());
    for (asked, lane) in [(0, 0), (1, 1), (2, 3), (4, 3), (5, 6), (7, 6)] {
        let urgency = Urgency::new(asked).expect("in range");
        let call = request(8, Some(urgency));
        client.echo(call).await.expect("answered");
        assert_eq!(world.last().0, lane, "urgency {asked}");
    }
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn more_calls_than_a_lane_holds_wait_and_are_all_answered() {
    let world = World::new().await;
    let lane = LaneConfig::new(0..=7).max_streams(2).calls_per_stream(5);
    let client = world.client(Lanes::new([lane]));
    let calls = (0..200).map(|n| {
        let mut client = client.clone();
        async move {
            let payload = vec![n as u8; n];
            let sent = EchoRequest {
                payload: payload.clone().into(),
            };
            let answer = client.echo(sent).await.expect("answered").into_inner();
            assert_eq!(answer.payload, payload);
        }
    });
    futures_util::future::join_all(calls).await;
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_lane_refuses_only_beyond_its_queue_and_the_urgent_pass_the_queue() {
    let world = World::new().await;
    let lane = LaneConfig::new(0..=7)
        .max_streams(1)
        .calls_per_stream(1)
        .max_waiting(2);
    let client = world.client(Lanes::new([lane]));
    // A stream without an end holds the one place.
    let mut holder = client.clone();
    let endless = StreamRequest {
        count: u32::MAX,
        size: 8,
        interval_ms: 5,
    };
    let held = holder.server_stream(endless).await.expect("begun");

    let order = Mutex::new(Vec::new());
    let answered = |urgency| {
        let (mut client, order) = (client.clone(), &order);
        Box::pin(async move {
            let answer = client.echo(request(8, Some(urgency))).await;
            answer.expect("answered in the end");
            order.lock().expect("whole").push(urgency);
        })
    };
    let (mut bulk, mut control) = (answered(Urgency::BULK), answered(Urgency::CONTROL));
    // The connection is there, so one poll brings each into the queue.
    assert!(futures_util::poll!(&mut bulk).is_pending());
    assert!(futures_util::poll!(&mut control).is_pending());
    let refused = client.clone().echo(request(8, None)).await;
    let refused = refused.expect_err("two wait already");
    assert_eq!(refused.code(), tonic::Code::ResourceExhausted);
    assert!(refused.message().contains("lane is full"), "{refused:?}");
    drop(held);
    futures_util::future::join(bulk, control).await;
    let order = order.into_inner().expect("whole");
    assert_eq!(order, [Urgency::CONTROL, Urgency::BULK]);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn control_calls_stay_quick_beside_bulk_and_bulk_goes_on_beside_interactive() {
    let world = World::new().await;
    let client = world.client(Lanes::standard());
    client.clone().echo(request(8, None)).await.expect("warm");

    let ends = Instant::now() + Duration::from_secs(2);
    let mut load = tokio::task::JoinSet::new();
    for (size, urgency) in [(1 << 20, Urgency::BULK), (32 << 10, Urgency::INTERACTIVE)] {
        for _ in 0..4 {
            let mut client = client.clone();
            load.spawn(async move {
                let mut calls = 0u64;
                while Instant::now() < ends {
                    let answer = client.echo(request(size, Some(urgency))).await;
                    assert_eq!(answer.expect("answered").into_inner().payload.len(), size);
                    calls += 1;
                }
                (urgency, calls * size as u64)
            });
        }
    }
    let mut control = Vec::new();
    while Instant::now() < ends {
        let begun = Instant::now();
        let answer = client
            .clone()
            .echo(request(8, Some(Urgency::CONTROL)))
            .await;
        answer.expect("answered");
        control.push(begun.elapsed());
    }
    let (mut bulk, mut interactive) = (0, 0);
    while let Some(done) = load.join_next().await {
        match done.expect("no panic") {
            (Urgency::BULK, bytes) => bulk += bytes,
            (_, bytes) => interactive += bytes,
        }
    }
    control.sort();
    let median = control[control.len() / 2];
    println!(
        "control median {median:?} of {}; bulk {bulk}, interactive {interactive} bytes",
        control.len()
    );
    assert!(median < Duration::from_millis(100), "{median:?}");
    assert!(
        bulk * 20 >= interactive,
        "bulk {bulk}, interactive {interactive}"
    );

    let lanes: HashSet<u8> = world
        .seen
        .lock()
        .expect("whole")
        .iter()
        .map(|call| call.0)
        .collect();
    assert_eq!(lanes, HashSet::from([1, 3, 6]));
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_wait_leave_a_connection_that_is_lost_though_its_streams_are_not_read() {
    let world = World::new().await;
    let lane = LaneConfig::new(0..=7).max_streams(1).calls_per_stream(1);
    let links = Links::builder(world.endpoint.clone()).lanes(Lanes::new([lane]));
    let links = links.build().expect("valid");
    let channel = Channel::with_links(links.clone()).peer(world.peer.clone());
    let client = EchoClient::new(channel.build().expect("valid"));
    let endless = StreamRequest {
        count: u32::MAX,
        size: 8,
        interval_ms: 5,
    };
    let mut holder = client.clone();
    // Held and never read: it keeps its place.
    let held = holder.server_stream(endless).await.expect("begun");
    let mut waiting = client.clone();
    let mut waiting = Box::pin(async move { waiting.echo(request(8, None)).await });
    assert!(futures_util::poll!(&mut waiting).is_pending());
    links.close(world.peer.id());
    let answer = tokio::time::timeout(Duration::from_secs(10), waiting).await;
    answer.expect("in time").expect("answered on another");
    drop(held);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn lanes_end_with_their_runtime_and_calls_go_on_on_another() {
    let world = World::new().await;
    let away = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime");
    let links = Links::builder(world.endpoint.clone()).runtime(away.handle().clone());
    let links = links.build().expect("valid");
    let channel = Channel::with_links(links.clone()).peer(world.peer.clone());
    let client = EchoClient::new(channel.build().expect("valid"));
    let call = || {
        let mut client = client.clone();
        async move { client.echo(request(8, None)).await }
    };
    call().await.expect("answered");
    away.shutdown_background();
    // A call may meet the end itself; nobody hangs, and nobody panics.
    let recovers = async {
        while let Err(status) = call().await {
            assert_eq!(status.code(), tonic::Code::Unavailable, "{status:?}");
        }
    };
    let recovered = tokio::time::timeout(Duration::from_secs(10), recovers).await;
    recovered.expect("in time");
    // Not closed: QUIC's own task of the first connection has ended with its runtime, and an endpoint's close waits for it.
    drop(world);
}

/// Watches and subscriptions that stay open take no call's place.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn five_hundred_open_streams_hold_up_no_call() {
    let world = World::new().await;
    let channel = Channel::builder(world.endpoint.clone()).peer(world.peer.clone());
    let channel = channel.build().expect("valid");
    let mut client = EchoClient::new(channel.clone());
    let mut open = Vec::new();
    for _ in 0..500 {
        let call = StreamRequest {
            count: 2,
            size: 1,
            interval_ms: 3_600_000,
        };
        let begun = tokio::time::timeout(Duration::from_secs(5), client.server_stream(call));
        let messages = begun.await.expect("no place is waited for");
        open.push(messages.expect("begun").into_inner());
    }
    let echo = client.echo(request(10, None));
    let echo = tokio::time::timeout(Duration::from_secs(5), echo).await;
    echo.expect("no place is waited for").expect("answered");
    let stats = channel.stats().expect("connected");
    assert_eq!((stats.open_calls, stats.waiting_calls), (500, 0), "{stats}");
    drop(open);
    world.end().await;
}

/// One lane's limit, where it has one: who waits is counted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn calls_that_wait_for_a_permit_are_counted() {
    let world = World::new().await;
    let one = LaneConfig::new(0..=7).max_streams(1).calls_per_stream(1);
    let channel = Channel::builder(world.endpoint.clone());
    let channel = channel.peer(world.peer.clone()).lanes(Lanes::new([one]));
    let channel = channel.build().expect("valid");
    let mut client = EchoClient::new(channel.clone());
    let held = StreamRequest {
        count: 2,
        size: 1,
        interval_ms: 3_600_000,
    };
    let held = client.server_stream(held).await.expect("begun");
    let waits: Vec<_> = (0..3)
        .map(|_| {
            let mut client = client.clone();
            tokio::spawn(async move { client.echo(request(1, None)).await })
        })
        .collect();
    let counted = async {
        while channel.stats().expect("connected").waiting_calls < 3 {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    let counted = tokio::time::timeout(Duration::from_secs(5), counted);
    counted.await.expect("three wait");
    drop(held);
    for call in waits {
        call.await.expect("no panic").expect("answered");
    }
    assert_eq!(channel.stats().expect("connected").waiting_calls, 0);
    world.end().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn twenty_tonic_channels_share_one_connector() {
    let world = World::new().await;
    let connector = Connector::new(world.endpoint.clone());
    connector.add_peer(world.peer.clone());
    let mut clients = Vec::new();
    for _ in 0..20 {
        let endpoint = tonic::transport::Endpoint::from(world.peer.uri());
        let channel = endpoint.connect_with_connector_lazy(connector.clone());
        let mut client = EchoClient::new(channel);
        client.echo(request(10, None)).await.expect("answered");
        clients.push(client);
    }
    assert_eq!(connector.links().connections(), 1);
    world.end().await;
}

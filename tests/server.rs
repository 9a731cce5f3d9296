//! One server on both transports: every service on each, one drain, and what happens where one cannot be bound.

// Nothing is public in a test binary.
#![allow(unreachable_pub)]

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use iroh::{Endpoint, SecretKey};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinHandle,
    time::Instant,
};
use tonic::{Code, transport::Server as Tonic};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tower_iroh::{
    Channel, Peer, PeerError, PeerInfo, Require, Server, ServerBuilder, ServerError, ServerHandle,
    TransportKind, presets::Offline,
};
use tower_iroh_proto::{
    EchoService,
    echo::{StreamRequest, echo_client::EchoClient, echo_server::EchoServer},
};

#[path = "faults/support.rs"]
#[allow(
    dead_code,
    unused_macros,
    unused_imports,
    reason = "its services and its waits"
)]
mod faulty;

use faulty::{ENDLESS, Faulty, HANG, HOLD, Stage, request, soon};

const ANYWHERE: ([u8; 4], u16) = ([127, 0, 0, 1], 0);

async fn endpoint(key: &SecretKey) -> Endpoint {
    let bound = Endpoint::builder(Offline)
        .secret_key(key.clone())
        .bind()
        .await;
    bound.expect("127.0.0.1 is there")
}

/// A client's endpoint, which is kept so that its peers are told of its end, and a channel over each transport.
async fn channels(key: &SecretKey, peer: &Peer) -> (Endpoint, [Channel; 2]) {
    let endpoint = endpoint(key).await;
    let over_iroh = Channel::builder(endpoint.clone()).peer(peer.clone());
    let over_tcp = Channel::tcp(key.clone()).peer(peer.clone());
    let both = [over_iroh.build(), over_tcp.build()];
    (endpoint, both.map(|channel| channel.expect("valid")))
}

struct Running {
    peer: Peer,
    handle: ServerHandle,
    stage: Stage,
    serving: JoinHandle<Result<(), ServerError>>,
}

async fn run(builder: ServerBuilder) -> Running {
    let server = builder.bind().await.expect("bound");
    let (peer, handle) = (server.addresses().expect("dialable"), server.handle());
    let stage = Stage::default();
    let services = Tonic::builder().add_service(EchoServer::new(Faulty(stage.clone())));
    Running {
        peer,
        handle,
        stage,
        serving: tokio::spawn(
            server.serve(|incoming, stopped| {
                services.serve_with_incoming_shutdown(incoming, stopped)
            }),
        ),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_service_and_layer_is_on_both() {
    let (ours, theirs) = (SecretKey::generate(), SecretKey::generate());
    let server = Server::builder()
        .endpoint(endpoint(&theirs).await)
        .tcp(ANYWHERE.into())
        .bind()
        .await
        .expect("bound");
    assert_eq!(server.id(), theirs.public());
    let (peer, handle) = (server.addresses().expect("dialable"), server.handle());
    assert_eq!(peer.id(), theirs.public());
    assert!(
        peer.addr().ip_addrs().count() > 0 && peer.tcp().is_some(),
        "{peer:?}"
    );

    let (reporter, health) = tonic_health::server::health_reporter();
    reporter.set_serving::<EchoServer<EchoService>>().await;
    let callers = Arc::<Mutex<Vec<PeerInfo>>>::default();
    let noted = callers.clone();
    let note = move |request: tonic::Request<()>| {
        let info = request.extensions().get::<PeerInfo>().expect("a PeerInfo");
        noted.lock().expect("not poisoned").push(info.clone());
        Ok(request)
    };
    let services = Tonic::builder()
        .layer(tower_iroh::RemoteAddrLayer)
        .add_service(EchoServer::with_interceptor(EchoService, note))
        .add_service(health);
    let serving = tokio::spawn(
        server.serve(|incoming, stopped| services.serve_with_incoming_shutdown(incoming, stopped)),
    );

    let (client, channels) = channels(&ours, &peer).await;
    for channel in channels {
        let transport = channel.transports().next().expect("one");
        let mut echo = EchoClient::new(channel.clone());
        let answer = soon("an answer", echo.echo(request(b"hello"))).await;
        assert_eq!(
            answer.expect("answered").into_inner().payload[..],
            *b"hello"
        );
        let asked = StreamRequest {
            count: 3,
            size: 10,
            interval_ms: 0,
        };
        let mut stream = echo.server_stream(asked).await.expect("begun").into_inner();
        let mut came = 0;
        while stream.message().await.expect("alive").is_some() {
            came += 1;
        }
        assert_eq!(came, 3);
        let mut health = HealthClient::new(channel.clone());
        let answer = health
            .check(HealthCheckRequest::default())
            .await
            .expect("answered");
        assert_eq!(answer.into_inner().status, 1, "serving");
        let told = std::mem::take(&mut *callers.lock().expect("not poisoned"));
        assert_eq!(told.len(), 2, "two calls to the echo service");
        for info in told {
            assert_eq!(
                (info.id(), info.transport()),
                (Some(ours.public()), transport)
            );
            assert!(info.remote_addr().expect("an address").ip().is_loopback());
        }
    }
    client.close().await;
    handle.shutdown();
    soon("the end", serving)
        .await
        .expect("no panic")
        .expect("served");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_signal_drains_both_and_closes_both_ports() {
    let drain = Duration::from_secs(3);
    let key = SecretKey::generate();
    let running = run(Server::builder()
        .endpoint(endpoint(&key).await)
        .tcp(ANYWHERE.into())
        .drain_timeout(drain))
    .await;
    let ours = SecretKey::generate();
    let (client, channels) = channels(&ours, &running.peer).await;
    let mut held = Vec::new();
    let mut hanging = Vec::new();
    let mut streams = Vec::new();
    for channel in &channels {
        let client = EchoClient::new(channel.clone());
        for (calls, payload) in [(&mut held, HOLD), (&mut hanging, HANG)] {
            let mut client = client.clone();
            calls.push(tokio::spawn(
                async move { client.echo(request(payload)).await },
            ));
        }
        let asked = StreamRequest {
            count: ENDLESS,
            size: 10,
            interval_ms: 1,
        };
        let stream = client.clone().server_stream(asked).await;
        let mut stream = stream.expect("begun").into_inner();
        stream.message().await.expect("alive").expect("one");
        streams.push(stream);
    }
    running
        .stage
        .wait("all calls", |counts| counts.begun == 6)
        .await;

    running.handle.shutdown();
    let signalled = Instant::now();
    // What was begun may finish.
    running.stage.release();
    for call in held {
        let answer = soon("a held call", call).await.expect("no panic");
        assert_eq!(answer.expect("finished").into_inner().payload[..], *HOLD);
    }
    // Looked at after that: a SYN that meets the listener's end is sent again only a second later.
    let tcp: SocketAddr = running
        .peer
        .tcp()
        .expect("TCP")
        .to_string()
        .parse()
        .expect("an address");
    let closed = async {
        while TcpStream::connect(tcp).await.is_ok() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    soon("the TCP port's end", closed).await;
    // What does not is cut, and it is said so.
    for call in hanging {
        let cut = soon("a hanging call", call)
            .await
            .expect("no panic")
            .expect_err("cut");
        assert_eq!(cut.code(), Code::Unavailable, "{cut:?}");
    }
    for mut stream in streams {
        let ended = async {
            loop {
                match stream.message().await {
                    Ok(Some(_)) => {}
                    Ok(None) => panic!("an endless stream has no end"),
                    Err(status) => return status,
                }
            }
        };
        let ended = soon("a stream", ended).await;
        assert_eq!(ended.code(), Code::Unavailable, "{ended:?}");
    }
    soon("the end", running.serving)
        .await
        .expect("no panic")
        .expect("served");
    let took = signalled.elapsed();
    assert!(
        took >= drain && took < drain + Duration::from_secs(4),
        "{took:?}"
    );
    // Both ports are free again.
    TcpListener::bind(tcp).await.expect("free");
    for addr in running.peer.addr().ip_addrs() {
        let free = async {
            while tokio::net::UdpSocket::bind(addr).await.is_err() {
                tokio::time::sleep(Duration::from_millis(2)).await;
            }
        };
        soon("the UDP port's end", free).await;
    }
    drop(client);
}

/// A builder whose endpoint cannot be bound, because its port is taken.
async fn impossible() -> (tokio::net::UdpSocket, iroh::endpoint::Builder) {
    let taken = tokio::net::UdpSocket::bind(SocketAddr::from(ANYWHERE))
        .await
        .expect("bound");
    let addr = taken.local_addr().expect("an address");
    let builder = Endpoint::builder(Offline)
        .clear_ip_transports()
        .bind_addr(addr);
    (taken, builder.expect("an address"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_cannot_be_bound_stops_the_server_unless_any_will_do() {
    let key = SecretKey::generate();
    let taken = TcpListener::bind(SocketAddr::from(ANYWHERE))
        .await
        .expect("bound");
    let addr = taken.local_addr().expect("an address");

    // TCP's port is taken.
    let both = Server::builder()
        .key(key.clone())
        .iroh(Endpoint::builder(Offline))
        .tcp(addr);
    let error = both.bind().await.expect_err("taken");
    let ServerError::Bind(error) = error else {
        panic!("{error:?}")
    };
    assert_eq!(error.transport(), TransportKind::Tcp);
    assert!(error.to_string().contains(&addr.to_string()), "{error}");
    assert!(std::error::Error::source(&error).is_some());
    let any = Server::builder()
        .key(key.clone())
        .iroh(Endpoint::builder(Offline))
        .tcp(addr)
        .require(Require::Any)
        .bind()
        .await
        .expect("iroh is there");
    assert_eq!(
        any.missing().map(|it| it.transport()),
        Some(TransportKind::Tcp)
    );
    assert_eq!(any.tcp_addr(), None);
    let peer = any.addresses().expect("dialable");
    assert_eq!(peer.tcp(), None);
    answers(any, TransportKind::Iroh).await;

    // iroh's is.
    let (_taken, builder) = impossible().await;
    let both = Server::builder()
        .key(key.clone())
        .iroh(builder)
        .tcp(ANYWHERE.into());
    let error = both.bind().await.expect_err("taken");
    let ServerError::Bind(error) = error else {
        panic!("{error:?}")
    };
    assert_eq!(error.transport(), TransportKind::Iroh);
    let (_taken, builder) = impossible().await;
    let any = Server::builder()
        .key(key.clone())
        .iroh(builder)
        .tcp(ANYWHERE.into());
    let any = any
        .require(Require::Any)
        .bind()
        .await
        .expect("TCP is there");
    assert_eq!(
        any.missing().map(|it| it.transport()),
        Some(TransportKind::Iroh)
    );
    assert!(any.endpoint().is_none());
    answers(any, TransportKind::Tcp).await;

    // Both are; and alone, there is nothing to go on with.
    let (_taken, builder) = impossible().await;
    let neither = Server::builder().key(key.clone()).iroh(builder).tcp(addr);
    let error = neither
        .require(Require::Any)
        .bind()
        .await
        .expect_err("taken");
    assert!(matches!(error, ServerError::Neither { .. }), "{error:?}");
    let alone = Server::builder().key(key).tcp(addr).require(Require::Any);
    let error = alone.bind().await.expect_err("taken");
    assert!(matches!(error, ServerError::Bind(_)), "{error:?}");
}

/// Serves, and is called over the transport that is there.
async fn answers(server: Server, over: TransportKind) {
    let (peer, handle) = (server.addresses().expect("dialable"), server.handle());
    let services = Tonic::builder().add_service(EchoServer::new(EchoService));
    let serving = tokio::spawn(
        server.serve(|incoming, stopped| services.serve_with_incoming_shutdown(incoming, stopped)),
    );
    let (client, channels) = channels(&SecretKey::generate(), &peer).await;
    for channel in channels {
        let there = channel.transports().next().expect("one") == over;
        let answer = EchoClient::new(channel).echo(request(b"hello")).await;
        assert_eq!(answer.is_ok(), there, "{answer:?}");
    }
    client.close().await;
    handle.shutdown();
    soon("the end", serving)
        .await
        .expect("no panic")
        .expect("served");
}

#[tokio::test]
async fn what_cannot_be_is_refused_by_name() {
    let field = async |builder: ServerBuilder| match builder.bind().await {
        Err(ServerError::Config(error)) => error.field(),
        other => panic!("{other:?}"),
    };
    let key = SecretKey::generate();
    assert_eq!(field(Server::builder()).await, "server.tcp");
    assert_eq!(
        field(Server::builder().tcp(ANYWHERE.into())).await,
        "server.key"
    );
    let other = Server::builder()
        .key(key.clone())
        .endpoint(endpoint(&SecretKey::generate()).await);
    assert_eq!(field(other).await, "server.key");
    let zero = Server::builder()
        .key(key.clone())
        .tcp(ANYWHERE.into())
        .drain_timeout(Duration::ZERO);
    assert_eq!(field(zero).await, "acceptor.drain_timeout");
    // A limit of the server is one of both its acceptors.
    type Limit = fn(ServerBuilder) -> ServerBuilder;
    let zeros: [(&str, Limit); 6] = [
        ("max_connections", |server| server.max_connections(0)),
        ("max_handshakes", |server| server.max_handshakes(0)),
        ("handshake_timeout", |server| {
            server.handshake_timeout(Duration::ZERO)
        }),
        ("idle_timeout", |server| server.idle_timeout(Duration::ZERO)),
        ("max_connection_age", |server| {
            server.max_connection_age(Duration::ZERO)
        }),
        ("max_connection_age_grace", |server| {
            server.max_connection_age_grace(Duration::ZERO)
        }),
    ];
    for (name, zero) in zeros {
        let server = || zero(Server::builder().key(key.clone()).tcp(ANYWHERE.into()));
        assert_eq!(field(server()).await, format!("acceptor.{name}"));
        let over_tcp = server().acceptor(|_| tower_iroh::Acceptor::builder());
        assert_eq!(field(over_tcp).await, format!("tcp.{name}"));
    }

    // On all interfaces, and nobody knows which there are.
    let everywhere = SocketAddr::from(([0, 0, 0, 0], 0));
    let server = Server::builder()
        .key(key.clone())
        .tcp(everywhere)
        .bind()
        .await
        .expect("bound");
    assert!(matches!(server.addresses(), Err(PeerError::NotDialable)));
    let told: tower_iroh::TcpAddr = "db.example:7001".parse().expect("a name");
    let server = Server::builder()
        .key(key.clone())
        .tcp(everywhere)
        .advertise_tcp(told.clone());
    let server = server.bind().await.expect("bound");
    assert_eq!(server.addresses().expect("told").tcp(), Some(&told));
    // With an endpoint, where that one is.
    let server = Server::builder()
        .endpoint(endpoint(&key).await)
        .tcp(everywhere);
    let server = server.bind().await.expect("bound");
    let port = server.tcp_addr().expect("bound").port();
    let known = server.addresses().expect("dialable");
    assert_eq!(
        known.tcp().expect("TCP").to_string(),
        format!("127.0.0.1:{port}")
    );
}

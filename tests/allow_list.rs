//! Who is refused before there is any HTTP/2: strangers to a policy, in both directions, and peers that a reload shuts out.
//!
//! The servers here have no `authorize` layer, so that what ends a call is its connection.

// Nothing is public in a test binary.
#![allow(unreachable_pub)]
#![cfg(feature = "authorize")]

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::StreamExt as _;
use iroh::{
    Endpoint, EndpointAddr, SecretKey, TransportAddr,
    endpoint::Connection,
    protocol::{AcceptError, ProtocolHandler, Router},
};
use tokio::{
    net::{TcpListener, UdpSocket},
    task::JoinHandle,
    time::timeout,
};
use tonic::{Code, Status, transport::Server as Tonic};
use tower_iroh::{
    Acceptor, AllowList, Channel, Links, Peer, Server, ServerBuilder, ServerError, ServerHandle,
    TransportKind,
    layers::authorize::{AccessPolicy, PolicyHandle},
    presets::Offline,
    tcp::TcpLinks,
    wire::{self, close},
};
use tower_iroh_proto::{
    EchoService,
    echo::{EchoRequest, StreamRequest, echo_client::EchoClient, echo_server::EchoServer},
};

#[path = "faults/support.rs"]
#[allow(
    dead_code,
    unused_macros,
    unused_imports,
    reason = "its service and its waits"
)]
mod faulty;

use faulty::{ENDLESS, Faulty, Stage, request, soon};

const ANYWHERE: ([u8; 4], u16) = ([127, 0, 0, 1], 0);
const BOTH: [TransportKind; 2] = [TransportKind::Iroh, TransportKind::Tcp];

/// A policy that permits everything to these and nothing to anybody else.
fn only(peers: &[&SecretKey]) -> AccessPolicy {
    let mut policy = AccessPolicy::builder().role("caller", ["*"]);
    for key in peers {
        policy = policy.peer(key.public().to_string(), ["caller"]);
    }
    policy.build().expect("valid")
}

async fn endpoint(key: &SecretKey) -> Endpoint {
    let bound = Endpoint::builder(Offline)
        .secret_key(key.clone())
        .bind()
        .await;
    bound.expect("127.0.0.1 is there")
}

struct Running {
    peer: Peer,
    stage: Stage,
    /// How many byte streams tonic has been given to speak HTTP/2 on.
    streams: Arc<AtomicUsize>,
    handle: ServerHandle,
    serving: JoinHandle<Result<(), ServerError>>,
}

impl Running {
    async fn new(settings: impl FnOnce(ServerBuilder) -> ServerBuilder) -> Self {
        let builder = Server::builder()
            .endpoint(endpoint(&SecretKey::generate()).await)
            .tcp(ANYWHERE.into());
        let server = settings(builder).bind().await.expect("bound");
        let (peer, handle) = (server.addresses().expect("dialable"), server.handle());
        let (stage, streams) = (Stage::default(), Arc::<AtomicUsize>::default());
        let services = Tonic::builder().add_service(EchoServer::new(Faulty(stage.clone())));
        let count = streams.clone();
        let serving = tokio::spawn(server.serve(|incoming, stopped| {
            let counted = incoming.inspect(move |_| {
                count.fetch_add(1, Ordering::SeqCst);
            });
            services.serve_with_incoming_shutdown(counted, stopped)
        }));
        Self {
            peer,
            stage,
            streams,
            handle,
            serving,
        }
    }

    async fn stop(self) {
        self.handle.shutdown();
        let served = soon("the drain", self.serving).await;
        served.expect("no panic").expect("served");
    }
}

/// A client with one key, over one of the transports.
struct Caller {
    client: EchoClient<Channel>,
    endpoint: Option<Endpoint>,
}

impl Caller {
    async fn new(kind: TransportKind, key: &SecretKey, peer: &Peer) -> Self {
        Self::with(kind, key, peer, None).await
    }

    async fn with(
        kind: TransportKind,
        key: &SecretKey,
        peer: &Peer,
        policy: Option<&PolicyHandle>,
    ) -> Self {
        let (builder, endpoint) = match kind {
            TransportKind::Iroh => {
                let endpoint = endpoint(key).await;
                let mut links = Links::builder(endpoint.clone());
                if let Some(policy) = policy {
                    links = links.allow_list(policy);
                }
                let links = links.build().expect("valid");
                (Channel::with_links(links), Some(endpoint))
            }
            _ => {
                let mut links = TcpLinks::builder(key.clone());
                if let Some(policy) = policy {
                    links = links.allow_list(policy);
                }
                (Channel::with_tcp_links(links.build().expect("valid")), None)
            }
        };
        // Each failure is to be seen, also one that would be tried again.
        let builder = builder
            .peer(peer.clone())
            .stack(tower_iroh::StackBuilder::without_retry);
        Self {
            client: EchoClient::new(builder.build().expect("valid")),
            endpoint,
        }
    }

    async fn echo(&self) -> Result<(), Status> {
        let mut client = self.client.clone();
        let call = async move { client.echo(request(b"hello")).await };
        soon("an answer", call).await.map(drop)
    }

    /// A stream of which only the head is read.
    async fn unread(&self) -> tonic::Streaming<tower_iroh_proto::echo::EchoResponse> {
        let call = StreamRequest {
            count: ENDLESS,
            size: 64 * 1024,
            interval_ms: 0,
        };
        let begun = soon("the head", self.client.clone().server_stream(call)).await;
        begun.expect("begun").into_inner()
    }

    async fn close(self) {
        if let Some(endpoint) = self.endpoint {
            endpoint.close().await;
        }
    }
}

fn is_told(status: &Status) {
    assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
    let said = status.message();
    assert!(said.contains("permits nothing to this key"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stranger_costs_no_http_2_and_is_told_why() {
    let [friend, stranger, shut_out] = [(); 3].map(|()| SecretKey::generate());
    let text = format!(
        "[roles.caller]\nmethods = [\"*\"]\n[peers.{}]\nroles = [\"caller\"]\n[peers.{}]\nroles = []\n",
        friend.public(),
        shut_out.public()
    );
    let policy = PolicyHandle::new(AccessPolicy::from_toml(&text).expect("a policy"));
    let server = Running::new(|server| server.allow_list(&policy)).await;
    for kind in BOTH {
        for key in [&stranger, &shut_out] {
            let caller = Caller::new(kind, key, &server.peer).await;
            is_told(&caller.echo().await.expect_err("a stranger"));
            // As long as the backoff lasts, too.
            is_told(&caller.echo().await.expect_err("a stranger"));
            caller.close().await;
        }
    }
    assert_eq!(server.streams.load(Ordering::SeqCst), 0);
    for kind in BOTH {
        let caller = Caller::new(kind, &friend, &server.peer).await;
        caller.echo().await.expect("listed");
        caller.close().await;
    }
    assert_eq!(server.stage.counts().begun, 2);
    server.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_closes_the_connection_of_a_peer_that_reads_nothing_and_no_other() {
    for kind in BOTH {
        let [lost, kept] = [(); 2].map(|()| SecretKey::generate());
        let policy = PolicyHandle::new(only(&[&lost, &kept]));
        let server = Running::new(|server| server.allow_list(&policy)).await;
        let loses = Caller::new(kind, &lost, &server.peer).await;
        let keeps = Caller::new(kind, &kept, &server.peer).await;
        let mut unread = loses.unread().await;
        let mut other = keeps.unread().await;
        keeps.echo().await.expect("listed");

        policy.reload(only(&[&kept]));
        let calls = async {
            while server.stage.counts().cancelled == 0 {
                keeps.echo().await.expect("the others go on");
            }
        };
        soon("the end of the stream", calls).await;
        assert_eq!(server.stage.counts().cancelled, 1, "{kind}");
        for _ in 0..100 {
            let message = soon("a message", other.message()).await;
            message.expect("it goes on").expect("it is endless");
        }
        // What had arrived is still there; then comes the end.
        let end = soon("the end", async {
            loop {
                match unread.message().await {
                    Ok(Some(_)) => {}
                    Ok(None) => panic!("a stream that was cut has no good end"),
                    Err(status) => return status,
                }
            }
        })
        .await;
        match kind {
            TransportKind::Iroh => is_told(&end),
            _ => assert_eq!(end.code(), Code::Unavailable, "{end:?}"),
        }
        is_told(&loses.echo().await.expect_err("shut out"));
        keeps.echo().await.expect("the others go on");

        // Let in again, it is served again.
        policy.reload(only(&[&lost, &kept]));
        soon("the next dial", async {
            while loses.echo().await.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
        drop((unread, other));
        loses.close().await;
        keeps.close().await;
        server.stop().await;
    }
}

/// Their port says that it takes callers without TLS, and the policy has the last word.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_without_tls_have_what_the_policy_gives_to_anonymous_ones() {
    let friend = SecretKey::generate();
    let open = || {
        let policy = AccessPolicy::builder().role("caller", ["*"]);
        policy.anonymous(["caller"]).build().expect("valid")
    };
    let policy = PolicyHandle::new(only(&[&friend]));
    let server = Running::new(|server| {
        server
            .allow_list(&policy)
            .tcp_acceptor(|acceptor| acceptor.plaintext(true))
    })
    .await;
    let uri = format!("http://{}", server.peer.tcp().expect("TCP"));
    let plain = || {
        let endpoint = tonic::transport::Endpoint::from_shared(uri.clone()).expect("a URI");
        EchoClient::new(endpoint.connect_lazy())
    };
    let refused = soon("a refusal", plain().echo(request(b""))).await;
    let refused = refused.expect_err("the policy gives them nothing");
    assert_eq!(refused.code(), Code::Unauthenticated, "{refused:?}");
    assert_eq!(server.streams.load(Ordering::SeqCst), 0);

    policy.reload(open());
    let mut client = plain();
    let call = StreamRequest {
        count: ENDLESS,
        size: 64 * 1024,
        interval_ms: 0,
    };
    let unread = soon("the head", client.server_stream(call)).await;
    let unread = unread.expect("permitted");
    policy.reload(only(&[&friend]));
    let cut = server.stage.wait("the cut", |counts| counts.cancelled == 1);
    cut.await;
    drop(unread);
    server.stop().await;
}

/// The address of a peer where sockets listen that are to hear nothing.
async fn silent_peer() -> (Peer, UdpSocket, TcpListener) {
    let udp = UdpSocket::bind(SocketAddr::from(ANYWHERE)).await;
    let tcp = TcpListener::bind(SocketAddr::from(ANYWHERE)).await;
    let (udp, tcp) = (udp.expect("a port"), tcp.expect("a port"));
    let at = TransportAddr::Ip(udp.local_addr().expect("bound"));
    let addr = EndpointAddr::from_parts(SecretKey::generate().public(), [at]);
    let peer = Peer::from(addr).with_tcp(tcp.local_addr().expect("bound"));
    (peer, udp, tcp)
}

async fn heard_nothing(udp: &UdpSocket, tcp: &TcpListener) {
    let mut packet = [0; 2048];
    tokio::select! {
        _ = udp.recv(&mut packet) => panic!("a packet was sent"),
        _ = tcp.accept() => panic!("a connection was made"),
        () = tokio::time::sleep(Duration::from_millis(300)) => {}
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_is_dialled_whom_the_policy_does_not_know() {
    let (peer, udp, tcp) = silent_peer().await;
    let policy = PolicyHandle::new(only(&[]));
    for kind in BOTH {
        let key = SecretKey::generate();
        let caller = Caller::with(kind, &key, &peer, Some(&policy)).await;
        for _ in 0..2 {
            let status = caller.echo().await.expect_err("not allowed");
            assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
            let said = status.message();
            assert!(said.contains("add the peer's id to the policy"), "{said}");
        }
        caller.close().await;
    }
    heard_nothing(&udp, &tcp).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_closes_connections_to_peers_that_are_not_allowed_any_more() {
    for kind in BOTH {
        let lost = Running::new(|server| server).await;
        let kept = Running::new(|server| server).await;
        let to = |peers: &[&Running]| {
            let mut policy = AccessPolicy::builder().role("callee", ["*"]);
            for server in peers {
                policy = policy.peer(server.peer.id().to_string(), ["callee"]);
            }
            policy.build().expect("valid")
        };
        let policy = PolicyHandle::new(to(&[&lost, &kept]));
        let key = SecretKey::generate();
        let loses = Caller::with(kind, &key, &lost.peer, Some(&policy)).await;
        let keeps = Caller::with(kind, &SecretKey::generate(), &kept.peer, Some(&policy)).await;
        let mut unread = loses.unread().await;
        keeps.echo().await.expect("allowed");

        policy.reload(to(&[&kept]));
        let calls = async {
            while lost.stage.counts().cancelled == 0 {
                keeps.echo().await.expect("the others go on");
            }
        };
        soon("the end of the stream", calls).await;
        let end = soon("the end", async {
            loop {
                if let Err(status) = unread.message().await {
                    return status;
                }
            }
        })
        .await;
        assert_eq!(end.code(), Code::PermissionDenied, "{kind}: {end:?}");
        let status = loses.echo().await.expect_err("not allowed");
        assert_eq!(status.code(), Code::PermissionDenied, "{kind}: {status:?}");
        keeps.echo().await.expect("the others go on");
        drop(unread);
        loses.close().await;
        keeps.close().await;
        lost.stop().await;
        kept.stop().await;
    }
}

/// Another protocol of the same endpoint: holds what it is given.
#[derive(Clone, Debug)]
struct Hold;

const OTHER: &[u8] = b"other/1";

impl ProtocolHandler for Hold {
    async fn accept(&self, connection: Connection) -> Result<(), AcceptError> {
        connection.closed().await;
        Ok(())
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_hook_decides_over_the_alpns_that_it_is_given_in_both_directions() {
    let friend = SecretKey::generate();
    let policy = PolicyHandle::new(only(&[&friend]));
    let serve = async |hook: AllowList| {
        let endpoint = Endpoint::builder(Offline).hooks(hook).bind().await;
        let (acceptor, incoming) = Acceptor::new();
        let router = Router::builder(endpoint.expect("bound"))
            .accept(wire::ALPN, acceptor)
            .accept(OTHER, Hold)
            .spawn();
        let service = EchoServer::new(EchoService);
        let served = Tonic::builder().add_service(service);
        tokio::spawn(served.serve_with_incoming(incoming));
        router
    };
    let ours = serve(AllowList::new(&policy)).await;
    let every = serve(AllowList::new(&policy).all_alpns()).await;
    let named = serve(AllowList::new(&policy).alpn(OTHER)).await;
    let stranger = endpoint(&SecretKey::generate()).await;
    for (router, other_is_open) in [(&ours, true), (&every, false), (&named, false)] {
        let peer = Peer::of(router.endpoint()).expect("dialable");
        let caller = Caller::new(TransportKind::Iroh, &SecretKey::generate(), &peer).await;
        is_told(&caller.echo().await.expect_err("a stranger"));
        caller.close().await;
        let caller = Caller::new(TransportKind::Iroh, &friend, &peer).await;
        caller.echo().await.expect("listed");
        caller.close().await;

        let other = stranger.connect(peer.addr().clone(), OTHER).await;
        let other = other.expect("its side of the handshake");
        if other_is_open {
            let closed = timeout(Duration::from_millis(300), other.closed()).await;
            assert!(closed.is_err(), "{closed:?}");
        } else {
            let why = soon("the refusal", other.closed()).await.to_string();
            assert!(
                why.contains(&u64::from(close::FORBIDDEN).to_string()),
                "{why}"
            );
        }
    }

    // The other direction: our own endpoint calls nobody whom the policy does not know.
    let (peer, udp, tcp) = silent_peer().await;
    let dialled = ours.endpoint().connect(peer.addr().clone(), wire::ALPN);
    let error = dialled.await.expect_err("not allowed");
    let error = format!("{error:?}");
    assert!(error.contains("was rejected locally"), "{error}");
    let links = Links::new(ours.endpoint().clone());
    let channel = Channel::with_links(links).peer(peer).build();
    let mut client = EchoClient::new(channel.expect("valid"));
    let status = soon("a refusal", client.echo(EchoRequest::default())).await;
    let status = status.expect_err("not allowed");
    assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
    heard_nothing(&udp, &tcp).await;
    stranger.close().await;
    for router in [ours, every, named] {
        router.shutdown().await.expect("no panic");
    }
}

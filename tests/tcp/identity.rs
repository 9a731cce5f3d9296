//! The right keys: everything works, and both transports tell the same of who called.

use iroh::{Endpoint, SecretKey};
use tonic::Request;
use tower_iroh::{
    Acceptor, Channel, Links, Path, Peer, PeerInfo, RemoteAddrLayer, TransportKind,
    presets::Offline, tcp::TcpAcceptor,
};
use tower_iroh_proto::{
    EchoService,
    echo::{EchoRequest, StreamRequest, echo_client::EchoClient},
};

use crate::support::{
    Caller, Callers, KINDS, Kind, Server, listener, noting, request, soon, until,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn unary_and_streaming_calls_work_with_a_generated_client() {
    let key = SecretKey::generate();
    for kind in KINDS {
        let server = Server::start().await;
        let caller = Caller::with(kind, &server.peer, &key, |links| links);
        caller.echo(b"hello").await.expect("answered");
        caller.echo(&[7; 3 << 20]).await.expect("answered");

        let mut client = caller.client();
        let asked = StreamRequest {
            count: 100,
            size: 1000,
            interval_ms: 0,
        };
        let mut stream = client
            .server_stream(asked)
            .await
            .expect("begun")
            .into_inner();
        let mut came = 0;
        while let Some(message) = stream.message().await.expect("a message") {
            assert_eq!(crate::support::number(&message), came);
            came += 1;
        }
        assert_eq!(came, 100);

        let said = futures_util::stream::iter((0..50).map(|_| request(b"abc")));
        let summary = client
            .client_stream(said)
            .await
            .expect("answered")
            .into_inner();
        assert_eq!((summary.count, summary.bytes), (50, 150));

        let (say, said) = tokio::sync::mpsc::channel(1);
        let said = tokio_stream::wrappers::ReceiverStream::new(said);
        let mut heard = client.bidi_stream(said).await.expect("begun").into_inner();
        for number in 0u8..20 {
            say.send(request(&[number])).await.expect("listened to");
            let answer = soon("an answer", heard.message()).await.expect("alive");
            assert_eq!(answer.expect("one").payload[..], [number]);
        }

        let info = server.last_caller();
        assert_eq!(info.id(), Some(key.public()), "{kind:?}");
        assert_eq!(info.transport(), TransportKind::Tcp);
        let addr = info.remote_addr().expect("an address");
        assert!(addr.ip().is_loopback());
        assert_eq!(info.path(), Some(Path::Direct(addr)));
        assert_eq!(info.rtt(), None);

        let id = server.peer.id();
        let stats = caller.links.stats(id).expect("connected");
        assert_eq!(stats.transport, TransportKind::Tcp);
        assert!(
            stats.bytes_sent > 3 << 20 && stats.bytes_received > 3 << 20,
            "{stats}"
        );
        assert!(stats.rtt.expect("measured") > std::time::Duration::ZERO);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_service_sees_the_same_peer_over_both() {
    let (ours, theirs) = (SecretKey::generate(), SecretKey::generate());
    let callers = Callers::default();
    let service = noting(EchoService, &callers);

    let endpoint = Endpoint::builder(Offline).secret_key(theirs.clone());
    let endpoint = endpoint.bind().await.expect("bound");
    let (acceptor, incoming) = Acceptor::new();
    let router = acceptor.router(endpoint.clone()).spawn();
    let (tcp, tcp_incoming) = TcpAcceptor::new(listener().await, theirs).expect("valid");
    let peer = Peer::of(&endpoint)
        .expect("dialable")
        .with_tcp(tcp.local_addr());
    let server = || {
        tonic::transport::Server::builder()
            .layer(RemoteAddrLayer)
            .add_service(service.clone())
    };
    tokio::spawn(server().serve_with_incoming_shutdown(incoming, std::future::pending()));
    tokio::spawn(server().serve_with_incoming(tcp_incoming));

    let client = Endpoint::builder(Offline).secret_key(ours.clone());
    let client = client.bind().await.expect("bound");
    let over_iroh = Channel::with_links(Links::new(client.clone()))
        .peer(peer.clone())
        .build();
    let over_tcp = Channel::tcp(ours.clone()).peer(peer).build();
    for channel in [over_iroh.expect("valid"), over_tcp.expect("valid")] {
        let transport = channel.transports().next().expect("one");
        let call = Request::new(EchoRequest {
            payload: "x".into(),
        });
        let mut client = EchoClient::new(channel);
        soon("an answer", client.echo(call))
            .await
            .expect("answered");
        let info: PeerInfo = callers.lock().expect("not poisoned").pop().expect("a call");
        assert_eq!(info.id(), Some(ours.public()), "{transport}");
        assert_eq!(info.transport(), transport);
        assert!(info.remote_addr().expect("an address").ip().is_loopback());
    }
    client.close().await;
    router.shutdown().await.expect("shut down");
}

#[tokio::test]
async fn a_name_is_resolved_and_a_peer_that_moves_is_followed() {
    let key = SecretKey::generate();
    let server = Server::with(&key, |acceptor| acceptor).await;
    let gone = crate::support::nobody().await;
    let caller = Caller::new(Kind::Channel, &crate::support::at(&key, gone));
    let (kind, _) = caller.refusal().await;
    assert_eq!(kind, tower_iroh::ErrorKind::DialFailed);
    let name: tower_iroh::TcpAddr = format!("localhost:{}", server.addr.port())
        .parse()
        .expect("a name");
    // The next dial is not due yet, but for the news.
    caller.links.add_peer(crate::support::at(&key, name));
    caller.echo(b"found").await.expect("answered");
}

/// Also while there is a connection to where it was.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connected_peer_that_moves_is_followed_by_the_next_call() {
    let key = SecretKey::generate();
    let old = Server::with(&key, |acceptor| acceptor).await;
    let new = Server::with(&key, |acceptor| acceptor).await;
    let caller = Caller::new(Kind::Channel, &old.peer);
    caller.echo(b"here").await.expect("answered");
    assert_eq!(
        (old.acceptor.connections(), new.acceptor.connections()),
        (1, 0)
    );
    // The same again is no news.
    caller.links.add_peer(old.peer.clone());
    caller.echo(b"here").await.expect("answered");
    assert_eq!(old.acceptor.connections(), 1);
    caller.links.add_peer(new.peer.clone());
    caller.echo(b"there").await.expect("answered");
    assert_eq!(new.acceptor.connections(), 1);
    until("the end of the old one", || old.acceptor.connections() == 0).await;
}

//! Without TLS, where that is allowed: anonymous callers on the server's side, and a client that was told to go on.

use std::time::Duration;

use iroh::SecretKey;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tower_iroh::{TransportKind, tcp::TcpAcceptor};
use tower_iroh_proto::echo::{StreamRequest, echo_client::EchoClient};

use crate::support::{
    Caller, ENDLESS, KINDS, Kind, Server, at, listener, plain_client, request, soon,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_without_tls_is_nobody_and_one_with_it_is_who_it_is() {
    let server = Server::with(&SecretKey::generate(), |acceptor| acceptor.plaintext(true)).await;
    let mut plain = plain_client(server.addr).await;
    let call = plain.echo(request(b"today's client"));
    soon("an answer", call).await.expect("answered");
    let info = server.last_caller();
    assert_eq!((info.id(), info.transport()), (None, TransportKind::Tcp));
    assert!(info.remote_addr().expect("an address").ip().is_loopback());
    assert_eq!(info.local_addr(), Some(server.addr));

    let key = SecretKey::generate();
    let caller = Caller::with(Kind::Channel, &server.peer, &key, |links| links);
    caller.echo(b"tomorrow's").await.expect("answered");
    assert_eq!(server.last_caller().id(), Some(key.public()));
    assert_eq!(server.acceptor.connections(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn callers_without_tls_are_bounded_together() {
    let server = Server::with(&SecretKey::generate(), |acceptor| {
        acceptor.plaintext(true).max_plaintext_connections(1)
    })
    .await;
    let mut first = plain_client(server.addr).await;
    first.echo(request(b"one")).await.expect("answered");
    crate::refused::told(server.addr, tonic::Code::ResourceExhausted).await;
    first.echo(request(b"three")).await.expect("answered");
}

/// As a browser does before a call of gRPC-Web.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_method_of_http_1_reaches_the_server() {
    let key = SecretKey::generate();
    let acceptor = TcpAcceptor::builder(key.clone()).plaintext(true);
    let (acceptor, incoming) = acceptor.build(listener().await).expect("valid");
    let server = Server::serving(acceptor, incoming, &key, |server| server.accept_http1(true));
    for method in ["OPTIONS", "GET", "POST", "DELETE"] {
        let mut socket = crate::support::socket(server.addr).await;
        let call = format!("{method} /a.B/C HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
        socket.write_all(call.as_bytes()).await.expect("written");
        let mut answer = String::new();
        let read = socket.read_to_string(&mut answer);
        soon("the answer", read).await.expect("read");
        assert!(answer.starts_with("HTTP/1.1 "), "{method}: {answer:?}");
    }
}

/// A debugger, a paused machine, a long collection of garbage: the caller's kernel answers with a full window for longer than a silent one would have.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_that_stands_still_keeps_its_connection() {
    let server = Server::with(&SecretKey::generate(), |acceptor| {
        acceptor.plaintext(true).keep_alive(Duration::from_secs(1))
    })
    .await;
    let addr = server.addr;
    // A runtime of its own, which stands still as a whole.
    let caller = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread();
        let runtime = { runtime }.enable_all().build().expect("a runtime");
        // More than the kernels' buffers hold.
        let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{addr}"));
        let endpoint = endpoint.expect("a URI").initial_stream_window_size(1 << 30);
        let endpoint = endpoint.initial_connection_window_size(1 << 30);
        let mut answers = runtime.block_on(async {
            let mut client = EchoClient::new(endpoint.connect_lazy());
            let call = StreamRequest {
                count: ENDLESS,
                size: 1 << 20,
                interval_ms: 0,
            };
            client
                .server_stream(call)
                .await
                .expect("begun")
                .into_inner()
        });
        #[expect(clippy::disallowed_methods, reason = "the runtime is to stand still")]
        std::thread::sleep(Duration::from_secs(4));
        runtime.block_on(async {
            for _ in 0..50 {
                answers.message().await.expect("it goes on").expect("more");
            }
        });
    });
    let done = tokio::task::spawn_blocking(move || caller.join());
    let done = soon("the end", done).await.expect("no panic");
    done.expect("the connection was not cut");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_goes_on_in_the_clear_only_where_it_was_told_to_and_nobody_speaks_tls() {
    let stage = crate::support::Stage::default();
    let service =
        tower_iroh_proto::echo::echo_server::EchoServer::new(crate::support::Faulty(stage.clone()));
    let listener = listener().await;
    let addr = listener.local_addr().expect("an address");
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    tokio::spawn(
        tonic::transport::Server::builder()
            .add_service(service)
            .serve_with_incoming(incoming),
    );
    let peer = at(&SecretKey::generate(), addr);
    for kind in KINDS {
        let told =
            |links: tower_iroh::tcp::TcpLinksBuilder| links.insecure_plaintext_fallback(true);
        let caller = Caller::with(kind, &peer, &SecretKey::generate(), told);
        caller.echo(b"in the clear").await.expect("answered");
    }
    assert_eq!(stage.counts().finished, 2);

    // Another key is no reason to go on.
    let server = Server::with(&SecretKey::generate(), |acceptor| acceptor.plaintext(true)).await;
    let other = at(&SecretKey::generate(), server.addr);
    let told = |links: tower_iroh::tcp::TcpLinksBuilder| links.insecure_plaintext_fallback(true);
    let caller = Caller::with(Kind::Channel, &other, &SecretKey::generate(), told);
    assert_eq!(
        caller.refusal().await.0,
        tower_iroh::ErrorKind::WrongIdentity
    );
    assert_eq!(server.stage.counts().begun, 0);
}

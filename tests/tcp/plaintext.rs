//! Without TLS, where that is allowed: anonymous callers on the server's side, and a client that was told to go on.

use iroh::SecretKey;
use tower_iroh::TransportKind;

use crate::support::{Caller, KINDS, Kind, Server, at, listener, plain_client, request, soon};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_caller_without_tls_is_nobody_and_one_with_it_is_who_it_is() {
    let server = Server::with(&SecretKey::generate(), |acceptor| acceptor.plaintext(true)).await;
    let mut plain = plain_client(server.addr).await;
    let call = plain.echo(request(b"today's client"));
    soon("an answer", call).await.expect("answered");
    let info = server.last_caller();
    assert_eq!((info.id(), info.transport()), (None, TransportKind::Tcp));
    assert!(info.remote_addr().expect("an address").ip().is_loopback());

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

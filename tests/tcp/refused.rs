//! Who is refused, and what both sides are told.

use std::{sync::Arc, time::Duration};

use iroh::SecretKey;
use rustls::{
    ClientConfig, DigitallySignedStruct, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::ring,
    pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer, ServerName, UnixTime},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::Instant,
};
use tokio_rustls::{TlsAcceptor, TlsConnector, client::TlsStream};
use tonic::Code;
use tower_iroh::{
    ErrorKind,
    layers::authorize::{AccessPolicy, PolicyHandle},
    tcp::TcpAcceptor,
};

use crate::support::{
    Caller, KINDS, Kind, Server, at, listener, nobody, plain_client, request, socket, soon, until,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_with_another_key_is_not_the_peer() {
    let server = Server::start().await;
    let wanted = SecretKey::generate();
    for kind in KINDS {
        let caller = Caller::new(kind, &at(&wanted, server.addr));
        let error = caller.error().await;
        assert_eq!(
            (error.kind(), error.status().code()),
            (ErrorKind::WrongIdentity, Code::Unavailable)
        );
        assert!(error.not_processed());
        assert_eq!(error.peer(), Some(wanted.public()));
    }
    assert_eq!(server.stage.counts().begun, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_the_policy_does_not_know_is_refused_and_the_one_that_it_knows_is_not() {
    let (key, friend) = (SecretKey::generate(), SecretKey::generate());
    let policy = AccessPolicy::builder()
        .role("caller", ["/tower_iroh.echo.v1.Echo/*"])
        .peer(friend.public().to_string(), ["caller"])
        .build()
        .expect("valid");
    let policy = PolicyHandle::new(policy);
    let (acceptor, incoming) = TcpAcceptor::builder(key.clone())
        .plaintext(true)
        .build(listener().await)
        .expect("valid");
    let layer = tower_iroh::authorize(&policy);
    let server = Server::serving(acceptor, incoming, &key, |server| server.layer(layer));
    let known = Caller::with(Kind::Channel, &server.peer, &friend, |links| links);
    known.echo(b"hello").await.expect("allowed");
    let stranger = Caller::new(Kind::Channel, &server.peer);
    let refused = stranger.echo(b"hello").await.expect_err("refused");
    assert_eq!(refused.code(), Code::PermissionDenied, "{refused}");
    // Without TLS there is no identity, whoever it is.
    let mut plain = plain_client(server.addr).await;
    let refused = plain.echo(request(b"hello")).await.expect_err("refused");
    assert_eq!(refused.code(), Code::Unauthenticated, "{refused}");
    assert_eq!(server.stage.counts().begun, 1);
}

/// Takes any server, and nothing else is of interest.
#[derive(Debug)]
struct Anybody {
    raw: bool,
}

impl ServerCertVerifier for Anybody {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn verify_tls13_signature(
        &self,
        _: &[u8],
        _: &CertificateDer<'_>,
        _: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        Ok(HandshakeSignatureValid::assertion())
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        vec![SignatureScheme::ED25519]
    }

    fn requires_raw_public_keys(&self) -> bool {
        self.raw
    }
}

type Keys = Arc<dyn rustls::client::ResolvesClientCert>;

/// A stranger's handshake with a server of ours, and the first bytes of what is said then.
async fn stranger(
    server: &Server,
    keys: Option<Keys>,
    raw: bool,
    alpn: &[&[u8]],
) -> std::io::Result<TlsStream<tokio::net::TcpStream>> {
    let builder = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anybody { raw }));
    let mut config = match keys {
        Some(keys) => builder.with_client_cert_resolver(keys),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = alpn.iter().map(|name| name.to_vec()).collect();
    let name = ServerName::from(server.addr.ip());
    let connector = TlsConnector::from(Arc::new(config));
    let mut stream = soon(
        "a handshake",
        connector.connect(name, socket(server.addr).await),
    )
    .await?;
    // With TLS 1.3 a server that refuses a client says so only now.
    soon("the server's word", stream.read_u8()).await?;
    Ok(stream)
}

/// Any key pair, as a raw public key.
fn some_key() -> Keys {
    let pair = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("generated");
    let der = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(pair.serialize_der()));
    let key = ring::sign::any_supported_type(&der).expect("a key");
    let spki = key.public_key().expect("a public key").to_vec();
    let certified = rustls::sign::CertifiedKey::new(vec![spki.into()], key);
    Arc::new(rustls::client::AlwaysResolvesClientRawPublicKeys::new(
        Arc::new(certified),
    ))
}

/// Speaks of raw public keys and has none.
#[derive(Debug)]
struct NoKey;

impl rustls::client::ResolvesClientCert for NoKey {
    fn resolve(
        &self,
        _: &[&[u8]],
        _: &[SignatureScheme],
    ) -> Option<Arc<rustls::sign::CertifiedKey>> {
        None
    }

    fn only_raw_public_keys(&self) -> bool {
        true
    }

    fn has_certs(&self) -> bool {
        true
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_must_prove_a_key_and_name_the_protocol() {
    let server = Server::start().await;
    let h2: &[&[u8]] = &[b"h2"];
    // The same handshake as below, so that those fail for the reason that is named.
    let known = stranger(&server, Some(some_key()), true, h2).await;
    let _known = known.expect("a key is enough");
    until("the connection", || server.acceptor.connections() == 1).await;

    let refusals = [
        ("no key at all", stranger(&server, None, true, h2).await),
        (
            "raw public keys, but none",
            stranger(&server, Some(Arc::new(NoKey)), true, h2).await,
        ),
        (
            "X.509 wanted of the server",
            stranger(&server, Some(some_key()), false, h2).await,
        ),
        (
            "another protocol",
            stranger(&server, Some(some_key()), true, &[b"tower-iroh/h2/1"]).await,
        ),
        (
            "no protocol",
            stranger(&server, Some(some_key()), true, &[]).await,
        ),
    ];
    for (who, refusal) in refusals {
        let error = refusal.expect_err(who);
        println!("{who}: {error}");
    }
    assert!(server.callers.lock().expect("not poisoned").is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_1_2_is_refused() {
    let server = Server::start().await;
    let mut socket = socket(server.addr).await;
    // A ClientHello of TLS 1.2, as RFC 5246 has it: no supported_versions.
    let mut hello = vec![3, 3];
    hello.extend([9; 32]);
    hello.extend([0, 0, 2, 0xc0, 0x2b, 1, 0]);
    // supported_groups, signature_algorithms, ALPN h2
    let extensions = [
        &[0, 10, 0, 4, 0, 2, 0, 29][..],
        &[0, 13, 0, 4, 0, 2, 8, 7],
        &[0, 16, 0, 5, 0, 3, 2, b'h', b'2'],
    ]
    .concat();
    hello.extend((extensions.len() as u16).to_be_bytes());
    hello.extend(extensions);
    let mut record = vec![0x16, 3, 1];
    record.extend((hello.len() as u16 + 4).to_be_bytes());
    record.extend([1, 0]);
    record.extend((hello.len() as u16).to_be_bytes());
    record.extend(hello);
    socket.write_all(&record).await.expect("sent");
    let mut said = Vec::new();
    let _ = soon("the refusal", socket.read_to_end(&mut said)).await;
    // An alert record: fatal, protocol_version (70).
    assert_eq!((said[0], &said[5..7]), (0x15, &[2, 70][..]), "{said:?}");
    until("nobody", || server.acceptor.connections() == 0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_without_tls_is_told_why() {
    let server = Server::start().await;
    told(server.addr, Code::PermissionDenied).await;
    assert_eq!(server.stage.counts().begun, 0);
}

/// Each first call without TLS is answered with the refusal.
pub async fn told(addr: std::net::SocketAddr, expected: Code) {
    for _ in 0..10 {
        let mut client = plain_client(addr).await;
        let refused = soon("the refusal", client.echo(request(b"hello"))).await;
        let refused = refused.expect_err("refused");
        assert_eq!(refused.code(), expected, "{refused:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_without_tls_is_no_downgrade() {
    let listener = listener().await;
    let addr = listener.local_addr().expect("an address");
    let stage = crate::support::Stage::default();
    let service =
        tower_iroh_proto::echo::echo_server::EchoServer::new(crate::support::Faulty(stage.clone()));
    let incoming = tokio_stream::wrappers::TcpListenerStream::new(listener);
    tokio::spawn(
        tonic::transport::Server::builder()
            .add_service(service)
            .serve_with_incoming(incoming),
    );
    for kind in KINDS {
        let caller = Caller::new(kind, &at(&SecretKey::generate(), addr));
        let error = caller.error().await;
        assert_eq!(
            (error.kind(), error.status().code()),
            (ErrorKind::AlpnMismatch, Code::Unavailable)
        );
        assert!(
            error.status().message().contains("TLS"),
            "{}",
            error.status()
        );
    }
    assert_eq!(stage.counts().begun, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_server_with_a_certificate_is_nobody_to_talk_to() {
    let key = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("generated");
    let made = rcgen::CertificateParams::new(["localhost".to_owned()]).expect("a name");
    let cert = made.self_signed(&key).expect("signed");
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(key.serialize_der()));
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_protocol_versions(&[&rustls::version::TLS13])
        .expect("TLS 1.3")
        .with_no_client_auth()
        .with_single_cert(vec![cert.der().clone()], key)
        .expect("a certificate");
    let listener = listener().await;
    let addr = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        let acceptor = TlsAcceptor::from(Arc::new(config));
        while let Ok((stream, _)) = listener.accept().await {
            let _ = acceptor.accept(stream).await;
        }
    });
    let caller = Caller::new(Kind::Channel, &at(&SecretKey::generate(), addr));
    assert_eq!(
        caller.refusal().await,
        (ErrorKind::AlpnMismatch, Code::Unavailable)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn garbage_is_refused_by_its_first_byte() {
    let server = Server::start().await;
    for garbage in [
        &b"GET / HTTP/1.1\r\n\r\n"[..],
        &[0; 100],
        b"SSH-2.0-x\r\n",
        &[0x16, 0xff, 0xff, 0xff, 0xff, 1],
    ] {
        let mut socket = socket(server.addr).await;
        socket.write_all(garbage).await.expect("sent");
        // Closed, one way or the other.
        let mut said = Vec::new();
        let _ = soon("the refusal", socket.read_to_end(&mut said)).await;
    }
    assert_eq!(server.acceptor.connections(), 0);
    let caller = Caller::new(Kind::Channel, &server.peer);
    caller.echo(b"still there").await.expect("answered");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handshake_that_takes_too_long_is_ended() {
    const TIMEOUT: Duration = Duration::from_millis(400);
    let server = Server::with(&SecretKey::generate(), |acceptor| {
        acceptor.handshake_timeout(TIMEOUT)
    })
    .await;
    let mut silent = socket(server.addr).await;
    let mut slow = socket(server.addr).await;
    // The head of a record, and a byte more now and then.
    slow.write_all(&[0x16, 3, 1, 1, 0]).await.expect("sent");
    let began = Instant::now();
    let (mut ours, mut theirs) = slow.split();
    let feeding = async {
        loop {
            let _ = theirs.write_all(&[1]).await;
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    let ended = async {
        // An end, or a reset.
        let _ = ours.read_u8().await;
        let _ = silent.read_u8().await;
    };
    tokio::select! {
        () = soon("the end of both", ended) => {}
        () = feeding => {}
    }
    let took = began.elapsed();
    assert!(took >= TIMEOUT / 2 && took < TIMEOUT * 10, "{took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_never_begins_to_speak_gives_its_place_up() {
    let server = Server::with(&SecretKey::generate(), |acceptor| {
        acceptor
            .plaintext(true)
            .handshake_timeout(Duration::from_secs(2))
    })
    .await;
    let mut encrypted = stranger(&server, Some(some_key()), true, &[b"h2"]).await;
    let encrypted = encrypted.as_mut().expect("a key is enough");
    let mut plain = socket(server.addr).await;
    plain.write_all(b"PRI * HTTP").await.expect("sent");
    until("both", || server.acceptor.connections() == 2).await;
    until("neither", || server.acceptor.connections() == 0).await;
    let mut said = Vec::new();
    let _ = soon("an end", encrypted.read_to_end(&mut said)).await;
    let _ = soon("an end", plain.read_to_end(&mut said)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_connection_too_many_is_told_so() {
    let server = Server::with(&SecretKey::generate(), |acceptor| {
        acceptor.max_connections_per_peer(1)
    })
    .await;
    let key = SecretKey::generate();
    for kind in KINDS {
        let first = Caller::with(kind, &server.peer, &key, |links| links);
        first.echo(b"one").await.expect("answered");
        let second = Caller::with(kind, &server.peer, &key, |links| links);
        let told = async {
            loop {
                let refused = second.echo(b"two").await.expect_err("refused");
                if refused.code() == Code::ResourceExhausted {
                    return;
                }
                // hyper says no more of a connection that is gone before the call was handed to it.
                assert_eq!((kind, refused.code()), (Kind::Tonic, Code::Unavailable));
            }
        };
        soon("the reason", told).await;
        // Another peer is not concerned.
        Caller::new(kind, &server.peer)
            .echo(b"three")
            .await
            .expect("answered");
        drop((first, second));
        until("the end of the first", || {
            server.acceptor.connections() == 0
        })
        .await;
    }
}

/// A key costs nothing, so the bound per peer is none.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn all_peers_together_have_a_bound_too() {
    let server = Server::with(&SecretKey::generate(), |acceptor| {
        acceptor.max_connections(2)
    })
    .await;
    let callers = [(); 2].map(|()| Caller::new(Kind::Channel, &server.peer));
    for caller in &callers {
        caller.echo(b"in time").await.expect("answered");
    }
    let third = Caller::new(Kind::Channel, &server.peer);
    let refused = third.error_of(b"one too many").await;
    assert_eq!(refused.code(), Code::ResourceExhausted);
    assert!(refused.message().contains("2 connections"), "{refused:?}");
    drop(callers);
    until("room", || server.acceptor.connections() == 0).await;
    let next = Caller::new(Kind::Channel, &server.peer);
    next.echo(b"there is room").await.expect("answered");
}

#[tokio::test]
async fn who_is_not_known_or_not_there_is_named() {
    let key = SecretKey::generate();
    let nowhere = Caller::new(Kind::Channel, &tower_iroh::Peer::new(key.public()));
    assert_eq!(
        nowhere.refusal().await,
        (ErrorKind::NoAddress, Code::Unavailable)
    );
    let gone = at(&key, nobody().await);
    let gone = Caller::with(Kind::Channel, &gone, &SecretKey::generate(), |links| {
        let hour = Duration::from_secs(3600);
        links.backoff(hour, hour)
    });
    assert_eq!(
        gone.refusal().await,
        (ErrorKind::DialFailed, Code::Unavailable)
    );
    assert_eq!(
        gone.refusal().await,
        (ErrorKind::Backoff, Code::Unavailable)
    );
    let name: tower_iroh::TcpAddr = "nobody.invalid:1".parse().expect("a name");
    let unknown = Caller::new(Kind::Channel, &at(&key, name));
    assert_eq!(
        unknown.refusal().await,
        (ErrorKind::NoAddress, Code::Unavailable)
    );
}

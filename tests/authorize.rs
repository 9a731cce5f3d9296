//! One policy for callers over iroh and callers over TLS: each by the identity that its transport has proved.
#![cfg(feature = "authorize")]

use std::{net::SocketAddr, time::Duration};

use iroh::{Endpoint, EndpointId, protocol::Router};
use tokio::time::timeout;
use tonic::{
    Code,
    transport::{
        Certificate, ClientTlsConfig, Identity as TlsIdentity, Server, ServerTlsConfig,
        server::{TcpConnectInfo, TcpIncoming, TlsConnectInfo},
    },
};
use tower_iroh::{
    Acceptor, ByPeer, Channel, Peer,
    layers::authorize::{AccessPolicy, AuthorizeLayer, Identify, Identity, PolicyHandle},
    presets::Offline,
};
use tower_iroh_proto::{
    EchoService,
    echo::{EchoRequest, StreamRequest, echo_client::EchoClient, echo_server::EchoServer},
};

fn policy(caller: &str) -> String {
    format!(
        r#"
        [roles.caller]
        methods = ["/tower_iroh.echo.v1.Echo/*"]
        [peers."{caller}"]
        roles = ["caller"]
        "#
    )
}

async fn soon<F: Future>(what: &str, event: F) -> F::Output {
    let event = timeout(Duration::from_secs(10), event).await;
    event.unwrap_or_else(|_| panic!("waited 10 s for {what}"))
}

/// A stream whose second message comes in a day.
fn day() -> StreamRequest {
    StreamRequest {
        count: 2,
        size: 1,
        interval_ms: 86_400_000,
    }
}

/// Who is listed may call until it is revoked, which ends its open stream; then it is told apart from one who proves nothing.
async fn may_call_until_revoked<S>(mut client: EchoClient<S>, policy: &PolicyHandle)
where
    S: tonic::client::GrpcService<tonic::body::Body>,
    S::Error: Into<tonic::codegen::StdError>,
    S::ResponseBody: tonic::codegen::Body<Data = bytes::Bytes> + Send + 'static,
    <S::ResponseBody as tonic::codegen::Body>::Error: Into<tonic::codegen::StdError> + Send,
{
    client.echo(EchoRequest::default()).await.expect("listed");
    let mut stream = client
        .server_stream(day())
        .await
        .expect("listed")
        .into_inner();
    stream.message().await.expect("begun").expect("the first");
    policy.reload_toml("").expect("an empty policy");
    let status = soon("the stream's end", stream.message()).await;
    assert_eq!(status.expect_err("revoked").code(), Code::PermissionDenied);
    let status = client
        .echo(EchoRequest::default())
        .await
        .expect_err("revoked");
    assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
}

struct Iroh {
    peer: Peer,
    policy: PolicyHandle,
    _router: Router,
}

async fn over_iroh(caller: EndpointId) -> Iroh {
    let policy = AccessPolicy::from_toml(&policy(&caller.to_string())).expect("a policy");
    let policy = PolicyHandle::new(policy);
    let endpoint = Endpoint::bind(Offline).await.expect("a free port");
    let peer = Peer::of(&endpoint).expect("dialable");
    let (acceptor, incoming) = Acceptor::new();
    let router = acceptor.router(endpoint).spawn();
    tokio::spawn(
        Server::builder()
            .layer(tower_iroh::authorize(&policy))
            .add_service(EchoServer::new(EchoService))
            .serve_with_incoming(incoming),
    );
    Iroh {
        peer,
        policy,
        _router: router,
    }
}

#[tokio::test]
async fn an_iroh_peer_is_known_by_its_key() {
    let friend = Endpoint::bind(Offline).await.expect("a free port");
    let stranger = Endpoint::bind(Offline).await.expect("a free port");
    let server = over_iroh(friend.id()).await;
    let channel = |endpoint: &Endpoint| {
        let builder = Channel::builder(endpoint.clone()).peer(server.peer.clone());
        builder.build().expect("valid")
    };
    let status = EchoClient::new(channel(&stranger))
        .echo(EchoRequest::default())
        .await
        .expect_err("not listed");
    assert_eq!(status.code(), Code::PermissionDenied);
    may_call_until_revoked(EchoClient::new(channel(&friend)), &server.policy).await;
    friend.close().await;
    stranger.close().await;
}

/// The certificate that a TLS client has proved to own.
fn by_certificate(extensions: &http::Extensions) -> Option<Identity> {
    let tls = extensions.get::<TlsConnectInfo<TcpConnectInfo>>()?;
    let chain = tls.peer_certs()?;
    Some(Identity::new(name_of(chain.first()?)))
}

fn name_of(certificate: &[u8]) -> String {
    let hex: String = certificate
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    format!("x509:{hex}")
}

/// Whichever way a caller came.
fn by_either(extensions: &http::Extensions) -> Option<Identity> {
    ByPeer
        .identify(extensions)
        .or_else(|| by_certificate(extensions))
}

#[tokio::test]
async fn a_tls_client_is_known_by_its_certificate() {
    let own = |name: &str| rcgen::generate_simple_self_signed([name.to_owned()]).expect("a key");
    let (server_key, friend, stranger) = (own("localhost"), own("friend"), own("stranger"));
    let policy = AccessPolicy::from_toml(&policy(&name_of(friend.cert.der()))).expect("a policy");
    let policy = PolicyHandle::new(policy);

    let incoming = TcpIncoming::bind(SocketAddr::from(([127, 0, 0, 1], 0))).expect("a free port");
    let addr = incoming.local_addr().expect("bound");
    let identity = TlsIdentity::from_pem(
        server_key.cert.pem(),
        server_key.signing_key.serialize_pem(),
    );
    let trusted = format!("{}\n{}", friend.cert.pem(), stranger.cert.pem());
    let tls = ServerTlsConfig::new()
        .identity(identity)
        .client_ca_root(Certificate::from_pem(trusted))
        .client_auth_optional(true);
    tokio::spawn(
        Server::builder()
            .tls_config(tls)
            .expect("valid")
            .layer(AuthorizeLayer::new(policy.clone(), by_either))
            .add_service(EchoServer::new(EchoService))
            .serve_with_incoming(incoming),
    );

    let connect = |identity: Option<TlsIdentity>| {
        let mut tls = ClientTlsConfig::new()
            .ca_certificate(Certificate::from_pem(server_key.cert.pem()))
            .domain_name("localhost");
        if let Some(identity) = identity {
            tls = tls.identity(identity);
        }
        let endpoint = tonic::transport::Endpoint::from_shared(format!("https://{addr}"));
        let endpoint = endpoint.expect("a URI").tls_config(tls).expect("valid");
        EchoClient::new(endpoint.connect_lazy())
    };
    let with = |key: &rcgen::CertifiedKey<rcgen::KeyPair>| {
        let identity = TlsIdentity::from_pem(key.cert.pem(), key.signing_key.serialize_pem());
        connect(Some(identity))
    };

    let status = with(&stranger).echo(EchoRequest::default()).await;
    assert_eq!(
        status.expect_err("not listed").code(),
        Code::PermissionDenied
    );
    let status = connect(None).echo(EchoRequest::default()).await;
    assert_eq!(
        status.expect_err("proves nothing").code(),
        Code::Unauthenticated
    );
    may_call_until_revoked(with(&friend), &policy).await;
}

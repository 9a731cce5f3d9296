//! `expose` and `gateway`: a real server and real clients that know nothing of iroh, and the two programs between them.

use std::{net::SocketAddr, time::Duration};

use http::{HeaderMap, Request};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::{mpsc, oneshot},
    task::JoinHandle,
    time::timeout,
};
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::{
    Code,
    body::Body,
    transport::{Channel, Endpoint, Server},
};
use tower::service_fn;
use tower_iroh_proto::{
    EchoService, FILE_DESCRIPTOR_SET,
    echo::{EchoRequest, StreamRequest, echo_client::EchoClient, echo_server::EchoServer},
};

use crate::{
    running::{Running, Seen},
    support::{PATIENCE, run},
};

/// A gRPC server over TCP in clear text, with health and reflection.
pub struct Backend {
    addr: SocketAddr,
    /// The head of the last request.
    head: Seen<HeaderMap>,
    stop: oneshot::Sender<()>,
    serving: JoinHandle<()>,
}

impl Backend {
    pub async fn start() -> Self {
        Self::at("127.0.0.1:0".parse().expect("an address")).await
    }

    async fn at(addr: SocketAddr) -> Self {
        let listener = TcpListener::bind(addr).await.expect("bound");
        let addr = listener.local_addr().expect("an address");
        let head = Seen::default();
        let seen = head.clone();
        let remembering = tower::layer::layer_fn(move |inner| {
            let seen = seen.clone();
            tower::util::MapRequest::new(inner, move |request: Request<Body>| {
                *seen.lock().expect("no panic") = request.headers().clone();
                request
            })
        });
        let (health, service) = tonic_health::server::health_reporter();
        health.set_serving::<EchoServer<EchoService>>().await;
        let reflection = tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
            .build_v1()
            .expect("a schema");
        let (stop, stopped) = oneshot::channel::<()>();
        let serving = tokio::spawn(async move {
            let served = Server::builder()
                .layer(remembering)
                .add_service(EchoServer::new(EchoService))
                .add_service(service)
                .add_service(reflection)
                .serve_with_incoming_shutdown(TcpListenerStream::new(listener), async {
                    let _ = stopped.await;
                })
                .await;
            served.expect("served");
        });
        Self {
            addr,
            head,
            stop,
            serving,
        }
    }

    pub fn address(&self) -> String {
        self.addr.to_string()
    }

    /// Closes the listener and the connections.
    pub async fn stop(self) {
        let _ = self.stop.send(());
        let stopped = timeout(PATIENCE, self.serving).await;
        stopped.expect("in time").expect("no panic");
    }

    pub fn forget(&self) {
        self.head.lock().expect("no panic").clear();
    }

    pub fn header(&self, name: &str) -> Option<String> {
        let head = self.head.lock().expect("no panic");
        let value = head.get(name)?;
        Some(value.to_str().expect("text").to_owned())
    }
}

pub fn client(address: &str) -> EchoClient<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("a URI");
    EchoClient::new(endpoint.connect_lazy())
}

pub fn request(payload: &'static [u8]) -> tonic::Request<EchoRequest> {
    let mut request = tonic::Request::new(EchoRequest {
        payload: payload.into(),
    });
    request.set_timeout(PATIENCE);
    request
}

fn to_peer(payload: &'static [u8], peer: &str) -> tonic::Request<EchoRequest> {
    let mut request = request(payload);
    let peer = peer.parse().expect("metadata");
    request.metadata_mut().insert("x-iroh-peer", peer);
    request
}

/// A server, what exposes it, and a gateway to it.
pub async fn way() -> (Backend, Running, Running, String) {
    let backend = Backend::start().await;
    let (exposed, ticket) = Running::expose(&[&backend.address(), "--allow-all"]).await;
    let (gateway, address) = Running::gateway(&[&ticket]).await;
    (backend, exposed, gateway, address)
}

#[tokio::test]
async fn each_kind_of_call_goes_through() {
    let (backend, _exposed, mut gateway, address) = way().await;
    let mut client = client(&address);
    let mut first = request(b"hello");
    first
        .metadata_mut()
        .insert("x-iroh-peer-id", "forged".parse().expect("metadata"));
    let answer = client.echo(first).await.expect("answered").into_inner();
    assert_eq!(answer.payload, &b"hello"[..]);
    let id = backend.header("x-iroh-peer-id").expect("the caller's id");
    gateway.says(&format!("the gateway calls as {id}")).await;
    assert_eq!(backend.header("x-iroh-peer"), None);

    let asked = StreamRequest {
        count: 1000,
        size: 10,
        interval_ms: 0,
    };
    let mut stream = client
        .server_stream(asked)
        .await
        .expect("begun")
        .into_inner();
    let mut count = 0;
    while stream.message().await.expect("a message").is_some() {
        count += 1;
    }
    assert_eq!(count, 1000);

    let messages = tokio_stream::iter((0..1000).map(|_| EchoRequest {
        payload: vec![7; 100].into(),
    }));
    let summary = client
        .client_stream(messages)
        .await
        .expect("answered")
        .into_inner();
    assert_eq!((summary.count, summary.bytes), (1000, 100_000));

    // Each side waits for the other.
    let (say, said) = mpsc::channel(1);
    let mut answers = client
        .bidi_stream(ReceiverStream::new(said))
        .await
        .expect("begun")
        .into_inner();
    for round in 0..100u8 {
        say.send(EchoRequest {
            payload: vec![round].into(),
        })
        .await
        .expect("taken");
        let answer = timeout(PATIENCE, answers.message()).await.expect("in time");
        assert_eq!(
            answer.expect("a message").expect("not the end").payload,
            vec![round]
        );
    }
    drop(say);
    assert!(answers.message().await.expect("the end").is_none());
}

#[tokio::test]
async fn more_threads_than_one_pass_calls_on_too() {
    let backend = Backend::start().await;
    let threads = ["--threads", "2"];
    let address = backend.address();
    let expose = [&[address.as_str(), "--allow-all"], &threads[..]].concat();
    let (_exposed, ticket) = Running::expose(&expose).await;
    let (_gateway, address) = Running::gateway(&[&[&*ticket], &threads[..]].concat()).await;
    let client = client(&address);
    let calls = (0..100).map(|_| {
        let mut client = client.clone();
        async move { client.echo(request(b"hello")).await }
    });
    for answer in futures_util::future::join_all(calls).await {
        answer.expect("answered");
    }
}

#[tokio::test]
async fn nothing_is_exposed_by_accident() {
    let refused = run(["expose", "127.0.0.1:1"]).await;
    assert_eq!(refused.code, Some(2), "{refused:?}");
    for way in ["--allow ID", "--policy FILE", "--allow-all"] {
        assert!(refused.stderr.contains(way), "{refused:?}");
    }
    assert_eq!(refused.stdout, "", "no ticket");

    let somebody = iroh::SecretKey::from_bytes(&[7; 32]).public().to_string();
    let backend = Backend::start().await;
    let (_exposed, ticket) = Running::expose(&[&backend.address(), "--allow", &somebody]).await;
    let (_gateway, address) = Running::gateway(&[&ticket]).await;
    let status = client(&address)
        .echo(request(b"no"))
        .await
        .expect_err("refused");
    assert_eq!(status.code(), Code::PermissionDenied, "{status:?}");
    let said = status.message();
    assert!(said.contains("permits nothing to this key"), "{said}");
    assert_eq!(
        backend.header("x-iroh-peer-id"),
        None,
        "the backend was not called"
    );
}

#[tokio::test]
async fn a_policy_file_is_followed() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("policy.toml");
    let permits = "[roles.all]\nmethods = [\"*\"]\n[authenticated]\nroles = [\"all\"]\n";
    std::fs::write(&file, permits).expect("written");
    let backend = Backend::start().await;
    let file_name = file.to_str().expect("text");
    let (mut exposed, ticket) = Running::expose(&[&backend.address(), "--policy", file_name]).await;
    let (_gateway, address) = Running::gateway(&[&ticket]).await;
    let mut client = client(&address);
    client.echo(request(b"yes")).await.expect("permitted");

    std::fs::write(&file, "[roles.all]\nmethods = 7\n").expect("written");
    let said = exposed.says("the policy before stays in force").await;
    assert!(said.contains("policy.toml: line 2"), "{said}");
    client.echo(request(b"yes")).await.expect("still permitted");
    // Also where the file's time says that it has not changed.
    let old = std::fs::metadata(&file)
        .and_then(|it| it.modified())
        .expect("a time");
    std::fs::write(&file, "").expect("written");
    let written = std::fs::File::options()
        .write(true)
        .open(&file)
        .expect("opened");
    written.set_modified(old).expect("set");
    exposed.says("is in force\n").await;
    let status = client.echo(request(b"no")).await.expect_err("not any more");
    assert_eq!(status.code(), Code::PermissionDenied);

    let wrong = run(["expose", "127.0.0.1:1", "--policy", "/no/such/file"]).await;
    assert_eq!(wrong.code, Some(2), "{wrong:?}");
    assert!(wrong.stderr.contains("/no/such/file"), "{wrong:?}");
}

#[tokio::test]
async fn a_backend_that_was_away_is_called_again() {
    let (backend, _exposed, _gateway, address) = way().await;
    let mut client = client(&address);
    client.echo(request(b"first")).await.expect("answered");
    let addr = backend.addr;
    backend.stop().await;
    let status = client.echo(request(b"away")).await.expect_err("away");
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert!(
        status.message().contains(&addr.to_string()),
        "it names the backend: {status:?}"
    );
    let from = status
        .metadata()
        .get("x-iroh-error-from")
        .expect("who says it");
    assert_eq!(from, "expose");

    let _again = Backend::at(addr).await;
    let answered = async {
        while client.echo(request(b"again")).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, answered)
        .await
        .expect("the backend is found again");
}

/// The configuration of a gateway whose peers have these names, and which notices soon that a peer is gone.
fn config(peers: &[(&str, &str)]) -> String {
    let head = "[transport]\nmode = \"iroh\"\n[cluster.peer]\nhealth_check_interval_secs = 1\n";
    let peers = peers
        .iter()
        .map(|(name, ticket)| format!("[peers.{name}]\nticket = \"{ticket}\"\n"));
    head.to_owned() + &peers.collect::<String>()
}

#[tokio::test]
async fn a_stream_whose_peer_is_killed_ends_as_unavailable() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("gateway.toml");
    let backend = Backend::start().await;
    let (mut exposed, ticket) = Running::expose(&[&backend.address(), "--allow-all"]).await;
    std::fs::write(&file, config(&[("db", &ticket)])).expect("written");
    let name = file.to_str().expect("text");
    let (_gateway, address) = Running::gateway(&["--config", name, "db"]).await;
    let asked = StreamRequest {
        count: 1_000_000,
        size: 10,
        interval_ms: 1,
    };
    let mut stream = client(&address)
        .server_stream(asked)
        .await
        .expect("begun")
        .into_inner();
    stream.message().await.expect("a message");
    exposed.kill().await;
    let ended = async {
        loop {
            match stream.message().await {
                Ok(Some(_)) => {}
                Ok(None) => panic!("it did not come to its end"),
                Err(status) => return status,
            }
        }
    };
    let status = timeout(PATIENCE, ended).await.expect("in time");
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    let from = status.metadata().get("x-iroh-error-from");
    assert_eq!(from.expect("who says it"), "gateway");
}

#[tokio::test]
async fn a_call_names_its_peer() {
    let (a, b) = (Backend::start().await, Backend::start().await);
    let (_exposed_a, ticket_a) = Running::expose(&[&a.address(), "--allow-all"]).await;
    let (_exposed_b, ticket_b) = Running::expose(&[&b.address(), "--allow-all"]).await;
    let (alias_a, alias_b) = (format!("a={ticket_a}"), format!("b={ticket_b}"));
    let (_gateway, address) = Running::gateway(&["--peer", &alias_a, "--peer", &alias_b]).await;
    let called = |backend: &Backend| backend.header("x-case");
    let mut by_metadata = to_peer(b"1", "a");
    by_metadata
        .metadata_mut()
        .insert("x-case", "metadata".parse().expect("metadata"));
    client(&address).echo(by_metadata).await.expect("answered");
    assert_eq!(
        (called(&a).as_deref(), called(&b)),
        (Some("metadata"), None)
    );

    let b_id = ticket_b.parse::<tower_iroh::Peer>().expect("a ticket").id();
    for authority in [
        "b".to_owned(),
        "B.IROH:443".to_owned(),
        format!("{}.iroh", b_id.to_z32()),
        b_id.to_string(),
    ] {
        let endpoint = Endpoint::from_shared(format!("http://{address}")).expect("a URI");
        let origin = format!("http://{authority}").parse().expect("a URI");
        let mut client = EchoClient::new(endpoint.origin(origin).connect_lazy());
        let mut by_authority = request(b"2");
        by_authority
            .metadata_mut()
            .insert("x-case", authority.parse().expect("metadata"));
        client.echo(by_authority).await.expect(&authority);
        assert_eq!(called(&b), Some(authority));
    }

    let unknown = client(&address)
        .echo(to_peer(b"3", "c"))
        .await
        .expect_err("unknown");
    assert_eq!(unknown.code(), Code::Unavailable);
    assert!(
        unknown.message().contains("`c`") && unknown.message().contains("a, b"),
        "{unknown:?}"
    );
    assert_eq!(
        unknown
            .metadata()
            .get("x-iroh-error-from")
            .expect("who says it"),
        "gateway"
    );
    let nobody = client(&address)
        .echo(request(b"4"))
        .await
        .expect_err("no peer");
    assert_eq!(nobody.code(), Code::InvalidArgument, "{nobody:?}");
}

#[tokio::test]
async fn names_follow_the_configuration() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("gateway.toml");
    let backend = Backend::start().await;
    let (_exposed, ticket) = Running::expose(&[&backend.address(), "--allow-all"]).await;
    std::fs::write(&file, config(&[("db", &ticket)])).expect("written");
    let name = file.to_str().expect("text");
    let (_gateway, address) = Running::gateway(&["--config", name]).await;
    let mut client = client(&address);
    client.echo(to_peer(b"1", "db")).await.expect("answered");
    client
        .echo(to_peer(b"2", "store"))
        .await
        .expect_err("unknown");
    std::fs::write(&file, config(&[("store", &ticket)])).expect("written");
    let reloaded = async {
        while client.echo(to_peer(b"3", "store")).await.is_err() {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, reloaded).await.expect("reloaded");
    client.echo(to_peer(b"4", "db")).await.expect_err("gone");

    let twice = format!("db={ticket}");
    std::fs::write(&file, config(&[("db", &ticket)])).expect("written");
    let args = [
        "gateway",
        "--bind",
        "127.0.0.1:0",
        "--config",
        name,
        "--peer",
        &twice,
    ];
    let refused = run(args).await;
    assert_eq!(refused.code, Some(2), "{refused:?}");
    assert!(
        refused.stderr.contains("two peers are called `db`"),
        "{refused:?}"
    );
}

#[tokio::test]
async fn the_only_peer_is_called_where_none_is_named() {
    let backend = Backend::start().await;
    let (_exposed, ticket) = Running::expose(&[&backend.address(), "--allow-all"]).await;
    let db = format!("db={ticket}");
    let (_gateway, address) = Running::gateway(&["--peer", &db]).await;
    client(&address)
        .echo(request(b"1"))
        .await
        .expect("answered");
    let other = client(&address).echo(to_peer(b"2", "cache")).await;
    assert_eq!(other.expect_err("another name").code(), Code::Unavailable);
}

#[tokio::test]
async fn a_listener_can_have_its_peer() {
    let (a, b) = (Backend::start().await, Backend::start().await);
    let (_exposed_a, ticket_a) = Running::expose(&[&a.address(), "--allow-all"]).await;
    let (_exposed_b, ticket_b) = Running::expose(&[&b.address(), "--allow-all"]).await;
    let (alias_a, alias_b) = (format!("a={ticket_a}"), format!("b={ticket_b}"));
    let mut args = vec!["--peer", &alias_a, "--peer", &alias_b];
    args.extend(["--listen=127.0.0.1:0=a", "--listen=127.0.0.1:0=b"]);
    let (mut gateway, first) = Running::gateway(&args).await;
    let second = gateway.line().await;
    // What the call says does not count there.
    client(&first)
        .echo(to_peer(b"1", "b"))
        .await
        .expect("answered");
    assert!(a.header("x-iroh-peer-id").is_some() && b.header("x-iroh-peer-id").is_none());
    client(&second).echo(request(b"2")).await.expect("answered");
    assert!(b.header("x-iroh-peer-id").is_some());
}

/// Asks for a tunnel, and returns it with the answer.
async fn connect(address: &str, target: &str, more: &str) -> std::io::Result<(TcpStream, String)> {
    let mut io = TcpStream::connect(address).await?;
    let head = format!("CONNECT {target} HTTP/1.1\r\nHost: db.iroh:443\r\n{more}\r\n");
    io.write_all(head.as_bytes()).await?;
    let answer = head_of_answer(&mut io).await?;
    Ok((io, answer))
}

async fn head_of_answer(io: &mut TcpStream) -> std::io::Result<String> {
    let mut answer = Vec::new();
    while !answer.ends_with(b"\r\n\r\n") {
        answer.push(io.read_u8().await?);
    }
    Ok(String::from_utf8(answer).expect("text"))
}

/// A client through a tunnel to this host.
fn through(address: &str, host: &'static str, more: &'static str) -> EchoClient<Channel> {
    let address = address.to_owned();
    let connector = service_fn(move |_| {
        let address = address.clone();
        async move {
            let target = format!("{host}:443");
            let (io, answer) = connect(&address, &target, more).await?;
            assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
            Ok::<_, std::io::Error>(TokioIo::new(io))
        }
    });
    let endpoint = Endpoint::from_shared(format!("http://{host}:443")).expect("a URI");
    EchoClient::new(endpoint.connect_with_connector_lazy(connector))
}

#[tokio::test]
async fn a_tunnel_leads_to_the_peer_that_connect_names() {
    let (a, b) = (Backend::start().await, Backend::start().await);
    let (_exposed_a, ticket_a) = Running::expose(&[&a.address(), "--allow-all"]).await;
    let (_exposed_b, ticket_b) = Running::expose(&[&b.address(), "--allow-all"]).await;
    let (db, other) = (format!("db={ticket_a}"), format!("other={ticket_b}"));
    let (_gateway, address) = Running::gateway(&["--peer", &db, "--peer", &other]).await;
    let (_, refused) = connect(&address, "nobody.iroh:443", "")
        .await
        .expect("answered");
    assert!(refused.starts_with("HTTP/1.1 404"), "{refused}");
    let answer = through(&address, "other.iroh", "")
        .echo(request(b"inside"))
        .await;
    assert_eq!(
        answer.expect("answered").into_inner().payload,
        &b"inside"[..]
    );
    assert!(b.header("x-iroh-peer-id").is_some() && a.header("x-iroh-peer-id").is_none());

    // No tunnel inside of a tunnel.
    let (mut io, _) = connect(&address, "db.iroh:443", "")
        .await
        .expect("a tunnel");
    io.write_all(b"CONNECT other.iroh:443 HTTP/1.1\r\nHost: other.iroh\r\n\r\n")
        .await
        .expect("sent");
    let nested = head_of_answer(&mut io).await.expect("answered");
    assert!(nested.starts_with("HTTP/1.1 400"), "{nested}");

    // The gateway's own peer comes first.
    let (_gateway, address) = Running::gateway(&[&ticket_a]).await;
    a.forget();
    through(&address, "anything.iroh", "")
        .echo(request(b"fixed"))
        .await
        .expect("answered");
    assert!(a.header("x-iroh-peer-id").is_some());
}

#[tokio::test]
async fn a_tunnel_holds_its_connections_slot() {
    let backend = Backend::start().await;
    let (_exposed, ticket) = Running::expose(&[&backend.address(), "--allow-all"]).await;
    let (_gateway, address) = Running::gateway(&[&ticket, "--max-connections", "1"]).await;
    let (tunnel, answer) = connect(&address, "db.iroh:443", "")
        .await
        .expect("a tunnel");
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let second = connect(&address, "db.iroh:443", "").await;
    second.expect_err("there is one connection alone");
    drop(tunnel);
    let freed = async { while connect(&address, "db.iroh:443", "").await.is_err() {} };
    timeout(PATIENCE, freed)
        .await
        .expect("the slot is free again");
}

/// A request over HTTP/1.1, as a browser sends it.
pub async fn http1(
    address: &str,
    request: Request<http_body_util::Full<bytes::Bytes>>,
) -> http::Response<bytes::Bytes> {
    let io = TokioIo::new(TcpStream::connect(address).await.expect("connected"));
    let (mut sender, connection) = hyper::client::conn::http1::handshake(io)
        .await
        .expect("HTTP/1.1");
    let connection = tokio::spawn(connection);
    let sent = timeout(PATIENCE, sender.send_request(request))
        .await
        .expect("in time");
    let (head, body) = sent.expect("answered").into_parts();
    let body = timeout(PATIENCE, body.collect())
        .await
        .expect("in time")
        .expect("a body");
    connection.abort();
    http::Response::from_parts(head, body.to_bytes())
}

#[tokio::test]
async fn a_web_page_calls_where_its_origin_may() {
    let backend = Backend::start().await;
    let (_exposed, ticket) = Running::expose(&[&backend.address(), "--allow-all"]).await;
    let (_gateway, address) =
        Running::gateway(&[&ticket, "--cors-origin", "https://app.example"]).await;
    let call = |origin: &str| {
        // The message `payload = "hi"`.
        let message: &[u8] = &[0, 0, 0, 0, 4, 0x0a, 2, b'h', b'i'];
        Request::post("/tower_iroh.echo.v1.Echo/Echo")
            .header("host", "localhost")
            .header("origin", origin)
            .header("content-type", "application/grpc-web+proto")
            .header("x-grpc-web", "1")
            .body(bytes::Bytes::from_static(message).into())
            .expect("a request")
    };
    let answer = http1(&address, call("https://app.example")).await;
    assert_eq!(
        answer.headers()["access-control-allow-origin"],
        "https://app.example"
    );
    assert!(
        answer.headers()["access-control-expose-headers"]
            .to_str()
            .expect("text")
            .contains("grpc-status")
    );
    let body = answer.body();
    assert_eq!(body[..9], [0, 0, 0, 0, 4, 0x0a, 2, b'h', b'i']);
    assert_eq!(body[9], 0x80, "trailers");
    assert!(
        String::from_utf8_lossy(body).contains("grpc-status:0"),
        "{body:?}"
    );

    backend.forget();
    let other = http1(&address, call("https://evil.example")).await;
    assert_eq!(other.status(), 403);
    assert_eq!(backend.header("content-type"), None, "it was not called");
    // What belongs to the connection between a browser and the gateway goes no further.
    let mut hops = call("https://app.example");
    for (name, value) in [
        ("connection", "x-hop"),
        ("x-hop", "1"),
        ("proxy-connection", "keep-alive"),
        ("proxy-authorization", "Bearer secret"),
    ] {
        hops.headers_mut()
            .append(name, value.parse().expect("a value"));
    }
    let answer = http1(&address, hops).await;
    assert!(String::from_utf8_lossy(answer.body()).contains("grpc-status:0"));
    for name in [
        "connection",
        "x-hop",
        "proxy-connection",
        "proxy-authorization",
    ] {
        assert_eq!(backend.header(name), None, "{name}");
    }
    let asked = Request::options("/tower_iroh.echo.v1.Echo/Echo")
        .header("host", "localhost")
        .header("origin", "https://app.example")
        .header("access-control-request-method", "POST")
        .header("access-control-request-headers", "content-type,x-grpc-web")
        .body(Default::default())
        .expect("a request");
    let allowed = http1(&address, asked).await;
    assert_eq!(
        allowed.headers()["access-control-allow-headers"],
        "content-type,x-grpc-web"
    );
}

#[tokio::test]
async fn the_gateway_answers_for_itself() {
    let backend = Backend::start().await;
    let (_exposed, ticket) = Running::expose(&[&backend.address(), "--allow-all"]).await;
    let (db, cache) = (format!("db={ticket}"), format!("cache={ticket}"));
    let (_gateway, address) = Running::gateway(&["--peer", &db, "--peer", &cache]).await;
    client(&address)
        .echo(to_peer(b"hello", "db"))
        .await
        .expect("answered");
    let get = |path: &str| {
        let request = Request::get(path).header("host", "localhost");
        http1(
            &address,
            request.body(Default::default()).expect("a request"),
        )
    };
    for path in ["/healthz", "/readyz"] {
        assert_eq!(get(path).await.status(), 200, "{path}");
    }
    let metrics = get("/metrics").await.into_body();
    let metrics = String::from_utf8_lossy(&metrics);
    assert!(
        metrics.contains("rpc_client_call_duration_bucket{"),
        "{metrics}"
    );
    assert_eq!(get("/else").await.status(), 415);
    let rebound = Request::get("/metrics").header("host", "evil.example:50051");
    let rebound = http1(
        &address,
        rebound.body(Default::default()).expect("a request"),
    )
    .await;
    assert_eq!(rebound.status(), 415, "another name for this machine");

    let channel = Endpoint::from_shared(format!("http://{address}"))
        .expect("a URI")
        .connect_lazy();
    let mut health = tonic_health::pb::health_client::HealthClient::new(channel);
    let mut check = async |service: &str| {
        let asked = tonic_health::pb::HealthCheckRequest {
            service: service.to_owned(),
        };
        health
            .check(asked)
            .await
            .map(|answer| answer.into_inner().status)
    };
    assert_eq!(check("").await.expect("the gateway"), 1);
    assert_eq!(
        check("nobody").await.expect_err("unknown").code(),
        Code::NotFound
    );
    let known = async {
        while !matches!(check("db").await, Ok(1)) {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    timeout(PATIENCE, known).await.expect("its peers are known");
}

#[tokio::test]
async fn strangers_show_a_token_or_do_not_reach_it() {
    let open = run(["gateway", "--bind", "127.0.0.1:0", "--listen", "0.0.0.0:0"]).await;
    assert_eq!(open.code, Some(2), "{open:?}");
    assert!(
        open.stderr.contains("--token-file") && open.stderr.contains("key"),
        "{open:?}"
    );

    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("token");
    std::fs::write(&file, "0123456789abcdef\n").expect("written");
    let backend = Backend::start().await;
    let (_exposed, ticket) = Running::expose(&[&backend.address(), "--allow-all"]).await;
    let token_file = file.to_str().expect("text");
    let (_gateway, address) =
        Running::gateway(&[&ticket, "--listen", "0.0.0.0:0", "--token-file", token_file]).await;
    let address = address.replace("0.0.0.0", "127.0.0.1");
    let status = client(&address)
        .echo(request(b"no"))
        .await
        .expect_err("no token");
    assert_eq!(status.code(), Code::Unauthenticated, "{status:?}");
    let mut shown = request(b"yes");
    let value = "Bearer 0123456789abcdef".parse().expect("metadata");
    shown.metadata_mut().insert("proxy-authorization", value);
    client(&address).echo(shown).await.expect("answered");
    let seen = backend.header("proxy-authorization");
    assert_eq!(seen, None, "the peer does not see it");

    // A tunnel shows it once, as the clients' `grpc_proxy=http://any:TOKEN@host` does.
    let basic = "Proxy-Authorization: Basic YW55OjAxMjM0NTY3ODlhYmNkZWY=\r\n";
    let answer = through(&address, "db.iroh", basic)
        .echo(request(b"inside"))
        .await;
    answer.expect("answered");
    for target in ["db.iroh:443", "http://db.iroh/healthz"] {
        let (_, refused) = connect(&address, target, "").await.expect("answered");
        assert!(refused.starts_with("HTTP/1.1 407"), "{target}: {refused}");
    }
    // Its own page is for everybody, and no call is one.
    let probe = Endpoint::from_shared(format!("http://{address}"))
        .expect("a URI")
        .connect_lazy();
    let call = Request::post("/healthz")
        .header("content-type", "application/grpc")
        .body(Body::empty())
        .expect("a request");
    let refused = tower::ServiceExt::oneshot(probe, call)
        .await
        .expect("answered");
    assert_eq!(refused.headers()["grpc-status"], "16");
}

#[cfg(unix)]
#[tokio::test]
async fn unix_sockets_on_both_sides() {
    use std::os::unix::fs::PermissionsExt;

    let folder = tempfile::tempdir().expect("a folder");
    let server = folder.path().join("server.sock");
    let local = folder.path().join("gateway.sock");
    let listener = tokio::net::UnixListener::bind(&server).expect("bound");
    let serving = tokio::spawn(
        Server::builder()
            .add_service(EchoServer::new(EchoService))
            .serve_with_incoming(tokio_stream::wrappers::UnixListenerStream::new(listener)),
    );
    let backend = format!("unix:{}", server.display());
    let (_exposed, ticket) = Running::expose(&[&backend, "--allow-all"]).await;
    let listen = format!("unix:{}", local.display());
    let (mut gateway, address) = Running::gateway(&[&ticket, "--listen", &listen]).await;
    assert_eq!(address, listen);
    let mode = std::fs::metadata(&local)
        .expect("the socket")
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
    let path = local.clone();
    let channel = Endpoint::from_static("http://localhost").connect_with_connector_lazy(
        service_fn(move |_| {
            let path = path.clone();
            async move {
                tokio::net::UnixStream::connect(path)
                    .await
                    .map(TokioIo::new)
            }
        }),
    );
    EchoClient::new(channel)
        .echo(request(b"local"))
        .await
        .expect("answered");
    gateway.signal("TERM").await;
    assert!(gateway.ended().await.success());
    assert!(!local.exists(), "the socket's file is gone");
    serving.abort();
}

#[cfg(unix)]
#[tokio::test]
async fn a_file_is_not_taken_for_an_old_socket() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("notes");
    std::fs::write(&file, "keep me").expect("written");
    let ticket = tower_iroh::Peer::new(iroh::SecretKey::from_bytes(&[7; 32]).public()).ticket();
    let listen = format!("unix:{}", file.display());
    let args = [
        "gateway",
        "--bind",
        "127.0.0.1:0",
        &ticket,
        "--listen",
        &listen,
    ];
    let refused = run(args).await;
    assert_eq!(refused.code, Some(1), "{refused:?}");
    assert!(
        refused.stderr.contains("choose another path"),
        "{refused:?}"
    );
    assert_eq!(
        std::fs::read_to_string(&file).expect("still there"),
        "keep me"
    );
}

#[cfg(unix)]
#[tokio::test]
async fn who_watches_the_gateways_health_does_not_hold_it_up() {
    let backend = Backend::start().await;
    let (_exposed, ticket) = Running::expose(&[&backend.address(), "--allow-all"]).await;
    let (db, cache) = (format!("db={ticket}"), format!("cache={ticket}"));
    let (mut gateway, address) = Running::gateway(&["--peer", &db, "--peer", &cache]).await;
    let channel = Endpoint::from_shared(format!("http://{address}"))
        .expect("a URI")
        .connect_lazy();
    let mut health = tonic_health::pb::health_client::HealthClient::new(channel);
    let asked = tonic_health::pb::HealthCheckRequest::default();
    let mut watch = health.watch(asked).await.expect("begun").into_inner();
    assert_eq!(
        watch
            .message()
            .await
            .expect("a message")
            .expect("one")
            .status,
        1
    );
    gateway.signal("TERM").await;
    assert_eq!(
        watch
            .message()
            .await
            .expect("a message")
            .expect("one")
            .status,
        2
    );
    assert!(watch.message().await.expect("the end").is_none());
    assert!(gateway.ended().await.success());
}

#[cfg(unix)]
#[tokio::test]
async fn a_stop_lets_calls_in_flight_finish() {
    let backend = Backend::start().await;
    let (mut exposed, ticket) = Running::expose(&[&backend.address(), "--allow-all"]).await;
    for stops_gateway in [true, false] {
        let (mut gateway, address) = Running::gateway(&[&ticket]).await;
        let (say, said) = mpsc::channel(1);
        let call = client(&address)
            .bidi_stream(ReceiverStream::new(said))
            .await;
        let mut answers = call.expect("begun").into_inner();
        say.send(EchoRequest::default()).await.expect("taken");
        answers.message().await.expect("an answer");
        let stopped = match stops_gateway {
            true => &mut gateway,
            false => &mut exposed,
        };
        stopped.signal("TERM").await;
        // It goes on in both directions, and the program waits for it.
        for _ in 0..10 {
            say.send(EchoRequest::default()).await.expect("taken");
            assert!(answers.message().await.expect("an answer").is_some());
        }
        drop(say);
        assert!(answers.message().await.expect("the end").is_none());
        assert!(stopped.ended().await.success());
    }
}

#[cfg(unix)]
#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let (_backend, _exposed, mut gateway, address) = way().await;
    let (say, said) = mpsc::channel(1);
    let call = client(&address)
        .bidi_stream(ReceiverStream::new(said))
        .await;
    let mut answers = call.expect("begun").into_inner();
    say.send(EchoRequest::default()).await.expect("taken");
    answers.message().await.expect("an answer");
    gateway.signal("INT").await;
    // The listener is closed once the drain has begun.
    let drains = async { while TcpStream::connect(&address).await.is_ok() {} };
    timeout(PATIENCE, drains).await.expect("it drains");
    gateway.signal("INT").await;
    assert_eq!(gateway.ended().await.code(), Some(130));
}

#[cfg(unix)]
#[tokio::test]
async fn the_access_log_has_the_code_of_the_trailers() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("calls.log");
    let backend = Backend::start().await;
    let (_exposed, ticket) = Running::expose(&[&backend.address(), "--allow-all"]).await;
    let name = file.to_str().expect("text");
    let (mut gateway, address) = Running::gateway(&[&ticket, "--access-log", name]).await;
    let mut client = client(&address);
    client.echo(request(b"hello")).await.expect("answered");
    let too_large = StreamRequest {
        count: 1,
        size: u32::MAX,
        interval_ms: 0,
    };
    client.server_stream(too_large).await.expect_err("refused");
    gateway.signal("TERM").await;
    assert!(gateway.ended().await.success());
    let text = std::fs::read_to_string(&file).expect("the log");
    let lines = text
        .lines()
        .map(|line| serde_json::from_str(line).expect("JSON"));
    let lines: Vec<serde_json::Value> = lines.collect();
    assert_eq!(lines.len(), 2, "{lines:?}");
    assert_eq!(lines[0]["method"], "/tower_iroh.echo.v1.Echo/Echo");
    assert_eq!(
        (&lines[0]["code"], &lines[0]["from"]),
        (&0.into(), &"peer".into())
    );
    assert_eq!(lines[1]["code"], 3, "{lines:?}");
    assert!(lines[0]["ms"].as_f64().expect("a number") > 0.0);
}

#[tokio::test]
async fn mistakes_are_told_and_nothing_is_half_started() {
    let ticket = tower_iroh::Peer::new(iroh::SecretKey::from_bytes(&[7; 32]).public()).ticket();
    let alias = format!("db={ticket}");
    let taken = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let taken = taken
        .local_addr()
        .map(|addr| (taken, addr.to_string()))
        .expect("bound");
    let cases: [(&[&str], i32, &[&str]); 11] = [
        (&["gateway", &ticket, "--threads", "0"], 2, &["1..=1024"]),
        (
            &["gateway", &ticket, "--max-connections", "0"],
            2,
            &["1..=1000000"],
        ),
        (
            &[
                "gateway",
                &ticket,
                "--token-file",
                "t",
                "--cors-origin",
                "*",
            ],
            2,
            &["cannot be used with"],
        ),
        (
            &["gateway", "--peer", &alias, "--peer", &alias],
            2,
            &["two peers are called `db`"],
        ),
        (
            &["gateway", &ticket, "--listen", &taken.1],
            1,
            &[&taken.1, "in use"],
        ),
        (&["gateway", "db"], 2, &["db", "ticket"]),
        (&["gateway", "--peer", "db"], 2, &["NAME=PEER"]),
        (
            &["gateway", "--peer", &alias, "--listen", "127.0.0.1:0=cache"],
            2,
            &["`cache`", "--peer cache=TICKET"],
        ),
        (&["gateway", "tcp://127.0.0.1:1"], 2, &["without a gateway"]),
        (&["expose", "50051", "--allow-all"], 2, &["host:port"]),
        (
            &["expose", "127.0.0.1:1", "--allow", "nobody"],
            2,
            &["nobody"],
        ),
    ];
    for (args, code, texts) in cases {
        let ended = run(args).await;
        assert_eq!(ended.code, Some(code), "{args:?}: {ended:?}");
        assert_eq!(ended.stdout, "", "{args:?}");
        for text in texts {
            assert!(ended.stderr.contains(text), "{args:?}: {ended:?}");
        }
    }
}

/// What accepts connections and then does something else than HTTP/2.
pub async fn odd_backend(answer: Option<&'static [u8]>) -> (SocketAddr, JoinHandle<()>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let addr = listener.local_addr().expect("an address");
    let serving = tokio::spawn(async move {
        let mut kept = Vec::new();
        while let Ok((mut io, _)) = listener.accept().await {
            if let Some(answer) = answer {
                let _ = io.read(&mut [0; 1024]).await;
                let _ = io.write_all(answer).await;
            }
            kept.push(io);
        }
    });
    (addr, serving)
}

#[tokio::test]
async fn a_backend_that_speaks_something_else_is_named() {
    let http1 = b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n";
    let (addr, serving) = odd_backend(Some(http1)).await;
    let (_exposed, ticket) = Running::expose(&[&addr.to_string(), "--allow-all"]).await;
    let (_gateway, address) = Running::gateway(&[&ticket]).await;
    let status = client(&address)
        .echo(request(b"hello"))
        .await
        .expect_err("no HTTP/2");
    assert!(
        status.message().contains(&format!("the backend {addr}")),
        "{status:?}"
    );
    serving.abort();
}

#[tokio::test]
async fn a_silent_backend_holds_a_call_no_longer_than_its_deadline() {
    let (addr, serving) = odd_backend(None).await;
    let (_exposed, ticket) = Running::expose(&[&addr.to_string(), "--allow-all"]).await;
    let (_gateway, address) = Running::gateway(&[&ticket]).await;
    let mut asked = request(b"hello");
    asked.set_timeout(Duration::from_millis(300));
    let status = timeout(PATIENCE, client(&address).echo(asked))
        .await
        .expect("in time");
    let status = status.expect_err("no answer");
    assert!(
        matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled),
        "{status:?}"
    );
    serving.abort();
}

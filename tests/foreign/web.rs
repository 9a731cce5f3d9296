//! gRPC-Web from a page in Chromium, and a page of another origin that is refused.

use std::{net::SocketAddr, path::Path, process::Stdio};

use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    process::{Child, Command},
};
use tonic::transport::{Server, server::TcpIncoming};
use tower_http::cors::{AllowOrigin, Any, CorsLayer};
use tower_iroh_lab::Case;
use tower_iroh_proto::{EchoService, echo::echo_server::EchoServer};

use crate::{
    case,
    clients::{chromium, chromium_missing},
    route::{Exposed, LOCAL, Route, Way},
    support::{Arm, ServerOptions, World},
};

pub fn cases() -> Vec<Case> {
    let ways = [Way::Direct, Way::Gateway];
    ways.map(|way| {
        let name = format!("web::{}::calls_and_another_origin", way.name());
        case(name, chromium_missing(), move || calls(way))
    })
    .into()
}

/// The page of the allowed origin calls, and then the same page from another origin: the server is known to answer by then.
async fn calls(way: Way) {
    let (ours, other) = (Pages::new().await, Pages::new().await);
    let world = World::start(Arm::Tcp, ServerOptions::default()).await;
    let route = match way {
        // tonic's own gRPC-Web is the control.
        Way::Direct => Route::lay(way, grpc_web(&ours.origin()).await).await,
        _ => {
            let server = world.server_addr().expect("TCP");
            let peer = Exposed::start(server, LOCAL).await;
            Route::gateway(way, peer, LOCAL, Some(&ours.origin())).await
        }
    };
    let base = format!("http://{}", route.target);

    let seen = ours.open(&base).await;
    assert_eq!(
        seen["unary"]["payloads"],
        serde_json::json!([[1, 2, 3]]),
        "{seen:#}"
    );
    assert_eq!(seen["unary"]["status"], "0", "{seen:#}");
    assert_eq!(
        seen["stream"]["payloads"],
        serde_json::json!([[0], [0]]),
        "{seen:#}"
    );
    assert_eq!(seen["stream"]["status"], "0", "{seen:#}");
    assert_eq!(
        seen["stream"]["early"], true,
        "the first message came before the last: {seen:#}"
    );
    assert_eq!(seen["missing"]["status"], "12", "UNIMPLEMENTED: {seen:#}");

    let seen = other.open(&base).await;
    for call in ["unary", "stream", "missing"] {
        assert_eq!(seen[call]["refused"], "TypeError", "{seen:#}");
    }
}

/// The echo service with tonic's gRPC-Web, for pages of this origin.
async fn grpc_web(origin: &str) -> SocketAddr {
    let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
    let incoming = TcpIncoming::bind(any_port).expect("a free port");
    let addr = incoming.local_addr().expect("bound");
    let cors = CorsLayer::new()
        .allow_origin(AllowOrigin::exact(origin.parse().expect("a header")))
        .allow_headers(Any)
        .expose_headers(["grpc-status", "grpc-message"].map(http::HeaderName::from_static));
    let server = Server::builder()
        .accept_http1(true)
        .layer(cors)
        .layer(tonic_web::GrpcWebLayer::new())
        .add_service(EchoServer::new(EchoService));
    tokio::spawn(server.serve_with_incoming(incoming));
    addr
}

/// A web server with one page, which reports to it what it saw.
struct Pages {
    listener: TcpListener,
    addr: SocketAddr,
}

impl Pages {
    async fn new() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let addr = listener.local_addr().expect("bound");
        Self { listener, addr }
    }

    fn origin(&self) -> String {
        format!("http://{}", self.addr)
    }

    /// Opens the page in Chromium, which calls the server at `base`, and takes its report.
    async fn open(&self, base: &str) -> Value {
        let profile = tempfile::tempdir().expect("a folder");
        let page = format!("{}/#{base}", self.origin());
        let _browser = Browser::open(&page, profile.path());
        loop {
            let (stream, _) = self.listener.accept().await.expect("a connection");
            if let Some(report) = answer(stream).await {
                return report;
            }
        }
    }
}

/// Chromium and the processes that it starts. They end with the test.
struct Browser(Child);

impl Browser {
    fn open(page: &str, profile: &Path) -> Self {
        let child = Command::new(chromium().expect("not missing"))
            // Root may not use the sandbox, and what is opened here is the page below.
            .args([
                "--headless",
                "--no-sandbox",
                "--disable-gpu",
                "--no-first-run",
            ])
            .args(["--disable-dev-shm-usage", "--no-proxy-server"])
            // Without it the shell ends as soon as the page is loaded.
            .arg("--remote-debugging-port=0")
            .arg(format!("--user-data-dir={}", profile.display()))
            .arg(page)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("Chromium starts");
        Self(child)
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        if let Some(group) = self.0.id() {
            crate::signal("KILL", &format!("-{group}"));
        }
    }
}

/// Answers one request; a report if it was one.
async fn answer(stream: TcpStream) -> Option<Value> {
    let mut stream = BufReader::new(stream);
    let (mut first, mut length) = (String::new(), 0);
    stream.read_line(&mut first).await.expect("a request");
    loop {
        let mut line = String::new();
        // Chromium opens connections that it may not use.
        if stream.read_line(&mut line).await.expect("a header") == 0 {
            return None;
        }
        if let Some(value) = line.to_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().expect("a length");
        }
        if line == "\r\n" {
            break;
        }
    }
    let mut body = vec![0; length];
    stream.read_exact(&mut body).await.expect("a body");
    let page = if first.starts_with("GET / ") {
        include_str!("page.html")
    } else {
        ""
    };
    let answer = format!(
        "HTTP/1.1 200 OK\r\ncontent-type: text/html\r\nconnection: close\r\ncontent-length: {}\r\n\r\n{page}",
        page.len()
    );
    stream
        .write_all(answer.as_bytes())
        .await
        .expect("it listens");
    first
        .starts_with("POST /report ")
        .then(|| serde_json::from_slice(&body).expect("JSON"))
}

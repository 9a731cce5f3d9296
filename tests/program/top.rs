//! `top`: what a metrics address says, as rates.

use std::net::SocketAddr;

use http::Request;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    time::timeout,
};
use tokio_util::task::AbortOnDropHandle;
use tonic::Code;
use tower_iroh::Peer;

use crate::{
    proxies::{Backend, client, http1, odd_backend, request},
    running::Running,
    support::{Ended, PATIENCE, run},
};

const ECHO: &str = "tower_iroh.echo.v1.Echo/Echo";

/// An endpoint in front of a server, its ticket, and where its metrics are.
pub async fn measured(backend: &str) -> (Running, String, String) {
    let args = [backend, "--allow-all", "--metrics", "127.0.0.1:0"];
    let (mut exposed, ticket) = Running::expose(&args).await;
    let said = exposed.says("exposing").await;
    let url = said
        .lines()
        .find_map(|line| line.strip_prefix("metrics at http://"));
    let metrics = url
        .and_then(|url| url.strip_suffix("/metrics"))
        .expect("an address");
    (exposed, ticket, metrics.to_owned())
}

/// `top --json` while it runs.
struct Live(Running);

impl Live {
    /// It counts from here on.
    async fn start(address: &str) -> Self {
        let mut live = Self(Running::start([
            "top",
            address,
            "--json",
            "--interval",
            "0.1",
        ]));
        live.next().await;
        live
    }

    async fn next(&mut self) -> Value {
        serde_json::from_str(&self.0.line().await).expect("JSON")
    }

    /// The calls of a method by peer, from now until there are so many of them; and how many failed with a code.
    async fn count(&mut self, method: &str, calls: f64, code: &str) -> (String, f64) {
        let (mut peer_name, mut counted, mut failed) = (String::new(), 0.0, 0.0);
        let counting = async {
            while counted < calls - 0.5 {
                let line = self.next().await;
                let seconds = line["seconds"].as_f64().unwrap_or_default();
                for peer in line["peers"].as_array().into_iter().flatten() {
                    for it in peer["methods"].as_array().expect("methods") {
                        let rate = it["calls_per_s"].as_f64().expect("a number");
                        assert!(rate >= 0.0, "{line}");
                        if it["method"] == method && rate > 0.0 {
                            peer_name = peer["peer"].as_str().expect("text").to_owned();
                            counted += rate * seconds;
                            failed +=
                                it["codes_per_s"][code].as_f64().unwrap_or_default() * seconds;
                            assert!(it["p99_ms"].as_f64() >= it["p50_ms"].as_f64(), "{line}");
                            assert!(it["p50_ms"].as_f64() > Some(0.0), "{line}");
                        }
                    }
                }
            }
        };
        timeout(PATIENCE, counting).await.expect("in time");
        assert!((counted - calls).abs() < 1e-6, "{counted} of {calls}");
        (peer_name, failed.round())
    }
}

#[tokio::test]
async fn top_counts_calls_by_peer_method_and_code() {
    let backend = Backend::start().await;
    let (_exposed, ticket, metrics) = measured(&backend.address()).await;
    let (_gateway, address) = Running::gateway(&["--peer", &format!("db={ticket}")]).await;
    let mut client = client(&address);
    client.echo(request(b"known")).await.expect("answered");
    let mut of_gateway = Live::start(&address).await;
    let mut of_expose = Live::start(&metrics).await;
    for _ in 0..5 {
        client.echo(request(b"hello")).await.expect("answered");
    }
    assert_eq!(
        of_gateway.count(ECHO, 5.0, "UNAVAILABLE").await,
        ("db".to_owned(), 0.0)
    );
    let (caller, _) = of_expose.count(ECHO, 5.0, "UNAVAILABLE").await;
    assert_eq!(caller.len(), 64, "the gateway's id");

    backend.stop().await;
    for _ in 0..2 {
        let status = client.echo(request(b"away")).await.expect_err("away");
        assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    }
    assert_eq!(
        of_gateway.count(ECHO, 2.0, "UNAVAILABLE").await,
        ("db".to_owned(), 2.0)
    );
    assert_eq!(
        of_expose.count(ECHO, 2.0, "UNAVAILABLE").await,
        (caller, 2.0)
    );

    // A client may name any id, and there is no end of them.
    let mut by_id = request(b"by id");
    let id = ticket.parse::<Peer>().expect("a ticket").id().to_string();
    by_id
        .metadata_mut()
        .insert("x-iroh-peer", id.parse().expect("metadata"));
    client.echo(by_id).await.expect_err("away");
    // No call of it has succeeded, so its method has no name yet.
    assert_eq!(
        of_gateway.count("_OTHER", 1.0, "UNAVAILABLE").await,
        ("by_id".to_owned(), 1.0)
    );

    // In a pipe it is one table.
    let table = run(["top", &metrics, "--interval", "0.1"]).await;
    assert_eq!(table.code, Some(0), "{table:?}");
    for text in ["calls/s", "server ", ECHO, "packets sent as server"] {
        assert!(table.stdout.contains(text), "no {text:?} in {table:?}");
    }
    of_expose.0.signal("INT").await;
    assert_eq!(of_expose.0.ended().await.code(), Some(130));
}

#[tokio::test]
async fn top_goes_on_when_its_program_restarts() {
    let backend = Backend::start().await;
    let (_exposed, ticket) = Running::expose(&[&backend.address(), "--allow-all"]).await;
    let id = ticket.parse::<Peer>().expect("a ticket").id().to_string();
    let (mut gateway, address) = Running::gateway(&[&ticket]).await;
    let mut live = Live::start(&address).await;
    for _ in 0..8 {
        client(&address)
            .echo(request(b"before"))
            .await
            .expect("answered");
    }
    assert_eq!(
        live.count(ECHO, 8.0, "UNAVAILABLE").await,
        (id.clone(), 0.0)
    );
    gateway.kill().await;
    let silent = loop {
        let line = live.next().await;
        if line["error"].is_string() {
            break line;
        }
    };
    assert!(silent["no_answer_s"].as_f64() > Some(0.0), "{silent}");
    let (_gateway, again) = Running::gateway(&[&ticket, "--listen", &address]).await;
    assert_eq!(again, address);
    for _ in 0..3 {
        client(&address)
            .echo(request(b"after"))
            .await
            .expect("answered");
    }
    assert_eq!(live.count(ECHO, 3.0, "UNAVAILABLE").await, (id, 0.0));
}

/// What `top` says of something that gives this answer to everybody.
async fn told(answer: &'static str) -> Ended {
    let (addr, serving) = odd_backend(Some(answer.as_bytes())).await;
    let ended = run(["top", &addr.to_string()]).await;
    serving.abort();
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(
        ended.stderr.contains(&addr.to_string()),
        "it names the address: {ended:?}"
    );
    assert_eq!(ended.stdout, "", "{ended:?}");
    ended
}

#[tokio::test]
async fn top_says_what_is_wrong_with_an_address() {
    // Bound, so that nobody else listens there, and not listening.
    let free = tokio::net::TcpSocket::new_v4().expect("a socket");
    free.bind(([127, 0, 0, 1], 0).into()).expect("bound");
    let addr = free.local_addr().expect("an address").to_string();
    let nobody = run(["top", &addr]).await;
    assert_eq!(nobody.code, Some(1), "{nobody:?}");
    assert!(nobody.stderr.contains("cannot be reached"), "{nobody:?}");
    assert!(nobody.stderr.contains("--metrics ADDR"), "{nobody:?}");

    for (answer, text) in [
        ("SSH-2.0-OpenSSH_9.9\r\n", "does not speak HTTP/1.1"),
        (
            "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n",
            "404 Not Found",
        ),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 7\r\n\r\n<html>\n",
            "not in Prometheus' text format",
        ),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 13\r\n\r\nnode_load1 1\n",
            "none of tower-iroh",
        ),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n",
            "no answer in 5 s",
        ),
    ] {
        let ended = told(answer).await;
        assert!(ended.stderr.contains(text), "no {text:?} in {ended:?}");
    }

    let wrong = run(["top", "7001"]).await;
    assert_eq!(wrong.code, Some(2), "{wrong:?}");
    assert!(
        wrong.stderr.contains("`http://host:port/path`"),
        "{wrong:?}"
    );
}

#[tokio::test]
async fn top_reads_no_answer_without_end() {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bound");
    let addr = listener.local_addr().expect("an address").to_string();
    let _serving = AbortOnDropHandle::new(tokio::spawn(async move {
        let (mut io, _) = listener.accept().await.expect("a caller");
        let _ = io.read(&mut [0; 1024]).await;
        let _ = io.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
        while io.write_all(&[b'\n'; 1 << 16]).await.is_ok() {}
    }));
    let ended = run(["top", &addr]).await;
    assert_eq!(ended.code, Some(1), "{ended:?}");
    assert!(ended.stderr.contains("at most 16 MiB"), "{ended:?}");
}

#[tokio::test]
async fn top_shows_the_gateways_token() {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("token");
    std::fs::write(&file, "0123456789abcdef\n").expect("written");
    let file = file.to_str().expect("text");
    let (_gateway, address) = Running::gateway(&["--token-file", file]).await;
    let stranger = run(["top", &address, "--once"]).await;
    assert_eq!(stranger.code, Some(1), "{stranger:?}");
    assert!(
        stranger.stderr.contains("--token-file FILE"),
        "{stranger:?}"
    );
    let shown = run([
        "top",
        &address,
        "--once",
        "--interval",
        "0.1",
        "--token-file",
        file,
    ])
    .await;
    assert_eq!(shown.code, Some(0), "{shown:?}");
    assert!(shown.stdout.contains("no calls yet"), "{shown:?}");
}

#[tokio::test]
async fn expose_answers_probes_and_prometheus_on_this_machine_alone() {
    let backend = Backend::start().await;
    let (_exposed, _ticket, metrics) = measured(&backend.address()).await;
    let addr: SocketAddr = metrics.parse().expect("an address");
    for (path, host, status) in [
        ("/healthz", "probe.example", 200),
        ("/readyz", "probe.example", 200),
        ("/metrics", &*addr.to_string(), 200),
        ("/metrics", "localhost", 200),
        ("/metrics", "evil.example", 404),
        ("/else", "localhost", 404),
    ] {
        let request = Request::get(path).header("host", host);
        let answer = http1(
            &metrics,
            request.body(Default::default()).expect("a request"),
        );
        let answer = timeout(PATIENCE, answer).await.expect("in time");
        assert_eq!(answer.status(), status, "{path} of {host}");
    }
    let open = run([
        "expose",
        "127.0.0.1:1",
        "--allow-all",
        "--metrics",
        "0.0.0.0:0",
    ])
    .await;
    assert_eq!(open.code, Some(2), "{open:?}");
    assert!(open.stderr.contains("listen on 127.0.0.1"), "{open:?}");
    assert_eq!(open.stdout, "", "no ticket");
}

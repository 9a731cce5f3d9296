//! A gateway whose configuration has both transports: it falls back, moves a share of the calls, and measures, as any client does.

use std::time::Duration;

use http::Request;
use tokio::time::timeout;
use tonic::transport::Endpoint;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tower_iroh::Peer;

use crate::{
    proxies::{Backend, client, http1, request},
    running::Running,
    support::PATIENCE,
};

/// A server exposed on both transports, and its peer's addresses.
async fn exposed() -> (Backend, Running, Peer) {
    let backend = Backend::start().await;
    let args = [&backend.address(), "--allow-all", "--tcp", "127.0.0.1:0"];
    let (exposed, ticket) = Running::expose(&args).await;
    let peer: Peer = ticket.parse().expect("a ticket");
    assert!(peer.tcp().is_some(), "{peer:?}");
    (backend, exposed, peer)
}

/// A gateway to this peer, with this text after `mode = "dual"`.
async fn gateway(peer: &Peer, more: &str) -> (tempfile::TempDir, Running, String) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("gateway.toml");
    let ticket = peer.ticket();
    let text = format!("[transport]\nmode = \"dual\"\n{more}\n[peers.db]\nticket = \"{ticket}\"\n");
    std::fs::write(&file, text).expect("written");
    let name = file.to_str().expect("text");
    let (gateway, address) = Running::gateway(&["--config", name, "db"]).await;
    (folder, gateway, address)
}

/// The sum of the series whose line begins with the name and has all of these labels.
async fn metric(address: &str, name: &str, labels: &[&str]) -> f64 {
    let asked = Request::get("/metrics").header("host", "localhost");
    let asked = asked.body(Default::default()).expect("a request");
    let page = http1(address, asked).await.into_body();
    let page = String::from_utf8_lossy(&page);
    page.lines()
        .filter(|line| line.starts_with(name) && labels.iter().all(|it| line.contains(it)))
        .filter_map(|line| line.rsplit_once(' ')?.1.parse::<f64>().ok())
        .sum::<f64>()
        // An empty sum is -0.
        + 0.0
}

const ECHO: &str = "[transport.services]\necho = [\"tower_iroh.echo.v1.Echo\"]\n";

#[tokio::test]
async fn it_falls_back_to_tcp_while_iroh_does_not_reach_the_peer() {
    let (_backend, mut over_both, peer) = exposed().await;
    let prefers = format!("{ECHO}[transport.migration]\nprefer_iroh_for = [\"echo\"]\n");
    let (_folder, _gateway, address) = gateway(&peer, &prefers).await;
    let mut calling = client(&address);
    // While iroh's connection is not there yet, TCP has the call.
    let preferred = async {
        while shares(&address).await[0] == 0.0 {
            calling.echo(request(b"iroh")).await.expect("answered");
        }
    };
    timeout(PATIENCE, preferred).await.expect("iroh has calls");

    // Nobody is at the address that iroh has of the peer.
    let unreachable = Peer::new(peer.id()).with_tcp(peer.tcp().expect("TCP").clone());
    let (_folder, _gateway, address) = gateway(&unreachable, &prefers).await;
    let mut calling = client(&address);
    for _ in 0..10 {
        calling.echo(request(b"tcp")).await.expect("answered");
    }
    assert_eq!(measured(&address, 10.0).await, [0.0, 10.0]);
    let fell = metric(
        &address,
        "tower_iroh_select_fallbacks_total{",
        &["to=\"tcp\""],
    )
    .await;
    assert_eq!(fell, 10.0);

    // Both are gone, and the caller is told.
    over_both.kill().await;
    let told = async { while calling.echo(request(b"nobody")).await.is_ok() {} };
    timeout(PATIENCE * 2, told).await.expect("told");
}

#[tokio::test]
async fn a_share_of_the_calls_goes_over_iroh() {
    let (_backend, _exposed, peer) = exposed().await;
    // Nothing here is to take the share back: a busy machine makes either transport slow.
    let rollout = format!(
        "{ECHO}[transport.migration]\nprefer_iroh_for = [\"health\"]\n\
         [transport.rollout]\nservices = [\"echo\"]\nstages = [50, 100]\n\
         max_error_difference = 1\nmax_p99_ratio = 1000\nmax_p99_difference_ms = 60000\n"
    );
    let (_folder, _gateway, address) = gateway(&peer, &rollout).await;
    // Iroh's connection is there before the calls that are shared.
    let channel = Endpoint::from_shared(format!("http://{address}")).expect("a URI");
    let mut health = HealthClient::new(channel.connect_lazy());
    let connected = async {
        while answered(&address, "iroh", "Health/Check").await == 0.0 {
            let asked = tonic::Request::new(HealthCheckRequest::default());
            health.check(asked).await.expect("answered");
        }
    };
    timeout(PATIENCE, connected).await.expect("connected");
    let mut calling = client(&address);
    let mut before = [0.0, 0.0];
    let shared = async {
        loop {
            for _ in 0..200 {
                calling.echo(request(b"share")).await.expect("answered");
            }
            let now = measured(&address, before[0] + before[1] + 200.0).await;
            // Six standard deviations to either side.
            if (57.0..=143.0).contains(&(now[0] - before[0])) {
                return;
            }
            before = now;
        }
    };
    timeout(PATIENCE, shared).await.expect("both have a share");
    assert_eq!(
        metric(&address, "tower_iroh_select_canary_share{", &[]).await,
        0.5
    );
}

/// How many calls of the echo service went over iroh, and over TCP.
async fn shares(address: &str) -> [f64; 2] {
    let iroh = answered(address, "iroh", "Echo/Echo").await;
    [iroh, answered(address, "tcp", "Echo/Echo").await]
}

/// The same once so many calls have been measured, which may be a moment after their answers.
async fn measured(address: &str, count: f64) -> [f64; 2] {
    let measured = async {
        loop {
            let [iroh, tcp] = shares(address).await;
            if iroh + tcp >= count {
                assert_eq!(iroh + tcp, count, "each call is measured once");
                return [iroh, tcp];
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    timeout(PATIENCE, measured).await.expect("measured")
}

/// How many calls of a method were answered with OK over a transport.
async fn answered(address: &str, transport: &str, method: &str) -> f64 {
    let name = "tower_iroh_client_attempt_duration_seconds_count{";
    let transport = format!("transport=\"{transport}\"");
    metric(address, name, &[&transport, method, "\"OK\""]).await
}

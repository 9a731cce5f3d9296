//! Paths through a relay, which runs in this process.

use std::net::Ipv4Addr;

use iroh::{Endpoint, EndpointAddr, RelayConfig, RelayMap, RelayMode, RelayUrl};
use iroh_relay::server::{RelayConfig as RelayServerConfig, Server as Relay, ServerConfig};
use tower_iroh::{Acceptor, Links, Path, Peer, presets::Offline};

use crate::support::{Arm, Caller, Server, on_both_arms, soon, until};

on_both_arms! {
    relay_only
    relay_upgrades_to_direct
    relay_gone_after_the_upgrade
}

async fn relay() -> (Relay, RelayUrl) {
    let mut config = ServerConfig::default();
    config.relay = Some(RelayServerConfig::new((Ipv4Addr::LOCALHOST, 0)));
    let relay = Relay::spawn(config).await.expect("a relay");
    let addr = relay.http_addr().expect("configured");
    let url = format!("http://{addr}").parse().expect("a URL");
    (relay, url)
}

async fn endpoint(url: &RelayUrl, direct: bool) -> Endpoint {
    // Without QUIC address discovery, which would want a certificate.
    let map: RelayMap = RelayConfig::new(url.clone(), None).into();
    let mut builder = Endpoint::builder(Offline).relay_mode(RelayMode::Custom(map));
    if !direct {
        builder = builder.clear_ip_transports();
    }
    let endpoint = builder.bind().await.expect("bound");
    soon("the relay", endpoint.online()).await;
    endpoint
}

/// A server and a caller who knows nothing of it but its relay.
async fn pair(arm: Arm, url: &RelayUrl, direct: bool) -> (Server, Caller) {
    let server = Server::on(endpoint(url, direct).await, Acceptor::builder());
    let addr = EndpointAddr::new(server.peer.id()).with_relay_url(url.clone());
    let links = Links::new(endpoint(url, direct).await);
    let caller = Caller::over(arm, &Peer::from(addr), None, links);
    (server, caller)
}

fn path(caller: &Caller) -> Path {
    let stats = caller.links.stats(caller.peer.id()).expect("connected");
    stats.path.expect("a path")
}

async fn relay_only(arm: Arm) {
    let (_relay, url) = relay().await;
    let (server, caller) = pair(arm, &url, false).await;
    for _ in 0..20 {
        soon("an answer", caller.echo(b"through the relay"))
            .await
            .expect("answered");
        assert_eq!(path(&caller), Path::Relay(url.clone()));
    }
    // A message of many packets.
    let large = vec![7; 1 << 20];
    soon("an answer", caller.echo(&large))
        .await
        .expect("answered");
    assert_eq!(path(&caller), Path::Relay(url));
    assert_eq!(server.stage.counts().finished, 21);
}

async fn relay_upgrades_to_direct(arm: Arm) {
    let (_relay, url) = relay().await;
    let (_server, caller) = pair(arm, &url, true).await;
    upgraded(&caller).await;
}

/// Calls without a pause until the path is direct; none of them fails.
async fn upgraded(caller: &Caller) {
    let calls = async {
        loop {
            caller.echo(b"on the way").await.expect("answered");
            if path(caller).is_direct() {
                return;
            }
        }
    };
    soon("the direct path", calls).await;
    let stats = caller.links.stats(caller.peer.id()).expect("connected");
    let established = stats.established_at;
    soon("an answer", caller.echo(&[1; 100_000]))
        .await
        .expect("answered");
    let stats = caller.links.stats(caller.peer.id()).expect("connected");
    assert_eq!(stats.established_at, established, "the same connection");
    assert!(stats.path.is_some_and(|path| path.is_direct()));
}

async fn relay_gone_after_the_upgrade(arm: Arm) {
    let (relay, url) = relay().await;
    let (_server, caller) = pair(arm, &url, true).await;
    upgraded(&caller).await;
    soon("the relay's end", relay.shutdown())
        .await
        .expect("shut down");
    for _ in 0..20 {
        soon("an answer", caller.echo(b"without a relay"))
            .await
            .expect("answered");
    }
    until("the direct path", || path(&caller).is_direct()).await;
}

//! Peers behind routers that translate addresses, and behind a firewall that lets no UDP out.

use std::time::Duration;

use tokio::time::sleep;
use tower_iroh::{Links, Path};
use tower_iroh_lab::{Case, Gateway, Internet, Outcome, Site};

use crate::{
    place::{Arm, Caller, Server, everywhere},
    relay::Relay,
    support::until,
    traffic::{Pace, Traffic},
};

pub fn cases() -> Vec<Case> {
    [
        Case::new("home_to_home_becomes_direct", || {
            punched(Gateway::Home, Gateway::Home)
        }),
        Case::new("home_to_open_becomes_direct", || {
            punched(Gateway::Home, Gateway::Open)
        }),
        Case::new("symmetric_to_symmetric_stays_on_the_relay", || {
            relayed(Gateway::Symmetric, Gateway::Symmetric)
        }),
        Case::new("without_udp_it_goes_by_tcp_through_the_relay", || {
            relayed(Gateway::NoUdp, Gateway::NoUdp)
        }),
        Case::new("without_udp_on_one_side_too", || {
            relayed(Gateway::NoUdp, Gateway::Open)
        }),
    ]
    .map(|case| case.needs("nft"))
    .into()
}

/// Three hosts on an internet.
struct World {
    relay: Relay,
    server: Server,
    client: Site,
    _internet: Internet,
}

fn world(client: Gateway, server: Gateway) -> Result<World, tower_iroh_lab::LabError> {
    let internet = Internet::new([
        ("relay", Gateway::Open),
        ("server", server),
        ("client", client),
    ])?;
    let host = internet.host("relay");
    let relay = host.block_on(Relay::start(host.address()));
    let host = internet.host("server");
    let known = relay.clone();
    let server = host.block_on(async move {
        let endpoint = known.bind(everywhere()).await;
        Server::start(endpoint).await
    });
    Ok(World {
        relay,
        server,
        client: internet.host("client").clone(),
        _internet: internet,
    })
}

type Party = (Caller, Traffic);

/// Both kinds of clients on the client's host, with an answer each.
async fn start(relay: &Relay, server: &Server) -> Vec<Party> {
    let mut parties = Vec::new();
    for arm in [Arm::Channel, Arm::Tonic] {
        let links = Links::new(relay.bind(everywhere()).await);
        let caller = Caller::over(arm, &relay.peer(server.endpoint.id()), links);
        let mut traffic =
            Traffic::start(&format!("{arm:?}"), &caller.service, Pace::default()).await;
        traffic.goes_on(1, 1).await;
        parties.push((caller, traffic));
    }
    parties
}

/// A hole is punched while calls go on, and none of them notices.
fn punched(client: Gateway, server: Gateway) -> Outcome {
    let world = world(client, server)?;
    let (relay, server) = (world.relay.clone(), world.server.clone());
    world.client.block_on(async move {
        for (caller, mut traffic) in start(&relay, &server).await {
            let direct = || caller.path().is_some_and(|path| path.is_direct());
            until("a direct path", direct).await;
            traffic.goes_on(50, 20).await;
            assert!(direct(), "it stays direct");
            traffic.stop().await.check_all_well(&server.desk);
        }
    });
    Ok(())
}

/// There is no direct way, and calls go on by the relay.
fn relayed(client: Gateway, server: Gateway) -> Outcome {
    let world = world(client, server)?;
    let (relay, server) = (world.relay.clone(), world.server.clone());
    world.client.block_on(async move {
        let parties = start(&relay, &server).await;
        // A hole that can be punched takes a tenth of this.
        sleep(Duration::from_secs(2)).await;
        for (caller, mut traffic) in parties {
            traffic.goes_on(50, 20).await;
            assert_eq!(caller.path(), Some(Path::Relay(relay.url.clone())));
            traffic.stop().await.check_all_well(&server.desk);
        }
    });
    Ok(())
}

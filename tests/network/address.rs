//! A host moves to another address in the middle of calls and streams.

use std::{net::Ipv4Addr, time::Duration};

use iroh::Endpoint;
use tokio::time::Instant;
use tonic::Code;
use tower_iroh_lab::{Case, Conditions, LabError, Network, Outcome};

use crate::{
    place::{Arm, Caller, Server, everywhere},
    relay::behind_relay,
    support::until,
    traffic::{Pace, Traffic},
};

pub fn cases() -> Vec<Case> {
    vec![
        Case::new("the_client_moves_to_another_address", client_moves),
        Case::new("the_server_moves_to_another_address", server_moves),
    ]
}

fn client_moves() -> Outcome {
    let network = Network::new(["client", "server"])?;
    let shared = network.clone();
    network.host("client").block_on(async move {
        let network = shared;
        let link = network.link("client", "server");
        link.set(Conditions::wan(Duration::from_millis(20)));
        let (server, peer) = Server::on(network.host("server")).await;
        let mut parties = Vec::new();
        for arm in [Arm::Channel, Arm::Tonic] {
            let caller = Caller::new(arm, &peer).await;
            parties.push(begin(&format!("{arm:?}"), caller).await);
        }
        let endpoints: Vec<_> = parties
            .iter()
            .map(|(caller, ..)| caller.links.endpoint().clone())
            .collect();
        let moved = move_host(&network, "client", &endpoints).await?;
        for (caller, ..) in &parties {
            // As a program on Android is told; elsewhere iroh notices by itself.
            caller.links.network_changed().await;
        }
        for (_, traffic, _) in &mut parties {
            traffic.answers_to_what_began_after(moved).await;
            traffic.goes_on(50, 30).await;
        }
        // Mostly 0.04 to 0.5 s. Where the last packets of the old path are lost QUIC takes seconds to repeat them, for which a new call of tonic's waits
        // (docs/decisions/after-a-change-of-address.md).
        for ((caller, traffic, established), most) in parties.into_iter().zip([3, 8]) {
            let stats = caller.links.stats(caller.peer).expect("connected");
            let report = traffic.stop().await;
            let fresh = report.first_fresh_answer(moved).expect("answered");
            println!(
                "first answer {:?}, to a new call {fresh:?}; the same connection: {}; now {stats}",
                report.first_answer(moved),
                stats.established_at == established,
            );
            assert!(fresh < Duration::from_secs(most), "{fresh:?}");
            // The streams too: whichever connection takes new calls, theirs goes on.
            report.check_all_well(&server.desk);
        }
        Ok(())
    })
}

/// With a relay, since who knows an address and nothing else can't find a server that has left it. Calls may end with their connection,
/// and others are answered.
fn server_moves() -> Outcome {
    let network = Network::new(["client", "server", "relay"])?;
    let shared = network.clone();
    network.host("client").block_on(async move {
        let network = shared;
        let (_relay, server, callers) = behind_relay(&network, everywhere).await;
        let mut parties = Vec::new();
        for (number, caller) in callers.into_iter().enumerate() {
            parties.push(begin(&format!("moved-{number}"), caller).await);
        }
        for (caller, ..) in &parties {
            let direct = || caller.path().is_some_and(|path| path.is_direct());
            until("a direct path", direct).await;
        }
        let moved = move_host(&network, "server", std::slice::from_ref(&server.endpoint)).await?;
        for (_, traffic, _) in &mut parties {
            traffic.answers_to_what_began_after(moved).await;
        }
        for (caller, traffic, established) in parties {
            let report = traffic.stop().await;
            let stats = caller.links.stats(caller.peer).expect("connected");
            println!(
                "first answer {:?}, to a new call {:?}; {} of {} calls failed; the same connection: {}; now {stats}",
                report.first_answer(moved),
                report.first_fresh_answer(moved),
                report.failures(),
                report.calls.len(),
                stats.established_at == established,
            );
            report.check(&server.desk, &[Code::Unavailable]);
        }
        Ok(())
    })
}

type Party = (Caller, Traffic, std::time::SystemTime);

async fn begin(name: &str, caller: Caller) -> Party {
    let mut traffic = Traffic::start(name, &caller.service, Pace::default()).await;
    traffic.goes_on(20, 10).await;
    let stats = caller.links.stats(caller.peer).expect("connected");
    (caller, traffic, stats.established_at)
}

/// Gives the host another address and takes its first away, as a laptop does that changes from one network to another: it has both for
/// a moment. When that was.
async fn move_host(
    network: &Network,
    host: &str,
    endpoints: &[Endpoint],
) -> Result<Instant, LabError> {
    let old = network.host(host).address();
    let new: Ipv4Addr = network.add_address(host, 1)?;
    let seen = |endpoint: &Endpoint| endpoint.addr().ip_addrs().any(|addr| addr.ip() == new);
    until("iroh to see the new address", || endpoints.iter().all(seen)).await;
    network.remove_address(host, old)?;
    Ok(Instant::now())
}

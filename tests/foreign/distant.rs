//! Gateway and peer on two hosts, 40 ms apart, with a link that loses one packet in a hundred.

use std::time::Duration;

use tower_iroh_lab::{Case, Conditions, Network, Outcome};

use crate::{
    calls::{CASES, KILLED},
    clients::{Client, PATIENCE},
    route::{Exposed, Route, Way},
    server::Server,
};

pub fn cases() -> Vec<Case> {
    let all = |client: Client| {
        let name = format!("{}::distant::all", client.name());
        Case::new(name, move || all(client)).unless(client.missing())
    };
    let restarted = |client: Client| {
        let name = format!("{}::distant::restarted", client.name());
        Case::new(name, move || restarted(client)).unless(client.missing())
    };
    let clients = [Client::Python, Client::JavaScript];
    clients
        .into_iter()
        .flat_map(|it| [all(it), restarted(it)])
        .collect()
}

/// A server, what exposes it, and a gateway far away from both.
struct Far {
    network: Network,
    server: Server,
    route: Route,
}

impl Far {
    fn lay() -> Result<Self, Box<dyn std::error::Error + Send + Sync>> {
        let network = Network::new(["client", "server"])?;
        let way = Conditions::wan(Duration::from_millis(40)).with_loss(0.01);
        network.link("client", "server").set(way);
        let (here, there) = ["client", "server"].map(|name| network.host(name)).into();
        let at = there.address();
        let (server, peer) = there.block_on(async move {
            let server = Server::start(0).await;
            let peer = Exposed::start(server.addr, at).await;
            (server, peer)
        });
        let from = here.address();
        let route = here.block_on(Route::gateway(Way::Gateway, peer, from, None));
        Ok(Self {
            network,
            server,
            route,
        })
    }
}

/// One client runs all cases over one gateway.
fn all(client: Client) -> Outcome {
    let Far {
        network,
        server,
        route,
    } = Far::lay()?;
    network.host("client").block_on(async move {
        // The pings go to the gateway, which is near.
        let cases: Vec<_> = CASES.into_iter().filter(|it| *it != "keepalive").collect();
        let passed = client.start(&route, &cases).passed();
        let passed = tokio::time::timeout(PATIENCE, passed).await;
        passed.expect("in time");
    });
    drop(server);
    Ok(())
}

/// The server is killed and comes back, and is killed once more in the middle of a stream.
fn restarted(client: Client) -> Outcome {
    let Far {
        network,
        server,
        route,
    } = Far::lay()?;
    let (here, there) = ["client", "server"].map(|name| network.host(name)).into();
    let (route, mut run) = here.block_on(async move {
        let mut run = client.start(&route, &["restart"]);
        run.event("well").await;
        (route, run)
    });
    let port = there.block_on(server.kill());
    let mut run = here.block_on(async move {
        run.say("gone").await;
        run.event("unavailable").await;
        run
    });
    let server = there.block_on(Server::start(port));
    let (_route, run) = here.block_on(async move {
        run.say("back").await;
        run.passed().await;
        let mut run = client.start(&route, &["killed"]);
        run.event("streaming").await;
        (route, run)
    });
    there.block_on(server.kill());
    let code = here.block_on(run.passed());
    assert_eq!(code, KILLED);
    Ok(())
}

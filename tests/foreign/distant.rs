//! Gateway and peer on two hosts, 40 ms apart, with a link that loses one packet in a hundred.

use std::time::Duration;

use tower_iroh_lab::{Case, Conditions, Network, Outcome};

use crate::{
    calls::CASES,
    clients::{Client, PATIENCE},
    route::{Exposed, Route, Way},
    server::Server,
};

pub fn cases() -> Vec<Case> {
    let clients = [Client::Python, Client::JavaScript];
    clients
        .map(|client| {
            let name = format!("{}::distant::all", client.name());
            Case::new(name, move || all(client)).unless(client.missing())
        })
        .into()
}

/// One client runs all cases over one gateway.
fn all(client: Client) -> Outcome {
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
    here.block_on(async move {
        let route = Route::gateway(Way::Gateway, peer, from, None).await;
        // The pings go to the gateway, which is near.
        let cases: Vec<_> = CASES.into_iter().filter(|it| *it != "keepalive").collect();
        let passed = client.start(&route, &cases).passed();
        let passed = tokio::time::timeout(PATIENCE, passed).await;
        passed.expect("in time");
    });
    drop(server);
    Ok(())
}

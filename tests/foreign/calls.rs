//! The cases of client.py and client.js, each with a server of its own.

use tower_iroh_lab::Case;

use crate::{
    case,
    clients::Client,
    route::{Route, Way},
    server::Server,
    support::{Arm, ServerOptions, World},
};

/// What a client does by itself.
pub const CASES: [&str; 14] = [
    "unary",
    "server_stream",
    "client_stream",
    "bidi_stream",
    "ping_pong",
    "metadata",
    "status",
    "status_details",
    "deadline",
    "cancellation",
    "gzip",
    "size_limits",
    "many_callers",
    "keepalive",
];

/// What is asked of a connection that began as CONNECT: the rest does not depend on that.
const THROUGH_A_PROXY: [&str; 7] = [
    "unary",
    "ping_pong",
    "metadata",
    "cancellation",
    "many_callers",
    "restart",
    "killed_server",
];

/// What needs somebody who kills or stops a server.
const LED: [&str; 3] = ["restart", "killed_server", "unanswered_pings"];

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for client in [Client::Python, Client::JavaScript] {
        for way in Way::ALL {
            for name in names(client, way) {
                let full = format!("{}::{}::{name}", client.name(), way.name());
                let run = move || run(client, way, name);
                cases.push(case(full, client.missing(), run));
            }
        }
    }
    let missing = Client::Python.missing().or(Client::JavaScript.missing());
    let name = "both::gateway::killed_peer".to_owned();
    cases.push(case(name, missing, killed_peer));
    cases
}

fn names(client: Client, way: Way) -> Vec<&'static str> {
    let mut names = match way {
        Way::Proxy => return THROUGH_A_PROXY.into(),
        Way::Direct | Way::Gateway => [&CASES[..], &LED].concat(),
    };
    if client == Client::JavaScript {
        names.push("gzip_on_the_wire");
    }
    names
}

async fn run(client: Client, way: Way, name: &'static str) {
    match name {
        "restart" => restart(client, way).await,
        "killed_server" => killed_server(client, way).await,
        "unanswered_pings" => unanswered_pings(client, way).await,
        name => alone(client, way, name).await,
    }
}

/// A case that needs no other hand. The server says whether it saw what only a server sees.
async fn alone(client: Client, way: Way, name: &str) {
    let world = World::start(Arm::Tcp, ServerOptions::default()).await;
    let route = Route::lay(way, world.server_addr().expect("TCP")).await;
    client.start(&route, &[name]).passed().await;
    if ["cancellation", "deadline"].contains(&name) {
        let ended = world.backstage.wait("a handler that was dropped", |it| {
            it.cancelled > 0 && it.begun == it.finished + it.cancelled
        });
        ended.await;
    }
}

/// The server is killed and comes back where it was.
async fn restart(client: Client, way: Way) {
    let server = Server::start(0).await;
    let route = Route::lay(way, server.addr).await;
    let mut run = client.start(&route, &["restart"]);
    run.event("well").await;
    let port = server.kill().await;
    run.say("gone").await;
    run.event("unavailable").await;
    let _server = Server::start(port).await;
    run.say("back").await;
    run.passed().await;
}

/// The server is killed in the middle of a stream.
async fn killed_server(client: Client, way: Way) {
    let server = Server::start(0).await;
    let route = Route::lay(way, server.addr).await;
    let mut run = client.start(&route, &["killed"]);
    run.event("streaming").await;
    server.kill().await;
    assert_eq!(run.passed().await, KILLED);
}

/// Whoever answers the client's pings is stopped: the client finds out, so its pings are sent. Without this `keepalive` would prove nothing.
async fn unanswered_pings(client: Client, way: Way) {
    let server = Server::start(0).await;
    let route = Route::lay(way, server.addr).await;
    let mut run = client.start(&route, &["unanswered_pings"]);
    run.event("streaming").await;
    match way {
        Way::Direct => server.stop(),
        Way::Gateway | Way::Proxy => route.stop_gateway(),
    }
    run.passed().await;
}

/// The peer between gateway and server is killed in the middle of a stream. The code is that of a server that is killed.
///
/// Nobody says that the peer is gone, so the gateway knows after half a minute of silence. Both clients wait for that together.
async fn killed_peer() {
    let server = Server::start(0).await;
    let mut route = Route::lay(Way::Gateway, server.addr).await;
    let clients = [Client::Python, Client::JavaScript];
    let mut runs = clients.map(|client| client.start(&route, &["killed"]));
    for run in &mut runs {
        run.event("streaming").await;
    }
    route.kill_peer().await;
    for run in runs {
        assert_eq!(run.passed().await, KILLED);
    }
}

/// How a stream ends whose server is killed: both clients say so of a direct call.
pub const KILLED: &str = "UNAVAILABLE";

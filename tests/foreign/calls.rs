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
const CASES: [&str; 14] = [
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
const THROUGH_A_PROXY: [&str; 5] = [
    "unary",
    "ping_pong",
    "metadata",
    "cancellation",
    "many_callers",
];

pub fn cases() -> Vec<Case> {
    let mut cases = Vec::new();
    for client in [Client::Python, Client::JavaScript] {
        for way in Way::ALL {
            let mut add = |name: &str, run: Run| {
                let name = format!("{}::{}::{name}", client.name(), way.name());
                cases.push(case(name, client.missing(), move || run(client, way)));
            };
            for name in CASES {
                if way != Way::Proxy || THROUGH_A_PROXY.contains(&name) {
                    add(
                        name,
                        Box::new(move |client, way| Box::pin(alone(client, way, name))),
                    );
                }
            }
            if client == Client::JavaScript && way != Way::Proxy {
                let run = |client, way| alone(client, way, "gzip_on_the_wire");
                add(
                    "gzip_on_the_wire",
                    Box::new(move |client, way| Box::pin(run(client, way))),
                );
            }
            add(
                "restart",
                Box::new(|client, way| Box::pin(restart(client, way))),
            );
            add(
                "killed_server",
                Box::new(|client, way| Box::pin(killed_server(client, way))),
            );
            if way != Way::Direct {
                add(
                    "killed_peer",
                    Box::new(|client, way| Box::pin(killed_peer(client, way))),
                );
            }
        }
    }
    cases
}

type Run = Box<dyn FnOnce(Client, Way) -> futures_util::future::BoxFuture<'static, ()> + Send>;

/// A case that needs no other hand. The server says whether it saw what only a server sees.
async fn alone(client: Client, way: Way, name: &str) {
    let world = World::start(Arm::Tcp, ServerOptions::default()).await;
    let route = Route::lay(way, world.server_addr().expect("TCP")).await;
    client.start(&route, name).passed().await;
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
    let mut run = client.start(&route, "restart");
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
    let mut run = client.start(&route, "killed");
    run.event("streaming").await;
    server.kill().await;
    assert_eq!(run.passed().await, KILLED);
}

/// The peer between gateway and server is killed in the middle of a stream. The code is that of a server that is killed.
async fn killed_peer(client: Client, way: Way) {
    let server = Server::start(0).await;
    let mut route = Route::lay(way, server.addr).await;
    let mut run = client.start(&route, "killed");
    run.event("streaming").await;
    route.kill_peer().await;
    assert_eq!(run.passed().await, KILLED);
}

/// How a stream ends whose server is killed: both clients say so of a direct call.
const KILLED: &str = "UNAVAILABLE";

//! A gRPC server that peers reach by its ticket.
//!
//! ```sh
//! cargo run --example hello_server
//! cargo run --example hello_client -- TICKET
//! ```
//!
//! Both run on one machine, without relay and without internet.

use std::{error::Error, path::PathBuf};

use clap::Parser;
use iroh::{Endpoint, SecretKey};
use tonic::transport::Server;
use tower_iroh::{Acceptor, Peer, identity, presets::Offline};
use tower_iroh_proto::{EchoService, echo::echo_server::EchoServer};

/// A gRPC server that peers reach by its ticket.
#[derive(Debug, Parser)]
struct Options {
    /// Where the key is kept, which is the server's identity; without, each start makes a new one.
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let key = match Options::parse().key {
        Some(path) => identity::load_or_create(path)?,
        None => SecretKey::generate(),
    };
    // `Offline` binds to 127.0.0.1 alone. For peers elsewhere: iroh's `presets::N0`, and `Tuning::auto()` on top of it.
    let endpoint = Endpoint::builder(Offline).secret_key(key).bind().await?;
    println!("{}", Peer::of(&endpoint)?.ticket());

    // README: server
    let (acceptor, incoming) = Acceptor::new();
    let router = acceptor.router(endpoint).spawn();
    Server::builder()
        .add_service(EchoServer::new(EchoService))
        .serve_with_incoming_shutdown(incoming, interrupted())
        .await?;
    router.shutdown().await?;
    // README: end
    Ok(())
}

/// Ends with Ctrl-C. Calls in flight are finished then, and the router tells the peers goodbye.
async fn interrupted() {
    if let Err(error) = tokio::signal::ctrl_c().await {
        eprintln!("stopping, since Ctrl-C cannot be waited for: {error}");
    }
}

//! A gRPC client that calls a peer by its ticket; see `hello_server`.
//!
//! ```sh
//! cargo run --example hello_client -- TICKET
//! ```

use std::{error::Error, time::Duration};

use clap::Parser;
use iroh::Endpoint;
use tower_iroh::{Channel, Peer, presets::Offline};
use tower_iroh_proto::echo::{EchoRequest, echo_client::EchoClient};

/// A gRPC client that calls a peer by its ticket.
#[derive(Debug, Parser)]
struct Options {
    /// What `hello_server` printed.
    ticket: Peer,
    /// What to say.
    #[arg(default_value = "hello")]
    words: String,
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // A malformed ticket is refused here, with what is wrong with it.
    let Options { ticket, words } = Options::parse();
    let peer = ticket.id();

    // README: client
    let endpoint = Endpoint::bind(Offline).await?;
    let channel = Channel::builder(endpoint.clone())
        .peer(ticket)
        .timeout(Duration::from_secs(5))
        .build()?;
    let mut client = EchoClient::new(channel);
    let payload = words.into();
    let answer = client.echo(EchoRequest { payload }).await?.into_inner();
    // README: end

    let words = String::from_utf8_lossy(&answer.payload);
    println!("{} answered: {words}", peer.fmt_short());
    // Says goodbye; a server whose client is only gone would wait for it to time out.
    endpoint.close().await;
    Ok(())
}

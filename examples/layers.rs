//! Layers on both sides: a policy on the server, and on the client what waits, what is tried again, and what goes first.
//!
//! ```sh
//! cargo run --example layers
//! ```

use std::{error::Error, time::Duration};

use iroh::Endpoint;
use tonic::{Request, transport::Server};
use tower_iroh::{
    Acceptor, Channel, Peer, Urgency,
    layers::{
        MethodConfig, Methods,
        authorize::{AccessPolicy, PolicyHandle},
        buffer::{BufferConfig, WaitForReady},
    },
    presets::Offline,
};
use tower_iroh_proto::{
    EchoService,
    echo::{EchoRequest, StreamRequest, echo_client::EchoClient, echo_server::EchoServer},
};

const ECHO: &str = "/tower_iroh.echo.v1.Echo/Echo";

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let ours = Endpoint::bind(Offline).await?;

    // The server: only one peer may call, and only one method.
    let endpoint = Endpoint::bind(Offline).await?;
    let peer = Peer::of(&endpoint)?;
    let (acceptor, incoming) = Acceptor::new();
    let router = acceptor.router(endpoint).spawn();
    // README: authorize
    let policy = AccessPolicy::builder()
        .role("caller", ["/tower_iroh.echo.v1.Echo/Echo"])
        .peer(ours.id().to_string(), ["caller"])
        .build()?;
    let policy = PolicyHandle::new(policy);
    let server = Server::builder()
        .layer(tower_iroh::authorize(&policy))
        .add_service(EchoServer::new(EchoService));
    // README: end
    let serving = tokio::spawn(server.serve_with_incoming(incoming));

    // README: stack
    let echo = MethodConfig::new()
        .idempotent(true)
        .urgency(Urgency::CONTROL);
    let methods = Methods::builder().method(ECHO, echo).build()?;
    let buffer = BufferConfig::builder().max_calls(100).build()?;
    let channel = Channel::builder(ours.clone())
        .peer(peer)
        .timeout(Duration::from_secs(5))
        .methods(methods)
        .stack(|stack| stack.buffer(buffer))
        .build()?;
    let mut client = EchoClient::new(channel.clone());
    // README: end

    let payload = "permitted".into();
    let answer = client.echo(EchoRequest { payload }).await?.into_inner();
    println!("unary: {:?}", answer.payload);
    let refused = client.server_stream(StreamRequest::default()).await;
    let status = refused.err().ok_or("the policy let it through")?;
    println!(
        "server streaming: {:?}, {}",
        status.code(),
        status.message()
    );

    // The breaker is forced open, as if the peer had failed. A call that can wait does so, and others are told.
    let circuit = channel.stack().circuit();
    circuit.force_open();
    let mut patient = Request::new(EchoRequest {
        payload: "it waited".into(),
    });
    patient.extensions_mut().insert(WaitForReady);
    let mut other = client.clone();
    let waits = tokio::spawn(async move { other.echo(patient).await });
    let status = client.echo(EchoRequest::default()).await;
    let status = status.err().ok_or("the breaker let it through")?;
    println!("breaker open: {:?}, {}", status.code(), status.message());
    println!(
        "buffer: {} waiting",
        channel.stack().buffer().stats().waiting
    );
    circuit.release();
    println!("released: {:?}", waits.await??.into_inner().payload);

    // A policy can be changed while calls are open; those that it no longer permits end.
    policy.reload_toml("")?;
    let status = client.echo(EchoRequest::default()).await;
    let status = status.err().ok_or("the empty policy let it through")?;
    println!("reloaded: {:?}", status.code());

    ours.close().await;
    router.shutdown().await?;
    serving.abort();
    Ok(())
}

//! Interceptors on both sides, and the standard health service: tonic's own, unchanged.
//!
//! ```sh
//! cargo run --example interceptor_health
//! ```

use std::error::Error;

use iroh::{Endpoint, EndpointId};
use tonic::{Request, Status, metadata::MetadataValue, service::Interceptor, transport::Server};
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};
use tower_iroh::{Acceptor, Channel, Peer, PeerInfo, presets::Offline};
use tower_iroh_proto::{
    EchoService,
    echo::{EchoRequest, echo_client::EchoClient, echo_server::EchoServer},
};

/// Lets one peer in. It asks the connection who is calling, so there is no token to steal.
#[derive(Clone, Debug)]
struct Only(EndpointId);

impl Interceptor for Only {
    fn call(&mut self, request: Request<()>) -> Result<Request<()>, Status> {
        let caller = request
            .extensions()
            .get::<PeerInfo>()
            .and_then(PeerInfo::id);
        println!("called from {:?}", request.metadata().get("x-called-from"));
        // Fail closed: a caller without an identity is a stranger.
        match caller {
            Some(id) if id == self.0 => Ok(request),
            _ => Err(Status::permission_denied("only one peer may call this")),
        }
    }
}

/// The client's: adds metadata to every call.
fn stamp(mut request: Request<()>) -> Result<Request<()>, Status> {
    let value = MetadataValue::from_static("example");
    request.metadata_mut().insert("x-called-from", value);
    Ok(request)
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let friend = Endpoint::bind(Offline).await?;
    let stranger = Endpoint::bind(Offline).await?;

    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_serving::<EchoServer<EchoService>>().await;
    let (acceptor, incoming) = Acceptor::new();
    let router = acceptor.router(Endpoint::bind(Offline).await?).spawn();
    let server = Server::builder()
        // Health answers everybody, echo only the friend.
        .add_service(health_service)
        .add_service(EchoServer::with_interceptor(EchoService, Only(friend.id())))
        .serve_with_incoming(incoming);
    let server = tokio::spawn(server);
    let peer = Peer::of(router.endpoint())?;

    for (name, endpoint) in [("friend", &friend), ("stranger", &stranger)] {
        let channel = Channel::builder(endpoint.clone())
            .peer(peer.clone())
            .build()?;
        let mut client = EchoClient::with_interceptor(channel, stamp);
        let payload = name.into();
        match client.echo(EchoRequest { payload }).await {
            Ok(answer) => println!("{name}: {:?}", answer.into_inner().payload),
            Err(status) => println!("{name}: {:?}, {}", status.code(), status.message()),
        }
    }

    // A health watch is a stream: each change of state arrives by itself.
    let channel = Channel::builder(stranger.clone()).peer(peer).build()?;
    let service = "tower_iroh.echo.v1.Echo".to_owned();
    let request = HealthCheckRequest { service };
    let mut client = HealthClient::new(channel);
    let mut states = client.watch(request).await?.into_inner();
    let state = states.message().await?.ok_or("the watch ended")?;
    println!("health: {:?}", state.status());
    health.set_not_serving::<EchoServer<EchoService>>().await;
    let state = states.message().await?.ok_or("the watch ended")?;
    println!("health: {:?}", state.status());

    drop(states);
    friend.close().await;
    stranger.close().await;
    router.shutdown().await?;
    server.await??;
    Ok(())
}

//! Ours: one server over iroh, and tonic's `Channel` over `Connector` or our `Channel` in front of it.

use iroh::{Endpoint, protocol::Router};
use tonic::transport::Server;
use tower_iroh::{Acceptor, Channel, Connector, Peer, StackBuilder, presets};
use tower_iroh_proto::{EchoService, echo::echo_server::EchoServer};

use crate::shared::{Fault, grpc::GrpcLink, transport::Arm};

struct Both {
    client: Endpoint,
    peer: Peer,
    _router: Router,
}

pub struct OverConnector(Both);
pub struct OverChannel(Both);
pub struct OverBareChannel(Both);

/// What a user gets who changes no setting: `presets::Offline` only takes relay and discovery away.
async fn start() -> Result<Both, Fault> {
    let server = Endpoint::bind(presets::Offline).await?;
    let peer = Peer::of(&server)?;
    let (acceptor, incoming) = Acceptor::new();
    let router = acceptor.router(server).spawn();
    tokio::spawn(
        Server::builder()
            .add_service(EchoServer::new(EchoService))
            .serve_with_incoming(incoming),
    );
    Ok(Both {
        client: Endpoint::bind(presets::Offline).await?,
        peer,
        _router: router,
    })
}

pub async fn connector() -> Result<OverConnector, Fault> {
    Ok(OverConnector(start().await?))
}

pub async fn channel() -> Result<OverChannel, Fault> {
    Ok(OverChannel(start().await?))
}

pub async fn bare_channel() -> Result<OverBareChannel, Fault> {
    Ok(OverBareChannel(start().await?))
}

impl Arm for OverConnector {
    type Link = GrpcLink<tonic::transport::Channel>;

    async fn link(&self) -> Result<Self::Link, Fault> {
        // A connector of its own, as clones of one share their connection.
        let connector = Connector::new(self.0.client.clone());
        connector.add_peer(self.0.peer.clone());
        let channel = tonic::transport::Endpoint::from(self.0.peer.uri())
            .connect_with_connector(connector)
            .await?;
        Ok(GrpcLink::new(channel))
    }
}

impl Arm for OverChannel {
    type Link = GrpcLink<Channel>;

    async fn link(&self) -> Result<Self::Link, Fault> {
        let channel = Channel::builder(self.0.client.clone())
            .peer(self.0.peer.clone())
            .build()?;
        let closing = channel.clone();
        Ok(GrpcLink::closed_by(channel, move || closing.close()))
    }
}

impl Arm for OverBareChannel {
    type Link = GrpcLink<Channel>;

    async fn link(&self) -> Result<Self::Link, Fault> {
        let channel = Channel::builder(self.0.client.clone())
            .peer(self.0.peer.clone())
            .stack(StackBuilder::without_layers)
            .build()?;
        let closing = channel.clone();
        Ok(GrpcLink::closed_by(channel, move || closing.close()))
    }
}

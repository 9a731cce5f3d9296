//! tonic's `Channel` and `Server` over TCP, unencrypted: what loopback can do at all.

use std::net::SocketAddr;

use tonic::transport::{Channel, Endpoint, Server, server::TcpIncoming};
use tower_iroh_proto::{EchoService, echo::echo_server::EchoServer};

use crate::shared::{Fault, grpc::GrpcLink, transport::Arm};

pub struct Tcp {
    endpoint: Endpoint,
}

/// A listener on a free port of the loopback, without Nagle's delay, and its address.
pub async fn listen() -> Result<(TcpIncoming, SocketAddr), Fault> {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    Ok((
        TcpIncoming::from(listener).with_nodelay(Some(true)),
        address,
    ))
}

pub async fn start() -> Result<Tcp, Fault> {
    let (incoming, address) = listen().await?;
    tokio::spawn(
        Server::builder()
            .add_service(EchoServer::new(EchoService))
            .serve_with_incoming(incoming),
    );
    Ok(Tcp {
        endpoint: Endpoint::from_shared(format!("http://{address}"))?,
    })
}

impl Arm for Tcp {
    type Link = GrpcLink<Channel>;

    async fn link(&self) -> Result<Self::Link, Fault> {
        Ok(GrpcLink::new(self.endpoint.connect().await?))
    }
}

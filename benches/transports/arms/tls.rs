//! tonic's `Channel` and `Server` over TCP and TLS 1.3 with ring: what people have who want encryption.

use std::net::SocketAddr;

use tonic::transport::{
    Certificate, Channel, ClientTlsConfig, Endpoint, Identity, Server, ServerTlsConfig,
};
use tower_iroh_proto::{EchoService, echo::echo_server::EchoServer};

use super::{cipher::negotiated, tcp::listen};
use crate::shared::{Fault, grpc::GrpcLink, transport::Arm};

pub struct Tls {
    endpoint: Endpoint,
    cipher: String,
}

pub async fn start() -> Result<Tls, Fault> {
    let key = rcgen::generate_simple_self_signed([String::from("localhost")])?;
    let certificate = key.cert.pem();
    let identity = Identity::from_pem(&certificate, key.signing_key.serialize_pem());
    let (incoming, address) = listen().await?;
    tokio::spawn(
        Server::builder()
            .tls_config(ServerTlsConfig::new().identity(identity))?
            .add_service(EchoServer::new(EchoService))
            .serve_with_incoming(incoming),
    );
    let endpoint = |address: SocketAddr| {
        Endpoint::from_shared(format!("https://{address}"))?.tls_config(
            ClientTlsConfig::new()
                .ca_certificate(Certificate::from_pem(&certificate))
                .domain_name("localhost"),
        )
    };
    Ok(Tls {
        cipher: negotiated(address, endpoint).await?,
        endpoint: endpoint(address)?,
    })
}

impl Arm for Tls {
    type Link = GrpcLink<Channel>;

    async fn link(&self) -> Result<Self::Link, Fault> {
        Ok(GrpcLink::new(self.endpoint.connect().await?))
    }

    fn notes(&self) -> Vec<String> {
        vec![self.cipher.clone()]
    }
}

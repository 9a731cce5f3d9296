//! tonic-iroh-transport 0.9.2, as an arm of `cargo bench --bench transports`.
//!
//! The process has the form of every other arm's: server and client in one, slices on standard input, what
//! they measured on standard output. All of it but this file is the other arms' code.

use std::process::ExitCode;

use shared::{Fault, grpc::GrpcLink, transport::Arm};
use tonic_iroh_transport::{
    IrohChannel, IrohConnect, TransportBuilder, TransportGuard,
    iroh::{Endpoint, EndpointAddr, TransportAddr, endpoint::presets},
};
use tower_iroh_proto::{EchoService, echo::echo_server::EchoServer};

#[path = "../../transports/shared/mod.rs"]
mod shared;

struct TonicIrohTransport {
    server: EndpointAddr,
    client: Endpoint,
    _serving: TransportGuard,
}

/// No relay and no discovery, as in every other arm.
async fn endpoint() -> Result<Endpoint, Fault> {
    Ok(Endpoint::builder(presets::Minimal)
        .clear_ip_transports()
        .bind_addr("127.0.0.1:0")?
        .bind()
        .await?)
}

async fn start() -> Result<TonicIrohTransport, Fault> {
    let server = endpoint().await?;
    let addresses = server.bound_sockets().into_iter().map(TransportAddr::Ip);
    Ok(TonicIrohTransport {
        server: EndpointAddr::new(server.id()).with_addrs(addresses),
        client: endpoint().await?,
        _serving: TransportBuilder::new(server)
            .add_rpc(EchoServer::new(EchoService))
            .spawn()
            .await?,
    })
}

impl Arm for TonicIrohTransport {
    type Link = GrpcLink<IrohChannel>;

    async fn link(&self) -> Result<Self::Link, Fault> {
        let channel = EchoServer::<EchoService>::connect(&self.client, self.server.clone()).await?;
        // It has nothing to close a connection with but dropping the channel.
        Ok(GrpcLink::new(channel))
    }
}

fn main() -> ExitCode {
    shared::process::run(start())
}

//! One endpoint, one identity, one UDP socket: gRPC beside another protocol.
//!
//! ```sh
//! cargo run --example shared_endpoint
//! ```

use std::error::Error;

use iroh::{
    Endpoint,
    endpoint::Connection,
    protocol::{AcceptError, ProtocolHandler},
};
use tonic::transport::Server;
use tower_iroh::{Acceptor, Channel, Peer, presets::Offline};
use tower_iroh_proto::{
    EchoService,
    echo::{EchoRequest, echo_client::EchoClient, echo_server::EchoServer},
};

/// The other protocol's name. A connection is for one protocol, and the handshake says which.
const BYTES_ALPN: &[u8] = b"tower-iroh/example/bytes/1";

/// The other protocol: sends back the bytes of one stream. No gRPC, no HTTP/2.
#[derive(Clone, Debug)]
struct Bytes;

impl ProtocolHandler for Bytes {
    async fn accept(&self, connection: Connection) -> Result<(), AcceptError> {
        let (mut send, mut receive) = connection.accept_bi().await?;
        tokio::io::copy(&mut receive, &mut send).await?;
        send.finish()?;
        // Whoever closes first may cut off what is under way, so the reader of the last byte closes.
        connection.closed().await;
        Ok(())
    }
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let (acceptor, incoming) = Acceptor::new();
    let router = acceptor
        .router(Endpoint::bind(Offline).await?)
        .accept(BYTES_ALPN, Bytes)
        .spawn();
    let server = Server::builder()
        .add_service(EchoServer::new(EchoService))
        .serve_with_incoming(incoming);
    let server = tokio::spawn(server);
    let peer = Peer::of(router.endpoint())?;

    // The client's endpoint is shared in the same way.
    let endpoint = Endpoint::bind(Offline).await?;
    let channel = Channel::builder(endpoint.clone())
        .peer(peer.clone())
        .build()?;
    let payload = "over gRPC".into();
    let answer = EchoClient::new(channel)
        .echo(EchoRequest { payload })
        .await?;
    println!("{:?}", answer.into_inner().payload);

    let connection = endpoint.connect(peer.addr().clone(), BYTES_ALPN).await?;
    let (mut send, mut receive) = connection.open_bi().await?;
    send.write_all(b"over a stream of our own").await?;
    send.finish()?;
    let answer = receive.read_to_end(1024).await?;
    println!("{:?}", String::from_utf8_lossy(&answer));
    connection.close(0_u8.into(), b"done");

    endpoint.close().await;
    router.shutdown().await?;
    server.await??;
    Ok(())
}

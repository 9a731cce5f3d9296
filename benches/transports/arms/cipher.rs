//! Which cipher suite tonic's TLS uses.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
};
use tonic::transport::Endpoint;

use crate::shared::Fault;

/// The cipher suite that client and server agree on, read off the wire: tonic has no way to ask.
///
/// A client connects through a relay here that looks at the ServerHello, which TLS 1.3 sends in the clear
/// (RFC 8446, section 4.1.3).
pub async fn negotiated(
    server: SocketAddr,
    endpoint: impl Fn(SocketAddr) -> Result<Endpoint, tonic::transport::Error>,
) -> Result<String, Fault> {
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let relay = tokio::spawn(async move {
        let (mut client, _) = listener.accept().await?;
        let mut server = TcpStream::connect(server).await?;
        // Record header (5), handshake header (4), version (2), random (32), session id with its length (1 + n), cipher suite (2).
        let mut hello = [0; 44];
        let (mut from_client, mut to_client) = client.split();
        let (mut from_server, mut to_server) = server.split();
        let up = tokio::io::copy(&mut from_client, &mut to_server);
        let down = async {
            from_server.read_exact(&mut hello).await?;
            to_client.write_all(&hello).await?;
            let mut rest = vec![0; usize::from(hello[43]) + 2];
            from_server.read_exact(&mut rest).await?;
            to_client.write_all(&rest).await?;
            let suite = [rest[rest.len() - 2], rest[rest.len() - 1]];
            // The client leaves as soon as it is connected, maybe while the server still says something.
            let _ = tokio::io::copy(&mut from_server, &mut to_client).await;
            Ok::<_, std::io::Error>(suite)
        };
        let (_, suite) = tokio::join!(up, down);
        suite
    });
    drop(endpoint(address)?.connect().await?);
    Ok(match relay.await?? {
        [0x13, 0x01] => "TLS_AES_128_GCM_SHA256".into(),
        [0x13, 0x02] => "TLS_AES_256_GCM_SHA384".into(),
        [0x13, 0x03] => "TLS_CHACHA20_POLY1305_SHA256".into(),
        [high, low] => return Err(format!("not TLS 1.3: suite {high:02x}{low:02x}").into()),
    })
}

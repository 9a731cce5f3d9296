//! The other transport: TCP, with TLS 1.3 in which both sides prove the identity that they have over iroh.
//!
//! A fallback to TCP is no downgrade: the client [pins](TcpLinks) the peer's key, the server learns the caller's, neither takes anything for it that
//! is not TLS 1.3 with raw public keys (RFC 7250), and a handler sees the same [`PeerInfo`](crate::PeerInfo). Inside is plain HTTP/2, so everything that
//! tonic serves and calls works unchanged.
//!
//! ```
//! use tower_iroh::{Peer, tcp::{TcpAcceptor, TcpConnector}};
//! # use tower_iroh_proto::{EchoService, echo::{EchoRequest, echo_client::EchoClient, echo_server::EchoServer}};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // A server: tonic's own. The key is its endpoint's, where it has one.
//! let key = iroh::SecretKey::generate();
//! let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
//! let peer = Peer::new(key.public()).with_tcp(listener.local_addr()?);
//! let (_acceptor, incoming) = TcpAcceptor::new(listener, key)?;
//! tokio::spawn(
//!     tonic::transport::Server::builder()
//!         .add_service(EchoServer::new(EchoService::default()))
//!         .serve_with_incoming_shutdown(incoming, std::future::pending()),
//! );
//!
//! // A client: a real tonic channel.
//! let connector = TcpConnector::new(iroh::SecretKey::generate());
//! connector.add_peer(peer.clone());
//! let channel = tonic::transport::Endpoint::from(peer.uri()).connect_with_connector(connector).await?;
//! let reply = EchoClient::new(channel).echo(EchoRequest { payload: "hello".into() }).await?;
//! assert_eq!(reply.into_inner().payload, "hello");
//! # Ok(())
//! # }
//! ```
//!
//! ALPN is `h2`, which is what is inside. It differs from that of QUIC connections on purpose. There is no session resumption and no early data
//! (`docs/decisions/identity-over-tcp.md`).

mod acceptor;
mod builder;
mod connector;
mod dial;
mod dialer;
mod error;
mod health;
mod io;
mod link;
mod links;
mod refusal;
mod stream;
mod tls;

pub use acceptor::{TcpAcceptor, TcpAcceptorBuilder, TcpIncoming};
pub use builder::{TcpLinksBuilder, TcpSettings};
pub use connector::{TcpConnector, TcpConnectorIo};
pub use dialer::TcpDialer;
pub use io::TcpIo;
pub use links::TcpLinks;

#[cfg(any(test, fuzzing))]
pub use refusal::farewell;

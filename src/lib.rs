//! tonic's gRPC, unchanged, over [iroh](https://docs.rs/iroh)'s peer-to-peer QUIC.
//!
//! Generated clients, services and interceptors stay as they are. What changes is the connection under them: real
//! HTTP/2 over the bidirectional streams of one QUIC connection per peer, end-to-end encrypted by the peers' own keys,
//! without certificates, through NATs, over a connection that outlives address changes.
//!
//! ```
//! use tower_iroh::{Acceptor, Channel, Peer, presets};
//! use iroh::Endpoint;
//! # use tower_iroh_proto::{EchoService, echo::{EchoRequest, echo_client::EchoClient, echo_server::EchoServer}};
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! // A server: tonic's own, fed by an endpoint instead of a TCP listener.
//! let endpoint = Endpoint::bind(presets::Offline).await?;
//! let peer = Peer::of(&endpoint)?;
//! let (acceptor, incoming) = Acceptor::new();
//! let router = acceptor.router(endpoint).spawn();
//! tokio::spawn(
//!     tonic::transport::Server::builder()
//!         .add_service(EchoServer::new(EchoService::default()))
//!         // With a signal, be it one that never comes, tonic drains when the router shuts down.
//!         .serve_with_incoming_shutdown(incoming, std::future::pending()),
//! );
//!
//! // A client: a generated one, over our channel.
//! let channel = Channel::builder(Endpoint::bind(presets::Offline).await?).peer(peer).build()?;
//! let reply = EchoClient::new(channel)
//!     .echo(EchoRequest { payload: "hello".into() })
//!     .await?;
//! assert_eq!(reply.into_inner().payload, "hello");
//! # router.shutdown().await?;
//! # Ok(())
//! # }
//! ```
//!
//! Two ways in on the client's side:
//!
//! - [`Connector`] goes into [`tonic::transport::Endpoint::connect_with_connector`] and gives a real tonic `Channel`.
//!   Nothing else changes; tonic decides what its users see of an error, and [`ExactCodesLayer`] mends that.
//! - [`Channel`] replaces tonic's: no worker task, exact codes, lanes with priorities, deadlines that cover everything.
//!
//! On the server's side [`Acceptor`] is an iroh `ProtocolHandler` and [`Incoming`] the stream of connections that
//! tonic's `Server` serves; every request carries a [`PeerInfo`] that says who called.
//!
//! [`Transport`] makes the server and the channels to all [`Peers`] from a [configuration](config), and follows it while the program runs.

// The fuzz targets name this crate as its users do, and its own tests run them.
#[cfg(test)]
extern crate self as tower_iroh;

#[cfg(feature = "config")]
pub mod config;
pub mod tcp;
pub mod wire;

mod channel;
mod error;
#[cfg(any(test, fuzzing))]
#[doc(hidden)]
pub mod fuzzing;
mod http2;
mod lock;
mod peer;
mod peers;
mod pool;
mod quic;
mod server;

/// What links over either transport have in common, for code that is generic over the transport: `Links<D>` where `D: Dialer`.
///
/// Most programs use the aliases: [`Links`] and [`Connector`] over iroh, [`TcpLinks`](tcp::TcpLinks) and [`TcpConnector`](tcp::TcpConnector) over
/// TCP.
pub mod links {
    pub use crate::http2::{Connector, ConnectorIo, Streams};
    pub use crate::pool::{Dialer, Links, LinksBuilder};
    pub use crate::quic::{QuicDialer, QuicSettings};
    pub use crate::tcp::{TcpDialer, TcpSettings};
}

pub use channel::{
    AttemptService, Attempts, Channel, ChannelBuilder, ExactCodes, ExactCodesLayer, ResponseFuture,
    Stack, StackBuilder, StackHandle, Stacked, StackedBody,
};
#[cfg(all(feature = "config", feature = "authorize"))]
pub use config::{Transport, TransportBuilder, TransportError};
pub use error::{Error, ErrorKind};
pub use http2::{LaneConfig, Lanes};
pub use peer::{Path, Peer, PeerError, PeerInfo, TcpAddr, TransportKind, identity};
pub use peers::{Peers, PeersBuilder, PeersError};
pub use pool::{EarlyData, PeerStats, State};
#[cfg(feature = "authorize")]
pub use quic::AllowList;
pub use quic::{
    Acceptor, AcceptorBuilder, BareAcceptor, Connector, ConnectorIo, Incoming, Links, LinksBuilder,
    QuicIo, Tuning, presets,
};
pub use server::{
    BindError, RemoteAddr, RemoteAddrLayer, Require, Server, ServerBuilder, ServerDrain,
    ServerError, ServerHandle, ServerIncoming, ServerIo, Stopped,
};
#[cfg(feature = "authorize")]
pub use server::{ByPeer, authorize, peer_name};
/// The layers, each to be used alone: see [`Stack`] for all of them in their order.
pub use tower_iroh_layers as layers;
pub use tower_iroh_layers::{ConfigError, Urgency};
pub use wire::ALPN;

//! Servers and callers on the lab's hosts.

use std::{
    net::{Ipv4Addr, SocketAddr},
    time::Duration,
};

use iroh::{Endpoint, EndpointAddr, EndpointId, endpoint::Builder, protocol::Router};
use tokio_util::task::AbortOnDropHandle;
use tonic::{Status, body::Body, transport::Server as Tonic};
use tower::{Layer as _, ServiceExt as _};
use tower_iroh::{
    Acceptor, Channel, Connector, ExactCodesLayer, Links, Path, Peer, StackHandle, presets::Offline,
};
use tower_iroh_lab::Host;
use tower_iroh_proto::echo::{echo_client::EchoClient, echo_server::EchoServer};

use crate::support::{Desk, Service};

/// An endpoint on every address that its host has or will have, with no relay and nothing else that needs the internet.
pub fn everywhere() -> Builder {
    Endpoint::builder(Offline)
        .clear_ip_transports()
        .bind_addr((Ipv4Addr::UNSPECIFIED, 0))
        .expect("an address")
}

pub async fn bind(builder: Builder) -> Endpoint {
    builder.bind().await.expect("a free port")
}

/// The port of an endpoint that was made with [`everywhere`].
pub fn port(endpoint: &Endpoint) -> u16 {
    let sockets = endpoint.bound_sockets();
    sockets.first().map(SocketAddr::port).expect("bound")
}

/// A server of the echo service, which remembers each call.
#[derive(Clone)]
pub struct Server {
    pub desk: Desk,
    pub endpoint: Endpoint,
    _router: Router,
    _served: std::sync::Arc<AbortOnDropHandle<()>>,
}

impl Server {
    pub async fn start(endpoint: Endpoint) -> Self {
        let desk = Desk::new();
        let (acceptor, incoming) = Acceptor::new();
        let router = acceptor.router(endpoint.clone()).spawn();
        let tonic = Tonic::builder().add_service(EchoServer::new(desk.clone()));
        let served = tokio::spawn(async move {
            let served = tonic.serve_with_incoming(incoming).await;
            served.expect("served without an error");
        });
        Self {
            desk,
            endpoint,
            _router: router,
            _served: std::sync::Arc::new(AbortOnDropHandle::new(served)),
        }
    }

    /// One on this host, and where it is.
    pub async fn on(host: &Host) -> (Self, Peer) {
        let server = host.spawn(async { Self::start(bind(everywhere()).await).await });
        let server = server.await.expect("no panic");
        let addr = SocketAddr::from((host.address(), port(&server.endpoint)));
        let peer = EndpointAddr::new(server.endpoint.id()).with_ip_addr(addr);
        (server, Peer::from(peer))
    }
}

/// Which kind of channel calls, and how long its calls may take.
#[derive(Clone, Copy, Debug)]
pub enum Arm {
    /// Our `Channel` with its default stack.
    Channel,
    /// The same, with a timeout.
    Hasty(Duration),
    /// tonic's channel, over `Connector` and under `ExactCodesLayer`.
    Tonic,
}

/// A client, with what is beneath it.
#[derive(Clone)]
pub struct Caller {
    pub service: Service,
    pub links: Links,
    pub peer: EndpointId,
    /// Only our `Channel` has one.
    pub stack: Option<StackHandle>,
}

impl Caller {
    pub async fn new(arm: Arm, peer: &Peer) -> Self {
        Self::over(arm, peer, Links::new(bind(everywhere()).await))
    }

    pub fn over(arm: Arm, peer: &Peer, links: Links) -> Self {
        let (service, stack) = match arm {
            Arm::Channel | Arm::Hasty(_) => {
                let mut builder = Channel::with_links(links.clone()).peer(peer.clone());
                if let Arm::Hasty(timeout) = arm {
                    builder = builder.timeout(timeout);
                }
                let channel = builder.build().expect("valid");
                let stack = channel.stack().clone();
                let service = tower::ServiceExt::<http::Request<Body>>::map_err(channel, status);
                (Service::new(service), Some(stack))
            }
            Arm::Tonic => {
                let connector = Connector::with_links(links.clone());
                connector.add_peer(peer.clone());
                let endpoint = tonic::transport::Endpoint::from(peer.uri());
                let channel = endpoint.connect_with_connector_lazy(connector);
                let service = ExactCodesLayer.layer(channel).map_err(status);
                (Service::new(service), None)
            }
        };
        Self {
            service,
            links,
            peer: peer.id(),
            stack,
        }
    }

    pub fn client(&self) -> EchoClient<Service> {
        EchoClient::new(self.service.clone())
    }

    /// The way that its bytes take now, while there is a connection.
    pub fn path(&self) -> Option<Path> {
        self.links.stats(self.peer)?.path
    }
}

pub fn status(error: impl Into<tower::BoxError>) -> Status {
    Status::from_error(error.into())
}

//! Ours: tonic's server behind an `Acceptor`, our `Channel` with its default stack in front of it.

use std::{sync::Arc, time::Duration};

use iroh::{
    Endpoint, RelayMode,
    endpoint::{PortmapperConfig, presets},
    protocol::Router,
};
use tokio::task::JoinHandle;
use tonic::{Status, transport::Server};
use tower::{ServiceExt, util::BoxCloneSyncService};
use tower_iroh::{Acceptor, Channel, Lanes, Peer, Tuning};
use tower_iroh_lab::Host;

use super::{End, Seen, Session, any_port, clients, service};
use crate::{bed::Bed, fault::Fault};

const SMALL_CALL: &str = "/tower_iroh.echo.v1.Echo/Echo";

/// How our channel is set.
#[derive(Clone, Debug)]
pub struct Ours {
    pub tuning: Tuning,
    pub lanes: Lanes,
    /// Whether small calls that are declared idempotent leave, and are answered, with a dial's first packets.
    pub early_data: bool,
}

/// What runs on both hosts.
pub struct Running {
    client: Endpoint,
    pub channel: Channel,
    server: Serving,
}

/// What runs on the server.
pub struct Serving {
    pub peer: Peer,
    pub carried: Arc<std::sync::atomic::AtomicU64>,
    pub seen: Arc<Seen>,
    router: Router,
    task: JoinHandle<()>,
}

impl Ours {
    pub fn start(&self, bed: &Bed) -> Result<Session, Fault> {
        let server = self.serve(bed)?;
        let client = bind(bed.client(), &self.tuning)?;
        let channel = self.channel(&client, &server.peer)?;
        let service = BoxCloneSyncService::new(
            channel
                .clone()
                .map_err(|error| Status::from_error(error.into())),
        );
        let (small, bulk) = clients(service.clone(), service, &server.carried);
        Ok(Session {
            small,
            bulk,
            carried: server.carried.clone(),
            seen: server.seen.clone(),
            end: End::Ours(Box::new(Running {
                client,
                channel,
                server,
            })),
        })
    }

    /// Our channel as its user gets it, but for what the arm sets.
    pub fn channel(&self, client: &Endpoint, peer: &Peer) -> Result<Channel, Fault> {
        Ok(Channel::builder(client.clone())
            .peer(peer.clone())
            .tuning(self.tuning.clone())
            .lanes(self.lanes.clone())
            .early_data(self.early_data)
            .build()?)
    }

    pub fn serve(&self, bed: &Bed) -> Result<Serving, Fault> {
        let endpoint = bind(bed.server(), &self.tuning)?;
        let peer = Peer::of(&endpoint)?;
        let early: &[&str] = if self.early_data { &[SMALL_CALL] } else { &[] };
        let (acceptor, incoming) = Acceptor::builder()
            .tuning(self.tuning.clone())
            .early_data(early.iter().copied())
            .build()?;
        let (carried, seen) = (Arc::default(), Arc::default());
        let services = service::router(Server::builder(), &carried, &seen);
        let (router, task) = bed.server().block_on(async move {
            let router = acceptor.router(endpoint).spawn();
            let task = tokio::spawn(async move {
                if let Err(error) = services.serve_with_incoming(incoming).await {
                    eprintln!("  an iroh server ended: {error}");
                }
            });
            (router, task)
        });
        Ok(Serving {
            peer,
            carried,
            seen,
            router,
            task,
        })
    }
}

/// An endpoint at the host's address, without relay, lookup or port mapping.
pub fn bind(host: &Host, tuning: &Tuning) -> Result<Endpoint, Fault> {
    let (any, tuning) = (any_port(host), tuning.clone());
    host.block_on(async move {
        let builder = Endpoint::builder(presets::Minimal)
            .preset(tuning)
            .relay_mode(RelayMode::Disabled)
            .portmapper_config(PortmapperConfig::Disabled)
            .clear_ip_transports()
            .bind_addr(any)?;
        Ok(builder.bind().await?)
    })
}

/// How long a side may take to close.
const CLOSING: Duration = Duration::from_secs(3);

impl Serving {
    pub fn end(self, bed: &Bed) {
        let Self { router, task, .. } = self;
        task.abort();
        let closed = bed.server().block_on(async move {
            let endpoint = router.endpoint().clone();
            tokio::time::timeout(CLOSING, endpoint.close()).await
        });
        if closed.is_err() {
            eprintln!("  an iroh server did not close within {CLOSING:?}");
        }
    }
}

impl Running {
    pub fn end(self, bed: &Bed) {
        let Self {
            client,
            channel,
            server,
        } = self;
        bed.client().block_on(async move {
            channel.close();
            // The server has gone or the link is slow: either way nobody waits for it.
            let _ = tokio::time::timeout(CLOSING, client.close()).await;
        });
        server.end(bed);
    }
}

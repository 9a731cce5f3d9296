//! The channels that call: ours, and tonic's over our connector.

use std::{sync::Arc, time::Duration};

use iroh::Endpoint;
use tonic::{Status, body::Body, codegen::http};
use tower::{Layer as _, ServiceExt as _, util::BoxCloneSyncService};
use tower_iroh::{
    Channel, Connector, ExactCodesLayer, Links, Stack, layers::breaker::BreakerConfig,
    presets::Offline,
};

use crate::{Error, udp_way, world::Host};

pub(crate) type Service = BoxCloneSyncService<http::Request<Body>, http::Response<Body>, Status>;

/// The longest that a dial takes here: a server that was killed does not say so.
pub(crate) const DIAL: Duration = Duration::from_secs(2);

/// Which kind of channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Arm {
    /// Our `Channel`, with the layers that it comes with.
    Channel,
    /// tonic's, over `Connector`, under `ExactCodesLayer` and our `Stack`.
    Stacked,
    /// tonic's, over `Connector`, under `ExactCodesLayer` alone.
    Tonic,
}

impl Arm {
    pub(crate) const ALL: [Self; 3] = [Self::Channel, Self::Stacked, Self::Tonic];
}

/// One endpoint that dials, and its channels to each host.
pub(crate) struct Client {
    endpoint: Endpoint,
    pub(crate) links: Links,
    /// By host, then by [`Arm`].
    channels: Vec<[Service; 3]>,
}

impl Client {
    pub(crate) async fn new(hosts: &[Arc<Host>]) -> Result<Self, Error> {
        let endpoint = udp_way::near(Endpoint::builder(Offline))?.bind().await?;
        // A vanished server is noticed by pings: two of them without an answer, which with the default would take a minute.
        let links = Links::builder(endpoint.clone())
            .dial_timeout(DIAL)
            .backoff(Duration::from_millis(50), Duration::from_secs(1))
            .health_interval(Duration::from_millis(500))
            .build()?;
        let channels = all_channels(&links, hosts)?;
        Ok(Self {
            endpoint,
            links,
            channels,
        })
    }

    pub(crate) fn channel(&self, host: usize, arm: Arm) -> Option<Service> {
        let channels = self.channels.get(host)?;
        channels.get(arm as usize).cloned()
    }

    pub(crate) async fn close(self) {
        let Self {
            endpoint,
            links,
            channels,
        } = self;
        drop((channels, links));
        endpoint.close().await;
    }
}

fn all_channels(links: &Links, hosts: &[Arc<Host>]) -> Result<Vec<[Service; 3]>, Error> {
    hosts.iter().map(|host| channels(links, host)).collect()
}

fn channels(links: &Links, host: &Host) -> Result<[Service; 3], Error> {
    let peer = host.peer();
    let breaker = breaker()?;
    let ours = Channel::with_links(links.clone())
        .peer(peer.clone())
        .stack(|stack| stack.breaker(breaker.clone()))
        .build()?;
    let tonic = || {
        let connector = Connector::with_links(links.clone());
        let endpoint = tonic::transport::Endpoint::from(peer.uri());
        ExactCodesLayer.layer(endpoint.connect_with_connector_lazy(connector))
    };
    let stack = Stack::builder().transport("iroh").breaker(breaker);
    let stacked = stack.build()?.layer(tonic());
    Ok([
        Service::new(ours.map_err(status)),
        Service::new(stacked.map_response(|it| it.map(Body::new)).map_err(status)),
        Service::new(tonic().map_err(status)),
    ])
}

/// The default's thresholds. It tries again sooner, since with the default's half minute most of the calls would be its own refusals.
fn breaker() -> Result<BreakerConfig, Error> {
    let config = BreakerConfig::builder()
        .first_wait(Duration::from_millis(200))
        .recovery(Duration::from_secs(1));
    Ok(config.build()?)
}

/// What a generated client makes of an error.
fn status(error: impl Into<Error>) -> Status {
    Status::from_error(error.into())
}

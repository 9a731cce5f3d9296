//! `tower-iroh expose`: an iroh endpoint in front of a gRPC server in any language.

use std::{convert::Infallible, net::SocketAddr, path::PathBuf, time::Duration};

use clap::Args;
use futures_util::future::OptionFuture;
use http::{HeaderName, HeaderValue, Request, Response};
use iroh::EndpointId;
use serde_json::json;
use tokio_util::sync::CancellationToken;
use tonic::{body::Body, transport::Server as Tonic};
use tower::service_fn;
use tower_iroh::{
    Peer, PeerInfo, Server, authorize,
    layers::{
        authorize::{AccessPolicy, PolicyHandle},
        metrics::MetricsLayer,
    },
};

use crate::{
    backend::Backend,
    connect::{Service, seconds},
    endpoint::EndpointOptions,
    failure::Failure,
    forward::{for_the_next_hop, forward},
    pages::PagesListener,
    policy::{self, Following},
    print,
    signal::{listen, until_the_second},
};

/// The id that the caller has proved, for the backend. One from outside never reaches it.
const PEER_ID: HeaderName = HeaderName::from_static("x-iroh-peer-id");

/// How many callers have metrics of their own; those of all others are together. A caller gets its own with a call that ends with OK.
const MEASURED_CALLERS: usize = 32;

/// Put a gRPC server behind a key, and print the ticket that clients need
///
/// The server may be in any language; calls pass through undecoded.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tower-iroh expose 127.0.0.1:50051 --allow 2da7301c...   # one caller
  tower-iroh expose unix:/run/db.sock --policy policy.toml
  tower-iroh expose 127.0.0.1:50051 --allow-all           # everybody who has the ticket or the id
  tower-iroh expose 127.0.0.1:50051 --allow-all --metrics 127.0.0.1:9090    # and `tower-iroh top 127.0.0.1:9090`

The backend finds the caller's id, which the handshake has proved, in the header `x-iroh-peer-id`.")]
pub(crate) struct Options {
    /// The server: `host:port`, `https://host:port` or `unix:/path`.
    backend: Backend,
    /// An endpoint id that may call every method; can be given more than once.
    #[arg(long, value_name = "ID", conflicts_with_all = ["allow_all", "policy"])]
    allow: Vec<EndpointId>,
    /// Let everybody call every method.
    #[arg(long, conflicts_with = "policy")]
    allow_all: bool,
    /// A file that says who may call what, in TOML; it is read again when it changes.
    #[arg(long, value_name = "FILE")]
    policy: Option<PathBuf>,
    /// Listen on this TCP address too, with TLS in which both sides prove the same keys.
    #[arg(long, value_name = "ADDR")]
    tcp: Option<SocketAddr>,
    /// Answer /metrics (Prometheus), /healthz and /readyz on this address of this machine, over plain HTTP.
    #[arg(long, value_name = "ADDR")]
    metrics: Option<SocketAddr>,
    /// How many threads pass calls on. With one a call takes the least time; more pass more calls on machines with cores to spare.
    #[arg(long, value_name = "COUNT", default_value = "1", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: u16,
    /// Seconds that calls in flight have to finish after Ctrl-C or SIGTERM.
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = seconds)]
    drain: Duration,
    #[command(flatten)]
    pub(crate) endpoint: EndpointOptions,
}

pub(crate) async fn run(options: Options, json: bool) -> Result<(), Failure> {
    let backend = options.backend.clone();
    let exposed = Exposed::start(options).await?;
    let (stop, first) = (listen(), listen());
    let (ticket, id) = (exposed.peer.ticket(), exposed.peer.id().to_string());
    match json {
        true => print::line(json!({
            "ticket": ticket, "id": id, "backend": backend.to_string(), "metrics": exposed.metrics_addr(),
        }))?,
        false => print::line(ticket)?,
    }
    if let Some(addr) = exposed.metrics_addr() {
        eprintln!("metrics at http://{addr}/metrics");
    }
    eprintln!("exposing {backend} as {id}; Ctrl-C stops");
    until_the_second(first, exposed.serve(stop)).await
}

/// A server behind a key.
pub(crate) struct Exposed {
    /// What clients dial.
    pub(crate) peer: Peer,
    server: Server,
    service: Service,
    policy: PolicyHandle,
    metrics: Option<PagesListener>,
    stopping: CancellationToken,
    _following: Option<Following>,
}

impl Exposed {
    /// Binds the endpoint. Calls are taken when it is [served](Self::serve).
    pub(crate) async fn start(options: Options) -> Result<Self, Failure> {
        let (policy, following) = options.policy()?;
        let backend = &options.backend;
        let unusable = |error| Failure::usage(format!("the backend {backend}: {error}"));
        let service = backend.service().map_err(unusable)?;
        let stopping = CancellationToken::new();
        let metrics = match options.metrics {
            Some(addr) => Some(PagesListener::bind(addr, stopping.clone()).await?),
            None => None,
        };
        let endpoint = options.endpoint.bind(None).await?;
        let mut server = Server::builder()
            .endpoint(endpoint.clone())
            .allow_list(&policy)
            .drain_timeout(options.drain);
        if let Some(addr) = options.tcp {
            server = server.tcp(addr).key(endpoint.secret_key().clone());
        }
        let server = server.bind().await.map_err(Failure::failed)?;
        if !options.endpoint.online(None, &endpoint).await {
            eprintln!("no relay answers: the ticket has the local addresses alone");
        }
        Ok(Self {
            peer: server.addresses().map_err(Failure::failed)?,
            server,
            service,
            _following: following,
            policy,
            metrics,
            stopping,
        })
    }

    fn metrics_addr(&self) -> Option<SocketAddr> {
        self.metrics.as_ref().and_then(PagesListener::addr)
    }

    /// Serves until `stop`, and lets the calls in flight finish.
    pub(crate) async fn serve(
        self,
        stop: impl Future<Output = ()> + Send + 'static,
    ) -> Result<(), Failure> {
        let service = self.service;
        let forwarding = service_fn(move |request| {
            let service = service.clone();
            async move { Ok::<_, Infallible>(to_backend(service, request).await) }
        });
        let metrics = match &self.metrics {
            Some(_) => MetricsLayer::server()
                .peer_from(|extensions| {
                    let id = extensions.get::<PeerInfo>()?.id()?;
                    Some(id.to_string().into())
                })
                .peer_label(MEASURED_CALLERS),
            None => MetricsLayer::disabled(),
        };
        let layer = authorize(&self.policy);
        let stopping = self.stopping;
        let stop = async move {
            stop.await;
            stopping.cancel();
        };
        let served = self.server.serve_with_shutdown(stop, |incoming, stopped| {
            Tonic::builder()
                // Outermost, so that refused calls are counted too.
                .layer(metrics)
                .layer(layer)
                .serve_with_incoming_shutdown(forwarding, incoming, stopped)
        });
        // The pages answer for as long as calls are served, so that `/readyz` can say that it drains.
        let pages = OptionFuture::from(self.metrics.as_ref().map(PagesListener::serve));
        tokio::select! {
            served = served => served.map_err(Failure::failed),
            Some(never) = pages => match never {},
        }
    }
}

async fn to_backend(service: Service, mut request: Request<Body>) -> Response<Body> {
    let caller = request
        .extensions()
        .get::<PeerInfo>()
        .and_then(PeerInfo::id);
    for_the_next_hop(request.headers_mut());
    request.headers_mut().remove(PEER_ID);
    // An id is a header's value.
    if let Some(Ok(id)) = caller.map(|id| HeaderValue::try_from(id.to_string())) {
        request.headers_mut().insert(PEER_ID, id);
    }
    forward(service, request, "expose", |_| {}).await
}

impl Options {
    fn policy(&self) -> Result<(PolicyHandle, Option<Following>), Failure> {
        if let Some(path) = &self.policy {
            let (policy, following) = policy::follow(path)?;
            return Ok((policy, Some(following)));
        }
        let mut policy = AccessPolicy::builder().role("caller", ["*"]);
        if self.allow_all {
            policy = policy.authenticated(["caller"]);
        } else if self.allow.is_empty() {
            return Err(Failure::usage(
                "nothing says who may call; use `--allow ID`, `--policy FILE`, or `--allow-all` for everybody",
            ));
        }
        for id in &self.allow {
            policy = policy.peer(id.to_string(), ["caller"]);
        }
        let policy = policy.build().map_err(Failure::usage)?;
        Ok((PolicyHandle::new(policy), None))
    }
}

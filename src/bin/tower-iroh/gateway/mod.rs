//! `tower-iroh gateway`: local clients in any language, and peers behind it.

mod access_log;
mod connection;
mod listener;
mod own;
mod routes;
mod tls;

use std::{path::PathBuf, sync::Arc, time::Duration};

use clap::Args;
use http::HeaderValue;
use tokio::{sync::Semaphore, task::JoinSet, time::timeout};
use tokio_util::sync::CancellationToken;
use tower_iroh::{
    Transport,
    config::{Config, ConfigWatch, Mode},
    layers::{metrics::MetricsLayer, prometheus::Prometheus},
};

use self::{
    access_log::AccessLog,
    connection::Gateway,
    listener::Listener,
    own::Own,
    routes::{PeerLabel, Routes},
    tls::TlsOptions,
};
use crate::{
    connect::seconds,
    endpoint::EndpointOptions,
    failure::Failure,
    print,
    signal::{listen, until_the_second},
    target::Names,
    token::Token,
};

/// How often a connection to a peer is pinged. A client of the gateway may have an open stream and nothing else, and over TCP it would be told at once that
/// the server's program has ended.
const HEALTH_INTERVAL: Duration = Duration::from_secs(5);

/// How many peers have metrics of their own; those of all others are together.
const MEASURED_PEERS: usize = 64;

/// Give local clients in any language an address for a peer
///
/// It speaks gRPC over HTTP/2, gRPC-Web, and CONNECT for clients with `grpc_proxy`.
///
/// The gateway calls its peers with its own key. Whoever reaches its port acts as that key.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  tower-iroh gateway TICKET --listen 127.0.0.1:7001          # one peer
  tower-iroh gateway --peer db=TICKET --peer cache=TICKET --listen 127.0.0.1:7001=db --listen 127.0.0.1:7002=cache
  tower-iroh gateway --config peers.toml --listen 127.0.0.1:8080
      grpc_proxy=http://127.0.0.1:8080 python client.py      # whose target is dns:///db.iroh:443

Which peer a call goes to: the listener's, else the gateway's, else that of the CONNECT tunnel, else the one in the metadata `x-iroh-peer`, else the one in
`:authority`, else the only one that `--peer` names. A name is an alias, or an endpoint id (in z-base-32 where it must be a host name), with or without `.iroh`.")]
pub(crate) struct Options {
    /// The peer of every call: a ticket, an endpoint id, or a name. Without it each call names its peer.
    peer: Option<String>,
    /// A name for a peer; can be given more than once.
    #[arg(long = "peer", value_name = "NAME=PEER", value_parser = routes::alias)]
    peers: Vec<(String, String)>,
    /// Where to listen: `host:port` or `unix:/path`, with `=NAME` after it for the peer of all calls there; can be given more than once.
    #[arg(long, value_name = "ADDR[=NAME]", default_value = "127.0.0.1:50051")]
    listen: Vec<listener::Place>,
    /// An origin whose web pages may call, or `*`; can be given more than once.
    #[arg(long, value_name = "ORIGIN")]
    cors_origin: Vec<HeaderValue>,
    /// A file with a token that callers must show in `proxy-authorization`. An address that other machines reach needs it, or `--client-ca`.
    #[arg(long, value_name = "FILE", conflicts_with = "cors_origin")]
    token_file: Option<PathBuf>,
    /// Log each call as a line of JSON to this file; `-` is standard error.
    #[arg(long, value_name = "FILE")]
    access_log: Option<PathBuf>,
    /// How many local connections may be open.
    #[arg(long, value_name = "COUNT", default_value = "1024", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    max_connections: u32,
    /// How many threads pass calls on. With one a call takes the least time; more pass more calls on machines with cores to spare.
    #[arg(long, value_name = "COUNT", default_value = "1", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) threads: u16,
    /// Seconds that calls in flight have to finish after Ctrl-C or SIGTERM.
    #[arg(long, value_name = "SECONDS", default_value = "30", value_parser = seconds)]
    drain: Duration,
    #[command(flatten)]
    tls: TlsOptions,
    #[command(flatten)]
    names: Names,
    #[command(flatten)]
    pub(crate) endpoint: EndpointOptions,
}

pub(crate) async fn run(options: Options, json: bool) -> Result<(), Failure> {
    let gateway = Serving::start(options).await?;
    let (stop, first) = (listen(), listen());
    for address in &gateway.addresses {
        match json {
            true => print::line(serde_json::json!({ "listen": address }))?,
            false => print::line(address)?,
        }
    }
    eprintln!(
        "the gateway calls as {}; Ctrl-C stops",
        gateway.transport.id()
    );
    until_the_second(first, async {
        gateway.until(stop).await;
        Ok(())
    })
    .await
}

/// A gateway that serves. Dropping it cuts its connections.
pub(crate) struct Serving {
    /// Where it listens.
    pub(crate) addresses: Vec<String>,
    gateway: Arc<Gateway>,
    transport: Transport,
    listening: JoinSet<()>,
    drain: Duration,
    _watch: Option<ConfigWatch>,
}

impl Serving {
    pub(crate) async fn start(options: Options) -> Result<Self, Failure> {
        let token = options.token_file.as_deref().map(Token::read).transpose()?;
        for place in options.listen.iter().filter(|it| !it.is_private()) {
            if token.is_none() && !options.tls.proves_clients() {
                return Err(Failure::usage(format!(
                    "`--listen {place}` can be reached from other machines, and whoever reaches it acts with the gateway's key; \
                     give `--token-file FILE` or `--client-ca FILE`, or listen on 127.0.0.1 or a unix socket"
                )));
            }
            if token.is_some() && !options.tls.encrypts() {
                eprintln!(
                    "calls and tokens come to {place} in clear text; `--tls-cert` and `--tls-key` encrypt them"
                );
            }
        }
        let tls = options.tls.acceptor()?;
        let cors = connection::cors(&options.cors_origin)?;
        let log = options
            .access_log
            .as_deref()
            .map(AccessLog::open)
            .transpose()?;
        let prometheus = Prometheus::install().map_err(Failure::failed)?;
        let transport = options.transport().await?;
        // A name that no peer has is found out before anything listens.
        let routes = Routes::new(&transport, &options)?;
        let follow = |path| transport.follow(path, Config::reader());
        let watch = options.names.config.as_ref().map(follow).transpose();
        let watch = watch.map_err(Failure::failed)?;
        let mut listeners = Vec::new();
        for place in &options.listen {
            listeners.push(Listener::bind(place, tls.as_ref()).await?);
        }
        let stop = CancellationToken::new();
        let gateway = Arc::new(Gateway {
            own: Own::new(routes.peers().clone(), prometheus, stop.clone()),
            routes,
            token,
            log: log.map(Arc::new),
            cors,
            origins: options.cors_origin.clone(),
            slots: Semaphore::new(options.max_connections as usize),
            stop,
        });
        let addresses = listeners.iter().map(Listener::address).collect();
        let serve = |listener: Listener| listener.serve(gateway.clone());
        Ok(Self {
            addresses,
            listening: listeners.into_iter().map(serve).collect(),
            gateway,
            transport,
            drain: options.drain,
            _watch: watch,
        })
    }

    /// Serves until `stop`, and lets the calls in flight finish.
    pub(crate) async fn until(mut self, stop: impl Future<Output = ()>) {
        stop.await;
        self.gateway.stop.cancel();
        let drained = async { while self.listening.join_next().await.is_some() {} };
        if timeout(self.drain, drained).await.is_err() {
            eprintln!(
                "calls were still in flight after {:?}, and are cut",
                self.drain
            );
        }
        self.transport.close().await;
    }
}

impl Options {
    async fn transport(&self) -> Result<Transport, Failure> {
        let config = match self.names.load()? {
            Some(config) => config,
            None => {
                let config = Config::builder()
                    .mode(Mode::Iroh)
                    .health_check_interval(HEALTH_INTERVAL)
                    .build();
                Arc::new(config.map_err(Failure::failed)?)
            }
        };
        let endpoint = self.endpoint.clone();
        let mut builder = Transport::builder(config.clone());
        if endpoint.has_key() || config.identity_file().is_none() {
            builder = builder.key(endpoint.key()?);
        }
        let builder = builder.endpoint(move |builder| endpoint.apply(Some(&config), builder));
        let metrics = MetricsLayer::client()
            .methods_from_ok()
            .peer_from(|extensions| Some(extensions.get::<PeerLabel>()?.0.clone()))
            .peer_label(MEASURED_PEERS);
        let builder = builder.peers(|peers| {
            peers.channel(move |_, channel| {
                let metrics = metrics.clone();
                channel.stack(|stack| stack.metrics(metrics))
            })
        });
        builder.connect().await.map_err(Failure::failed)
    }
}

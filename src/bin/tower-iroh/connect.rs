//! A service that calls a target, over iroh or over TCP.

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use clap::{Args, ValueEnum};
use futures_util::StreamExt as _;
use http::{Request, Response, uri::Authority};
use iroh::{Endpoint, EndpointAddr, EndpointId};
use tonic::{
    body::Body,
    transport::{Certificate, ClientTlsConfig, Endpoint as TcpEndpoint, Identity},
};
use tower::{
    ServiceExt,
    util::{BoxCloneSyncService, MapRequestLayer},
};
use tower_iroh::{
    Channel, ExactCodesLayer, Peer, Stack, StackBuilder, Urgency,
    config::Config,
    layers::{BoxError, MethodConfig, Methods, retry::RetryPolicy},
};

#[cfg(unix)]
use crate::backend::connect_unix;
use crate::{
    any_certificate::AnyCertificate,
    endpoint::EndpointOptions,
    failure::Failure,
    target::{Names, Server, Target},
};

/// What carries calls to a target, whatever the target is.
pub(crate) type Service = BoxCloneSyncService<Request<Body>, Response<Body>, BoxError>;

/// How a verb reaches its target.
#[derive(Clone, Debug, Args)]
#[command(next_help_heading = "Connection")]
pub(crate) struct ConnectOptions {
    #[command(flatten)]
    pub(crate) names: Names,
    #[command(flatten)]
    pub(crate) endpoint: EndpointOptions,
    /// The transport to a peer whose ticket has a TCP address too.
    #[arg(long, value_enum, default_value = "iroh")]
    pub(crate) transport: Transport,
    /// Seconds that connecting may take.
    #[arg(long, value_name = "SECONDS", default_value = "10", value_parser = seconds)]
    pub(crate) connect_timeout: Duration,
    /// The name that the server is asked for, in `:authority`.
    #[arg(long, value_name = "NAME")]
    pub(crate) authority: Option<String>,
    /// Seconds of silence after which the peer is pinged. Without an answer for as long again the connection is lost, and its calls end with UNAVAILABLE. A server
    /// may end a connection that pings more often than it allows.
    #[arg(long, value_name = "SECONDS", value_parser = seconds)]
    pub(crate) keepalive_time: Option<Duration>,
    /// The target is the path of a unix socket, as `unix:PATH` is without this flag.
    #[cfg(unix)]
    #[arg(long)]
    pub(crate) unix: bool,
    /// Speak HTTP/2 without TLS to a `tcp://` or `unix:` target.
    #[arg(long)]
    pub(crate) plaintext: bool,
    /// Accept any certificate of a `tcp://` or `unix:` target, whoever shows it. A peer has to prove its key all the same.
    #[arg(long, conflicts_with = "plaintext")]
    pub(crate) insecure: bool,
    /// The certificate authorities to trust for a `tcp://` target, in PEM; without it Mozilla's. Ignored with `--insecure`.
    #[arg(long, value_name = "FILE")]
    pub(crate) cacert: Option<PathBuf>,
    /// Our certificate for a `tcp://` target, in PEM.
    #[arg(long, value_name = "FILE", requires = "key")]
    pub(crate) cert: Option<PathBuf>,
    /// The private key of our certificate, in PEM.
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub(crate) key: Option<PathBuf>,
    /// The name that the certificate of a `tcp://` target must have.
    #[arg(long, value_name = "NAME")]
    pub(crate) servername: Option<String>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Transport {
    Iroh,
    Tcp,
}

/// The longest time that a flag can give.
pub(crate) const YEAR: Duration = Duration::from_secs(365 * 24 * 60 * 60);

/// Reads a number of seconds above 0, and up to a year: nothing here lasts longer, and no time that is added to it overflows.
pub(crate) fn seconds(text: &str) -> Result<Duration, String> {
    let wrong = || format!("`{text}` is not a number of seconds above 0, and up to a year");
    let seconds: f64 = text.parse().map_err(|_| wrong())?;
    match Duration::try_from_secs_f64(seconds) {
        Ok(time) if !time.is_zero() && time <= YEAR => Ok(time),
        _ => Err(wrong()),
    }
}

/// What a verb wants of its calls, over any transport.
#[derive(Clone, Debug, Default)]
pub(crate) struct CallPolicy {
    pub(crate) urgency: Option<Urgency>,
    /// Calls wait for the peer for so long.
    pub(crate) wait_for_ready: Option<Duration>,
    /// Calls may be executed twice: how often one may reach the peer.
    pub(crate) attempts: Option<u32>,
    pub(crate) user_agent: Option<String>,
    /// A breaker guards a peer from many calls. It would hide why the only call failed.
    pub(crate) without_breaker: bool,
}

/// Services of which every method changes nothing.
const READ_ONLY: [&str; 3] = [
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
];

impl CallPolicy {
    fn configure(&self, mut stack: StackBuilder) -> Result<StackBuilder, Failure> {
        let mut every = MethodConfig::new();
        if let Some(patience) = self.wait_for_ready {
            every = every.wait_for_ready(true).buffer_ttl(patience);
        }
        if self.without_breaker {
            stack = stack.without_breaker();
        }
        if let Some(attempts) = self.attempts {
            every = every.idempotent(true);
            let policy = RetryPolicy::builder()
                .max_attempts(attempts)
                // One call has the budget for itself, and half of it must be left for the last retry.
                .max_tokens(attempts.saturating_mul(2).saturating_add(2).min(1000))
                .build();
            stack = stack.retry(policy.map_err(Failure::usage)?);
        }
        // What only looks may be asked again, whatever the verb says of its own calls.
        let read_only = MethodConfig::new().idempotent(true);
        let methods = Methods::builder()
            .method("*", every)
            .methods(READ_ONLY, read_only)
            .build();
        stack = stack.methods(methods.map_err(Failure::usage)?);
        Ok(match self.urgency {
            Some(urgency) => stack.urgency(urgency),
            None => stack,
        })
    }
}

/// A service for a target, and what is under it.
#[derive(Clone)]
pub(crate) struct Connection {
    pub(crate) service: Service,
    pub(crate) channel: Option<Channel>,
    endpoint: Option<Endpoint>,
    /// Whether the target itself has an address.
    has_address: bool,
    attempts: Arc<AtomicU32>,
}

impl Connection {
    /// Prepares the service. The first call connects.
    pub(crate) async fn new(
        target: &str,
        options: &ConnectOptions,
        policy: CallPolicy,
    ) -> Result<Self, Failure> {
        Self::with_endpoint_of(None, target, options, policy).await
    }

    /// The same through the endpoint of another connection, if it has one: two with one key would disturb each other.
    pub(crate) async fn with_endpoint_of(
        other: Option<&Self>,
        target: &str,
        options: &ConnectOptions,
        policy: CallPolicy,
    ) -> Result<Self, Failure> {
        let bound = other.and_then(|other| other.endpoint.clone());
        let names = options.names.load()?;
        match options.target(target, names.as_deref())? {
            Target::Peer(peer) => {
                Self::to_peer(peer, options, names.as_deref(), &policy, bound).await
            }
            Target::Server(server) => Self::to_server(&server, options, &policy),
        }
    }

    async fn to_peer(
        peer: Peer,
        options: &ConnectOptions,
        names: Option<&Config>,
        policy: &CallPolicy,
        bound: Option<Endpoint>,
    ) -> Result<Self, Failure> {
        let timeout = options.connect_timeout;
        let (endpoint, mut builder) = match options.transport {
            Transport::Iroh => {
                let endpoint = match bound {
                    Some(endpoint) => endpoint,
                    None => options.endpoint.bind(names).await?,
                };
                let builder = Channel::builder(endpoint.clone());
                let links = builder.links(|links| {
                    let links = links.dial_timeout(timeout);
                    match options.keepalive_time {
                        Some(time) => links.health_interval(time),
                        None => links,
                    }
                });
                (Some(endpoint), links)
            }
            Transport::Tcp => {
                let builder = Channel::tcp(options.endpoint.key()?);
                let links = builder.tcp_links(|links| {
                    let links = links.dial_timeout(timeout);
                    match options.keepalive_time {
                        Some(time) => links.health_interval(time),
                        None => links,
                    }
                });
                (None, links)
            }
        };
        let stack = policy.configure(Stack::builder())?;
        builder = builder.stack(|_| stack);
        if let Some(name) = &policy.user_agent {
            builder = builder.user_agent(name);
        }
        if let Some(authority) = &options.authority {
            builder = builder.origin(origin("http", authority)?);
        }
        let attempts = Arc::default();
        let has_address = !peer.addr().is_empty();
        let channel = builder
            .peer(peer)
            .around_attempts(MapRequestLayer::new(counted(&attempts)))
            .build()
            .map_err(Failure::usage)?;
        let service = channel.clone().map_err(BoxError::from);
        Ok(Self {
            service: Service::new(service),
            channel: Some(channel),
            endpoint,
            has_address,
            attempts,
        })
    }

    fn to_server(
        server: &Server,
        options: &ConnectOptions,
        policy: &CallPolicy,
    ) -> Result<Self, Failure> {
        let scheme = if options.plaintext { "http" } else { "https" };
        let authority = match server {
            Server::Tcp(address) => address,
            #[cfg(unix)]
            Server::Unix(_) => "localhost",
        };
        let endpoint = TcpEndpoint::from_shared(format!("{scheme}://{authority}"));
        let mut endpoint = endpoint
            .map_err(|error| Failure::usage(format!("`{server}`: {error}")))?
            .connect_timeout(options.connect_timeout);
        if let Some(time) = options.keepalive_time {
            endpoint = endpoint
                .http2_keep_alive_interval(time)
                .keep_alive_timeout(time);
        }
        if let Some(authority) = &options.authority {
            endpoint = endpoint.origin(origin(scheme, authority)?);
        }
        if !options.plaintext {
            let tls = options.tls()?;
            let secured = match options.insecure {
                true => endpoint.tls_config_with_verifier(tls, Arc::new(AnyCertificate::new())),
                false => endpoint.tls_config(tls),
            };
            endpoint = secured.map_err(Failure::failed)?;
        }
        if let Some(name) = &policy.user_agent {
            endpoint = endpoint
                .user_agent(name)
                .map_err(|error| Failure::usage(format!("`--user-agent {name}`: {error}")))?;
        }
        let attempts = Arc::default();
        let stack = policy.configure(Stack::builder().transport("tcp"))?;
        let service = tower::ServiceBuilder::new()
            .map_response(|response: Response<_>| response.map(Body::new))
            .layer(stack.build().map_err(Failure::usage)?)
            .layer(MapRequestLayer::new(counted(&attempts)))
            .layer(ExactCodesLayer)
            .service(match server {
                Server::Tcp(_) => endpoint.connect_lazy(),
                #[cfg(unix)]
                Server::Unix(path) => connect_unix(&endpoint, path.clone()),
            });
        Ok(Self {
            service: Service::new(service.map_err(BoxError::from)),
            channel: None,
            endpoint: None,
            has_address: true,
            attempts,
        })
    }

    /// How often calls were begun so far, retries included.
    pub(crate) fn attempts(&self) -> u32 {
        self.attempts.load(Ordering::Relaxed)
    }

    /// Looks up the peer of an endpoint id without addresses, so that the dial has them. Returns how long that took, or `None` where there was nothing to look up.
    pub(crate) async fn look_up(&self) -> Option<Duration> {
        let (endpoint, channel) = (self.endpoint.as_ref()?, self.channel.as_ref()?);
        if self.has_address {
            return None;
        }
        let begun = Instant::now();
        let found = found_address(endpoint, channel.peer()).await?;
        channel.links()?.add_peer(Peer::from(found));
        Some(begun.elapsed())
    }

    /// Says goodbye to the peer.
    pub(crate) async fn close(self) {
        // A peer that is gone does not confirm it, and a person waits.
        const PATIENCE: Duration = Duration::from_secs(2);
        if let Some(endpoint) = self.endpoint {
            let _ = tokio::time::timeout(PATIENCE, endpoint.close()).await;
        }
    }
}

/// The first address that iroh's lookup has for the endpoint.
async fn found_address(endpoint: &Endpoint, id: EndpointId) -> Option<EndpointAddr> {
    let mut found = std::pin::pin!(endpoint.address_lookup().ok()?.resolve(id));
    while let Some(answer) = found.next().await {
        // One service's failure is not the others'.
        if let Ok(Ok(item)) = answer {
            return Some(item.into_endpoint_addr());
        }
    }
    None
}

/// Counts what passes.
fn counted(
    attempts: &Arc<AtomicU32>,
) -> impl Fn(Request<Body>) -> Request<Body> + Clone + Send + Sync + 'static {
    let attempts = attempts.clone();
    move |request| {
        attempts.fetch_add(1, Ordering::Relaxed);
        request
    }
}

fn origin(scheme: &str, authority: &str) -> Result<http::Uri, Failure> {
    http::Uri::builder()
        .scheme(scheme)
        .authority(authority)
        .path_and_query("/")
        .build()
        .map_err(|error| Failure::usage(format!("`--authority {authority}`: {error}")))
}

impl ConnectOptions {
    /// Reads the target that these options are for.
    pub(crate) fn target(&self, text: &str, names: Option<&Config>) -> Result<Target, Failure> {
        #[cfg(unix)]
        if self.unix {
            let server = Server::read_unix(text).unwrap_or_else(|| Server::Unix(text.into()));
            return Ok(Target::Server(server));
        }
        Target::read(text, names)
    }

    fn tls(&self) -> Result<ClientTlsConfig, Failure> {
        let read = |path: &PathBuf| std::fs::read(path).map_err(|error| Failure::file(path, error));
        let mut tls = match &self.cacert {
            _ if self.insecure => ClientTlsConfig::new(),
            Some(path) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(read(path)?)),
            None => ClientTlsConfig::new().with_webpki_roots(),
        };
        if let (Some(cert), Some(key)) = (&self.cert, &self.key) {
            tls = tls.identity(Identity::from_pem(read(cert)?, read(key)?));
        }
        // As with grpcurl, the name that is asked for is the one that the certificate must have.
        let authority = || {
            Some(
                self.authority
                    .as_ref()?
                    .parse::<Authority>()
                    .ok()?
                    .host()
                    .to_owned(),
            )
        };
        if let Some(name) = self.servername.clone().or_else(authority) {
            tls = tls.domain_name(name);
        }
        Ok(tls)
    }
}

/// Ends when the path to the peer is direct.
pub(crate) async fn becomes_direct(channel: &Channel) {
    let is_direct = || {
        let path = channel.stats().and_then(|stats| stats.path);
        path.is_some_and(|path| path.is_direct())
    };
    while !is_direct() {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

#[cfg(test)]
mod tests {
    use iroh::{SecretKey, address_lookup::MemoryLookup};
    use tower_iroh::presets::Offline;

    use super::*;

    #[tokio::test]
    async fn an_id_is_looked_up_where_a_service_knows_it() {
        let known = SecretKey::from_bytes(&[7; 32]).public();
        let addr = "127.0.0.1:7".parse().expect("valid");
        let addr = EndpointAddr::new(known).with_ip_addr(addr);
        let endpoint = Endpoint::bind(Offline).await.expect("a free port");
        assert_eq!(found_address(&endpoint, known).await, None, "no service");
        let lookup = MemoryLookup::new();
        lookup.add_endpoint_info(addr.clone());
        endpoint.address_lookup().expect("open").add(lookup);
        assert_eq!(found_address(&endpoint, known).await, Some(addr));
        let other = SecretKey::from_bytes(&[8; 32]).public();
        assert_eq!(found_address(&endpoint, other).await, None);
    }
}

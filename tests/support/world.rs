//! A server, and clients that reach it through one arm.

use std::{net::SocketAddr, time::Duration};

use futures_util::{FutureExt as _, Stream};
use iroh::{SecretKey, protocol::Router};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    sync::oneshot,
    task::JoinHandle,
    time::timeout,
};
use tonic::{
    codec::CompressionEncoding,
    codegen::InterceptedService,
    service::Routes,
    transport::{
        Endpoint, Server,
        server::{Connected, TcpIncoming},
    },
};
use tonic_health::server::{HealthReporter, HealthService};
use tower::{Layer as _, util::option_layer};
use tower_iroh::{
    Acceptor, Channel, ChannelBuilder, Connector, ExactCodesLayer, Peer, RemoteAddrLayer,
    presets::Offline, tcp::TcpAcceptor,
};
use tower_iroh_proto::{
    EchoService, FILE_DESCRIPTOR_SET,
    echo::{echo_client::EchoClient, echo_server::EchoServer},
    testing::{test_service_client::TestServiceClient, test_service_server::TestServiceServer},
};

use super::{
    backstage::Backstage,
    client::Client,
    echo_metadata::EchoMetadataLayer,
    service::{Guard, Tester},
    tamper::TamperLayer,
    wire::ArrivedLayer,
};

/// All that tonic compresses with.
pub const ENCODINGS: [CompressionEncoding; 3] = [
    CompressionEncoding::Gzip,
    CompressionEncoding::Deflate,
    CompressionEncoding::Zstd,
];

pub type TestClient = TestServiceClient<Client>;

/// A way from the client to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Arm {
    /// tonic's `Channel` over TCP: the control.
    Tcp,
    /// tonic's `Channel` over our `Connector`.
    Connector,
    /// Our `Channel`.
    Channel,
    /// Our `Channel` over TCP, with TLS between the same identities.
    TcpTls,
    /// tonic's `Channel` in the clear, to our TCP port.
    Plaintext,
}

impl Arm {
    pub const ALL: [Arm; 5] = [
        Arm::Tcp,
        Arm::Connector,
        Arm::Channel,
        Arm::TcpTls,
        Arm::Plaintext,
    ];

    /// Whether the client is tonic's `Channel`, which has ways of its own with deadlines.
    pub fn is_tonic(self) -> bool {
        matches!(self, Arm::Tcp | Arm::Connector | Arm::Plaintext)
    }

    pub fn name(self) -> &'static str {
        match self {
            Arm::Tcp => "tcp",
            Arm::Connector => "connector",
            Arm::Channel => "channel",
            Arm::TcpTls => "tcp_tls",
            Arm::Plaintext => "plaintext",
        }
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub struct ServerOptions {
    /// The test service's limit for messages that come in; tonic's own 4 MiB when `None`.
    pub decoding_limit: Option<usize>,
    /// The test service's limit for messages that go out; none when `None`.
    pub encoding_limit: Option<usize>,
    /// The server's own timeout for a call's handler.
    pub timeout: Option<Duration>,
    /// What the test service decompresses and compresses; all that tonic can when `None`.
    pub encodings: Option<&'static [CompressionEncoding]>,
    /// Any other setting of tonic's server.
    pub server: Option<fn(Server) -> Server>,
    /// Leaves out `RemoteAddrLayer`.
    pub without_remote_addr: bool,
    /// Where [`Arm::Tcp`] listens; 0 is any free port.
    pub port: u16,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct ClientOptions {
    /// Puts `ExactCodesLayer` over tonic's `Channel`. Our own channel needs none and takes no notice.
    pub exact_codes: bool,
    /// The channel's own timeout for a call.
    pub timeout: Option<Duration>,
    /// Any other setting of tonic's channel.
    pub tonic: Option<fn(Endpoint) -> Endpoint>,
    /// Any other setting of our channel.
    pub ours: Option<fn(ChannelBuilder) -> ChannelBuilder>,
}

/// A running server with everything that is needed to call it.
pub struct World {
    arm: Arm,
    pub backstage: Backstage,
    pub health: HealthReporter,
    reach: Reach,
    shutdown: oneshot::Sender<()>,
    served: Served,
}

enum Reach {
    Tcp(SocketAddr),
    Tls {
        peer: Peer,
        /// The client's.
        key: SecretKey,
    },
    Iroh {
        peer: Peer,
        router: Router,
        /// The client's endpoint.
        endpoint: iroh::Endpoint,
    },
}

type Served = JoinHandle<Result<(), tonic::transport::Error>>;

impl World {
    pub async fn start(arm: Arm, options: ServerOptions) -> World {
        let backstage = Backstage::default();
        let health = HealthReporter::new();
        health.set_serving::<TestServiceServer<Tester>>().await;
        let routes = routes(&backstage, &health, options);
        let (shutdown, signal) = oneshot::channel();
        let signal = signal.map(|_| ());
        let (reach, served) = match arm {
            Arm::Tcp => {
                let addr = SocketAddr::from(([127, 0, 0, 1], options.port));
                let incoming = TcpIncoming::bind(addr).expect("a free port");
                let addr = incoming.local_addr().expect("bound");
                let incoming = incoming.with_nodelay(Some(true));
                (Reach::Tcp(addr), serve(routes, options, incoming, signal))
            }
            Arm::Connector | Arm::Channel => {
                let (reach, incoming) = iroh().await;
                (reach, serve(routes, options, incoming, signal))
            }
            Arm::TcpTls | Arm::Plaintext => {
                let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
                let listener = listener.expect("a free port");
                let addr = listener.local_addr().expect("bound");
                let key = SecretKey::generate();
                let peer = Peer::new(key.public()).with_tcp(addr);
                let acceptor = TcpAcceptor::builder(key).plaintext(arm == Arm::Plaintext);
                let (_, incoming) = acceptor.build(listener).expect("valid");
                let reach = match arm {
                    Arm::Plaintext => Reach::Tcp(addr),
                    _ => Reach::Tls {
                        peer,
                        key: SecretKey::generate(),
                    },
                };
                (reach, serve(routes, options, incoming, signal))
            }
        };
        World {
            arm,
            backstage,
            health,
            reach,
            shutdown,
            served,
        }
    }

    pub fn arm(&self) -> Arm {
        self.arm
    }

    /// The server's address; `None` over iroh.
    pub fn server_addr(&self) -> Option<SocketAddr> {
        match &self.reach {
            Reach::Tcp(addr) => Some(*addr),
            Reach::Tls { peer, .. } => {
                let addr = peer.tcp().expect("the server listens on TCP");
                Some(addr.to_string().parse().expect("an IP address and a port"))
            }
            Reach::Iroh { .. } => None,
        }
    }

    /// The server's id; `None` where the client does not know it.
    pub fn server_id(&self) -> Option<String> {
        match &self.reach {
            Reach::Tcp(_) => None,
            Reach::Tls { peer, .. } | Reach::Iroh { peer, .. } => Some(peer.id().to_string()),
        }
    }

    /// The server's ticket; `None` where the client knows no key.
    pub fn ticket(&self) -> Option<String> {
        match &self.reach {
            Reach::Tcp(_) => None,
            Reach::Tls { peer, .. } | Reach::Iroh { peer, .. } => Some(peer.ticket()),
        }
    }

    /// The id that the client's endpoint proves; `None` where the transport proves nothing.
    pub fn client_id(&self) -> Option<String> {
        match &self.reach {
            Reach::Tcp(_) => None,
            Reach::Tls { key, .. } => Some(key.public().to_string()),
            Reach::Iroh { endpoint, .. } => Some(endpoint.id().to_string()),
        }
    }

    /// The ports of the client's endpoint; `None` where they are not known.
    pub fn client_ports(&self) -> Option<Vec<u16>> {
        match &self.reach {
            Reach::Tcp(_) | Reach::Tls { .. } => None,
            Reach::Iroh { endpoint, .. } => {
                let sockets = endpoint.bound_sockets();
                Some(sockets.iter().map(SocketAddr::port).collect())
            }
        }
    }

    /// A client of the test service, with the defaults.
    pub async fn test_client(&self) -> TestClient {
        TestServiceClient::new(self.client().await)
    }

    /// A client of the echo service, with the defaults.
    pub async fn echo_client(&self) -> EchoClient<Client> {
        EchoClient::new(self.client().await)
    }

    pub async fn client(&self) -> Client {
        self.client_with(ClientOptions::default()).await
    }

    pub async fn client_with(&self, options: ClientOptions) -> Client {
        match &self.reach {
            Reach::Tcp(addr) => {
                let uri = format!("http://{addr}");
                let endpoint = Endpoint::from_shared(uri).expect("a URI");
                let endpoint = configured(endpoint, options);
                tonic_client(endpoint.connect().await, options)
            }
            Reach::Iroh { peer, endpoint, .. } if self.arm == Arm::Connector => {
                let connector = Connector::new(endpoint.clone());
                connector.add_peer(peer.clone());
                let endpoint = configured(Endpoint::from(peer.uri()), options);
                tonic_client(endpoint.connect_with_connector(connector).await, options)
            }
            Reach::Iroh { peer, endpoint, .. } => {
                ours(Channel::builder(endpoint.clone()), peer, options)
            }
            Reach::Tls { peer, key } => ours(Channel::tcp(key.clone()), peer, options),
        }
    }

    /// Shuts down gracefully; panics when that takes more than ten seconds or the server failed.
    pub async fn stop(self) {
        // The receiver is gone only if the server ended by itself, which the result below then says.
        let _ = self.shutdown.send(());
        let served = timeout(Duration::from_secs(10), self.served).await;
        let served = served.expect("graceful shutdown within 10 s");
        served.expect("no panic").expect("the server served");
        if let Reach::Iroh {
            router, endpoint, ..
        } = self.reach
        {
            endpoint.close().await;
            router.shutdown().await.expect("the router shuts down");
        }
    }
}

fn ours(builder: ChannelBuilder, peer: &Peer, options: ClientOptions) -> Client {
    let mut builder = builder.peer(peer.clone());
    if let Some(timeout) = options.timeout {
        builder = builder.timeout(timeout);
    }
    if let Some(set) = options.ours {
        builder = set(builder);
    }
    Client::new(builder.build().expect("a valid configuration"))
}

fn configured(mut endpoint: Endpoint, options: ClientOptions) -> Endpoint {
    if let Some(timeout) = options.timeout {
        endpoint = endpoint.timeout(timeout);
    }
    match options.tonic {
        Some(set) => set(endpoint),
        None => endpoint,
    }
}

fn tonic_client(
    connected: Result<tonic::transport::Channel, tonic::transport::Error>,
    options: ClientOptions,
) -> Client {
    let channel = connected.expect("the server is there");
    if options.exact_codes {
        Client::new(ExactCodesLayer.layer(channel))
    } else {
        Client::new(channel)
    }
}

fn routes(backstage: &Backstage, health: &HealthReporter, options: ServerOptions) -> Routes {
    let mut tester = TestServiceServer::new(Tester::new(backstage.clone()));
    for encoding in options.encodings.unwrap_or(&ENCODINGS) {
        tester = tester
            .accept_compressed(*encoding)
            .send_compressed(*encoding);
    }
    if let Some(limit) = options.decoding_limit {
        tester = tester.max_decoding_message_size(limit);
    }
    if let Some(limit) = options.encoding_limit {
        tester = tester.max_encoding_message_size(limit);
    }
    let health = HealthService::from_health_reporter(health.clone());
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .build_v1()
        .expect("protox wrote a valid descriptor set");
    Routes::new(InterceptedService::new(tester, Guard))
        .add_service(EchoServer::new(EchoService))
        .add_service(tonic_health::pb::health_server::HealthServer::new(health))
        .add_service(reflection)
}

fn serve<IO, E>(
    routes: Routes,
    options: ServerOptions,
    incoming: impl Stream<Item = Result<IO, E>> + Send + 'static,
    signal: impl Future<Output = ()> + Send + 'static,
) -> Served
where
    IO: AsyncRead + AsyncWrite + Connected + Unpin + Send + 'static,
    IO::ConnectInfo: Send + Sync,
    E: Into<tower::BoxError> + Send + 'static,
{
    let mut server = Server::builder();
    if let Some(timeout) = options.timeout {
        server = server.timeout(timeout);
    }
    if let Some(set) = options.server {
        server = set(server);
    }
    let remote_addr = (!options.without_remote_addr).then_some(RemoteAddrLayer);
    let served = server
        .layer(option_layer(remote_addr))
        .layer(ArrivedLayer)
        .layer(EchoMetadataLayer)
        .layer(TamperLayer)
        .add_routes(routes)
        .serve_with_incoming_shutdown(incoming, signal);
    tokio::spawn(served)
}

/// Two endpoints on this machine, and the server's stream of connections.
async fn iroh() -> (Reach, tower_iroh::Incoming) {
    let server = iroh::Endpoint::bind(Offline).await.expect("a free port");
    let peer = Peer::of(&server).expect("a dialable address");
    let (acceptor, incoming) = Acceptor::new();
    let router = acceptor.router(server).spawn();
    let endpoint = iroh::Endpoint::bind(Offline).await.expect("a free port");
    let reach = Reach::Iroh {
        peer,
        router,
        endpoint,
    };
    (reach, incoming)
}

//! A server, and clients that reach it through one arm.

use std::{
    net::SocketAddr,
    task::{Context, Poll},
    time::Duration,
};

use futures_util::{FutureExt as _, future::BoxFuture};
use http::{Request, Response};
use tokio::{sync::oneshot, task::JoinHandle, time::timeout};
use tonic::{
    body::Body,
    codec::CompressionEncoding,
    codegen::InterceptedService,
    service::Routes,
    transport::{Server, server::TcpIncoming},
};
use tonic_health::server::HealthReporter;
use tower::{BoxError, Service, ServiceExt as _, util::BoxCloneSyncService};
use tower_iroh_proto::{
    EchoService, FILE_DESCRIPTOR_SET,
    echo::{echo_client::EchoClient, echo_server::EchoServer},
    testing::{test_service_client::TestServiceClient, test_service_server::TestServiceServer},
};

use super::{
    backstage::Backstage,
    echo_metadata::EchoMetadataLayer,
    service::{Guard, Tester},
    wire::{Arrived, ArrivedLayer, Tally},
};

pub type TestClient = TestServiceClient<Client>;

/// A way from the client to the server.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Arm {
    /// tonic's `Channel` over TCP: the control.
    Tcp,
}

impl Arm {
    pub const ALL: [Arm; 1] = [Arm::Tcp];

    pub fn name(self) -> &'static str {
        match self {
            Arm::Tcp => "tcp",
        }
    }
}

#[derive(Clone, Copy, Debug, Default)]
pub struct ServerOptions {
    /// The test service's limit for messages that come in; tonic's own 4 MiB when `None`.
    pub decoding_limit: Option<usize>,
    /// The test service's limit for messages that go out; none when `None`.
    pub encoding_limit: Option<usize>,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct ClientOptions {
    /// Puts `ExactCodesLayer` over tonic's `Channel`. Our own channel needs none and takes no notice.
    pub exact_codes: bool,
    /// The channel's own timeout for a call.
    pub timeout: Option<Duration>,
}

/// A running server with everything that is needed to call it.
pub struct World {
    arm: Arm,
    pub backstage: Backstage,
    pub health: HealthReporter,
    reach: Reach,
    shutdown: oneshot::Sender<()>,
    served: JoinHandle<Result<(), tonic::transport::Error>>,
}

enum Reach {
    Tcp(SocketAddr),
}

impl World {
    pub async fn start(arm: Arm, options: ServerOptions) -> World {
        let backstage = Backstage::default();
        let health = HealthReporter::new();
        health.set_serving::<TestServiceServer<Tester>>().await;
        let routes = routes(&backstage, &health, options);
        let (shutdown, signal) = oneshot::channel();
        let signal = signal.map(|_| ());
        let (reach, served) = match arm {
            Arm::Tcp => serve_tcp(routes, signal),
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

    /// The id that the client's endpoint proves; `None` where the transport proves nothing.
    pub fn client_id(&self) -> Option<String> {
        match &self.reach {
            Reach::Tcp(_) => None,
        }
    }

    /// The ports of the client's endpoint; `None` where they are not known.
    pub fn client_ports(&self) -> Option<Vec<u16>> {
        match &self.reach {
            Reach::Tcp(_) => None,
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
                let endpoint = tonic::transport::Endpoint::from_shared(uri).expect("a URI");
                let endpoint = tonic_options(endpoint, options);
                Client::new(endpoint.connect().await.expect("the server listens"))
            }
        }
    }

    /// Shuts down gracefully; panics when that takes more than ten seconds or the server failed.
    pub async fn stop(self) {
        // The receiver is gone only if the server ended by itself, which the result below then says.
        let _ = self.shutdown.send(());
        let served = timeout(Duration::from_secs(10), self.served).await;
        let served = served.expect("graceful shutdown within 10 s");
        served.expect("no panic").expect("the server served");
        match self.reach {
            Reach::Tcp(_) => {}
        }
    }
}

fn tonic_options(
    mut endpoint: tonic::transport::Endpoint,
    options: ClientOptions,
) -> tonic::transport::Endpoint {
    if let Some(timeout) = options.timeout {
        endpoint = endpoint.timeout(timeout);
    }
    endpoint
}

fn routes(backstage: &Backstage, health: &HealthReporter, options: ServerOptions) -> Routes {
    let mut tester = TestServiceServer::new(Tester::new(backstage.clone()))
        .accept_compressed(CompressionEncoding::Gzip)
        .send_compressed(CompressionEncoding::Gzip);
    if let Some(limit) = options.decoding_limit {
        tester = tester.max_decoding_message_size(limit);
    }
    if let Some(limit) = options.encoding_limit {
        tester = tester.max_encoding_message_size(limit);
    }
    let health = tonic_health::server::HealthService::from_health_reporter(health.clone());
    let reflection = tonic_reflection::server::Builder::configure()
        .register_encoded_file_descriptor_set(FILE_DESCRIPTOR_SET)
        .build_v1()
        .expect("protox wrote a valid descriptor set");
    Routes::new(InterceptedService::new(tester, Guard))
        .add_service(EchoServer::new(EchoService))
        .add_service(tonic_health::pb::health_server::HealthServer::new(health))
        .add_service(reflection)
}

fn serve_tcp(
    routes: Routes,
    signal: impl Future<Output = ()> + Send + 'static,
) -> (Reach, JoinHandle<Result<(), tonic::transport::Error>>) {
    let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
    let incoming = TcpIncoming::bind(any_port)
        .expect("a free port")
        .with_nodelay(Some(true));
    let addr = incoming.local_addr().expect("bound");
    let served = Server::builder()
        .layer(ArrivedLayer)
        .layer(EchoMetadataLayer)
        .add_routes(routes)
        .serve_with_incoming_shutdown(incoming, signal);
    (Reach::Tcp(addr), tokio::spawn(served))
}

/// Any of the channels, with an eye on what the last response brought.
#[derive(Clone, Debug)]
pub struct Client {
    channel: BoxCloneSyncService<Request<Body>, Response<Body>, BoxError>,
    arrived: Arrived,
}

impl Client {
    fn new<S>(channel: S) -> Self
    where
        S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + Sync + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send + 'static,
    {
        Self {
            channel: BoxCloneSyncService::new(channel.map_err(Into::into)),
            arrived: Arrived::default(),
        }
    }

    /// What has arrived of the last response.
    pub fn tally(&self) -> Tally {
        self.arrived.tally()
    }
}

impl Service<Request<Body>> for Client {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<Body>, BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.channel.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let response = self.channel.call(request);
        let arrived = self.arrived.clone();
        async move {
            let response = response.await?;
            arrived.begin(response.headers());
            Ok(response.map(|body| arrived.watch(body)))
        }
        .boxed()
    }
}

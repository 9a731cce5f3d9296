//! A server that writes down who called what, and a client behind a relay.

use std::time::Duration;

use iroh::{Endpoint, EndpointId, SecretKey, endpoint::EndpointHooks, protocol::Router};
use tokio::{sync::watch, time::timeout};
use tonic::{Request, Response, Status, Streaming};
use tower_iroh::{
    Acceptor, AcceptorBuilder, Channel, EarlyData, Links, LinksBuilder, Peer, PeerInfo,
    layers::{Idempotent, MethodConfig, Methods, authorize::PolicyHandle},
    presets::Offline,
};
use tower_iroh_proto::{
    EchoService,
    echo::{
        EchoRequest, EchoResponse, StreamRequest, StreamSummary,
        echo_client::EchoClient,
        echo_server::{Echo, EchoServer},
    },
};

use super::relay::Relay;

/// How long a test waits for something that is to happen. Two cores are shared with others, so this is no measure of speed.
const PATIENCE: Duration = Duration::from_secs(30);

#[path = "../support/waiting.rs"]
mod waiting;

pub use waiting::{soon, until};

/// The method that is listed as one that may be done twice.
pub const READ: &str = "/tower_iroh.echo.v1.Echo/Echo";
/// One that is not.
pub const WRITE: &str = "/tower_iroh.echo.v1.Echo/ServerStream";

/// A call as its handler saw it: the method, and who had proved to be the caller when it began.
pub type Seen = (&'static str, Option<EndpointId>);

/// Answers, and writes down what it was asked.
#[derive(Clone, Debug)]
pub struct Recorder(watch::Sender<Vec<Seen>>);

impl Recorder {
    fn record<T>(&self, method: &'static str, request: &Request<T>) {
        let peer = request.extensions().get::<PeerInfo>().expect("over iroh");
        self.0.send_modify(|seen| seen.push((method, peer.id())));
    }
}

#[tonic::async_trait]
impl Echo for Recorder {
    type ServerStreamStream = <EchoService as Echo>::ServerStreamStream;
    type BidiStreamStream = <EchoService as Echo>::BidiStreamStream;

    async fn echo(&self, request: Request<EchoRequest>) -> Result<Response<EchoResponse>, Status> {
        self.record(READ, &request);
        EchoService.echo(request).await
    }

    async fn server_stream(
        &self,
        request: Request<StreamRequest>,
    ) -> Result<Response<Self::ServerStreamStream>, Status> {
        self.record(WRITE, &request);
        EchoService.server_stream(request).await
    }

    async fn client_stream(
        &self,
        request: Request<Streaming<EchoRequest>>,
    ) -> Result<Response<StreamSummary>, Status> {
        EchoService.client_stream(request).await
    }

    async fn bidi_stream(
        &self,
        request: Request<Streaming<EchoRequest>>,
    ) -> Result<Response<Self::BidiStreamStream>, Status> {
        EchoService.bidi_stream(request).await
    }
}

pub struct Server {
    pub endpoint: Endpoint,
    pub acceptor: Acceptor,
    pub router: Router,
    seen: watch::Sender<Vec<Seen>>,
}

impl Server {
    /// One that answers [`READ`] early.
    pub async fn early() -> Self {
        Self::with(early()).await
    }

    pub async fn with(acceptor: AcceptorBuilder) -> Self {
        Self::on(endpoint(None, NoHooks).await, acceptor, None)
    }

    pub fn on(
        endpoint: Endpoint,
        acceptor: AcceptorBuilder,
        policy: Option<&PolicyHandle>,
    ) -> Self {
        let (acceptor, incoming) = acceptor.build().expect("valid settings");
        let router = acceptor.router(endpoint.clone()).spawn();
        let seen = watch::Sender::new(Vec::new());
        let service = EchoServer::new(Recorder(seen.clone()));
        let mut server = tonic::transport::Server::builder();
        match policy {
            Some(policy) => {
                let mut server = server.layer(tower_iroh::authorize(policy));
                let server = server.add_service(service);
                tokio::spawn(server.serve_with_incoming(incoming));
            }
            None => {
                let server = server.add_service(service);
                tokio::spawn(server.serve_with_incoming(incoming));
            }
        }
        Self {
            endpoint,
            acceptor,
            router,
            seen,
        }
    }

    pub fn seen(&self) -> Vec<Seen> {
        self.seen.borrow().clone()
    }

    pub async fn has_seen(&self, what: &str, wanted: &[Seen]) {
        let mut seen = self.seen.subscribe();
        let wait = timeout(PATIENCE, seen.wait_for(|seen| seen.len() >= wanted.len()));
        let all = wait.await.map(|seen| seen.expect("held by self").clone());
        let mut all = all.unwrap_or_else(|_| panic!("waited for {what}, saw {:?}", self.seen()));
        let mut wanted = wanted.to_vec();
        // Calls that were made at once come in any order.
        all.sort();
        wanted.sort();
        assert_eq!(all, wanted, "{what}");
    }

    pub fn forget(&self) {
        self.seen.send_replace(Vec::new());
    }
}

/// An acceptor that answers [`READ`] early.
pub fn early() -> AcceptorBuilder {
    Acceptor::builder().early_data([READ])
}

#[derive(Debug)]
pub struct NoHooks;

impl EndpointHooks for NoHooks {}

pub async fn endpoint(key: Option<SecretKey>, hooks: impl EndpointHooks + 'static) -> Endpoint {
    let mut builder = Endpoint::builder(Offline).hooks(hooks);
    if let Some(key) = key {
        builder = builder.secret_key(key);
    }
    builder.bind().await.expect("a free port")
}

pub struct Client {
    pub endpoint: Endpoint,
    pub links: Links,
    pub server: EndpointId,
    pub channel: Channel,
    pub relay: Relay,
}

impl Client {
    /// One that sends early what it declares idempotent.
    pub async fn early(server: &Server) -> Self {
        Self::with(server, |links| links.early_data(true)).await
    }

    pub async fn with(server: &Server, links: impl FnOnce(LinksBuilder) -> LinksBuilder) -> Self {
        let builder = Endpoint::builder(Offline).clear_ip_transports();
        let builder = builder.bind_addr("[::1]:0").expect("an address");
        let endpoint = builder.bind().await.expect("these tests need ::1");
        let links = links(Links::builder(endpoint.clone()));
        let links = links.build().expect("valid");
        let relay = Relay::to(server.endpoint.bound_sockets()[0]).await;
        let id = server.endpoint.id();
        let methods = Methods::builder().method(READ, MethodConfig::new().idempotent(true));
        let channel = Channel::with_links(links.clone())
            .peer(Peer::from(at(id, &relay)))
            .methods(methods.build().expect("valid"))
            .build()
            .expect("valid");
        Self {
            endpoint,
            links,
            server: id,
            channel,
            relay,
        }
    }

    pub fn id(&self) -> EndpointId {
        self.endpoint.id()
    }

    /// Gets a session to resume, and closes the connection that it came from.
    pub async fn get_session(&self, server: &Server) {
        self.read("for the session").await.expect("connected");
        let stats = self.links.stats(self.server).expect("connected");
        assert_eq!(stats.early_data, None, "there was nothing to resume");
        self.hang_up(server).await;
    }

    /// Closes the connection, and waits until the server knows.
    pub async fn hang_up(&self, server: &Server) {
        self.links.close(self.server);
        until("the connection's end", || {
            server.acceptor.connections() == 0
        })
        .await;
        server.forget();
    }

    /// A call that its channel lists as idempotent.
    pub async fn read(&self, payload: &'static str) -> Result<(), Status> {
        let request = EchoRequest {
            payload: payload.into(),
        };
        let answer = EchoClient::new(self.channel.clone()).echo(request).await?;
        assert_eq!(answer.into_inner().payload, payload);
        Ok(())
    }

    /// A call that may not be done twice.
    pub async fn write(&self) -> Result<(), Status> {
        self.stream(Request::new(one_message())).await
    }

    /// The same from a client that says that it may be.
    pub async fn write_carelessly(&self) -> Result<(), Status> {
        let mut request = Request::new(one_message());
        request.extensions_mut().insert(Idempotent);
        self.stream(request).await
    }

    async fn stream(&self, request: Request<StreamRequest>) -> Result<(), Status> {
        let mut client = EchoClient::new(self.channel.clone());
        let mut messages = client.server_stream(request).await?.into_inner();
        assert!(messages.message().await?.is_some(), "one message");
        assert!(messages.message().await?.is_none(), "and no second");
        Ok(())
    }

    pub fn early_data(&self) -> Option<EarlyData> {
        let stats = self.links.stats(self.server);
        stats.expect("connected").early_data
    }
}

pub fn at(id: EndpointId, relay: &Relay) -> iroh::EndpointAddr {
    iroh::EndpointAddr::new(id).with_ip_addr(relay.addr)
}

fn one_message() -> StreamRequest {
    StreamRequest {
        count: 1,
        size: 3,
        interval_ms: 0,
    }
}

//! A server over TCP that tells who called, and clients of both kinds.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
};

use futures_util::FutureExt as _;
use http::Request as HttpRequest;
use iroh::SecretKey;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::oneshot,
    task::JoinHandle,
};
use tonic::{
    Code, Status, body::Body, service::interceptor::InterceptedService,
    transport::Endpoint as TonicEndpoint,
};
use tower::{Layer as _, Service as _};
use tower_iroh::{
    Channel, Error, ErrorKind, ExactCodesLayer, Peer, PeerInfo, TcpAddr,
    tcp::{TcpAcceptor, TcpAcceptorBuilder, TcpConnector, TcpIncoming, TcpLinks, TcpLinksBuilder},
};
use tower_iroh_proto::echo::{
    echo_client::EchoClient,
    echo_server::{Echo, EchoServer},
};

pub use crate::faulty::{
    Client, ENDLESS, Faulty, HANG, HOLD, Service, Stage, number, request, soon, until,
};

/// Who called, in the order of the calls.
pub type Callers = Arc<Mutex<Vec<PeerInfo>>>;

/// A running server.
pub struct Server {
    pub addr: SocketAddr,
    pub peer: Peer,
    pub acceptor: TcpAcceptor,
    pub stage: Stage,
    pub callers: Callers,
    stop: Option<oneshot::Sender<()>>,
    served: Option<JoinHandle<Result<(), tonic::transport::Error>>>,
}

pub async fn listener() -> TcpListener {
    let bound = TcpListener::bind("127.0.0.1:0").await;
    bound.expect("127.0.0.1 is there")
}

/// Notes who calls.
#[derive(Clone)]
pub struct Note(Callers);

impl tonic::service::Interceptor for Note {
    fn call(&mut self, request: tonic::Request<()>) -> Result<tonic::Request<()>, Status> {
        let info = request.extensions().get::<PeerInfo>().expect("a PeerInfo");
        self.0.lock().expect("not poisoned").push(info.clone());
        Ok(request)
    }
}

/// An echo service that notes its callers.
pub fn noting<S: Echo>(service: S, callers: &Callers) -> InterceptedService<EchoServer<S>, Note> {
    EchoServer::with_interceptor(service, Note(callers.clone()))
}

impl Server {
    pub async fn start() -> Self {
        Self::with(&SecretKey::generate(), |acceptor| acceptor).await
    }

    pub async fn with(
        key: &SecretKey,
        settings: impl FnOnce(TcpAcceptorBuilder) -> TcpAcceptorBuilder,
    ) -> Self {
        Self::on(listener().await, key, settings)
    }

    pub fn on(
        listener: TcpListener,
        key: &SecretKey,
        settings: impl FnOnce(TcpAcceptorBuilder) -> TcpAcceptorBuilder,
    ) -> Self {
        let acceptor = settings(TcpAcceptor::builder(key.clone()));
        let (acceptor, incoming) = acceptor.build(listener).expect("valid settings");
        Self::serving(acceptor, incoming, key, |server| server)
    }

    pub fn serving<L, S, B>(
        acceptor: TcpAcceptor,
        incoming: TcpIncoming,
        key: &SecretKey,
        layered: impl FnOnce(tonic::transport::Server) -> tonic::transport::Server<L>,
    ) -> Self
    where
        L: tower::Layer<tonic::service::Routes, Service = S> + Clone + Send + 'static,
        S: tower::Service<HttpRequest<Body>, Response = http::Response<B>> + Clone + Send + 'static,
        S::Future: Send,
        S::Error: Into<Box<dyn std::error::Error + Send + Sync>> + Send,
        B: http_body::Body<Data = bytes::Bytes> + Send + 'static,
        B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
    {
        let (stage, callers) = (Stage::default(), Callers::default());
        let (stop, stopped) = oneshot::channel();
        let service = noting(Faulty(stage.clone()), &callers);
        let served = layered(tonic::transport::Server::builder())
            .add_service(service)
            .serve_with_incoming_shutdown(incoming, stopped.map(|_| ()));
        Self {
            addr: acceptor.local_addr(),
            peer: Peer::new(key.public()).with_tcp(acceptor.local_addr()),
            acceptor,
            stage,
            callers,
            stop: Some(stop),
            served: Some(tokio::spawn(served)),
        }
    }

    /// Gives the signal that tonic's graceful shutdown waits for.
    pub fn signal(&mut self) {
        self.stop.take().expect("once").send(()).expect("serving");
    }

    /// Waits until tonic has finished serving.
    pub async fn served(&mut self) {
        let served = self.served.take().expect("once");
        let served = soon("the server's end", served).await;
        served.expect("no panic").expect("served without an error");
    }

    pub fn last_caller(&self) -> PeerInfo {
        let callers = self.callers.lock().expect("not poisoned");
        callers.last().expect("a call").clone()
    }
}

/// Which kind of channel calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Our `Channel`.
    Channel,
    /// tonic's, over `TcpConnector` and under `ExactCodesLayer`.
    Tonic,
}

pub const KINDS: [Kind; 2] = [Kind::Channel, Kind::Tonic];

/// A client, with what is beneath it.
#[derive(Clone)]
pub struct Caller {
    pub links: TcpLinks,
    pub service: Service,
}

impl Caller {
    pub fn new(kind: Kind, peer: &Peer) -> Self {
        Self::with(kind, peer, &SecretKey::generate(), |links| links)
    }

    pub fn with(
        kind: Kind,
        peer: &Peer,
        key: &SecretKey,
        settings: impl FnOnce(TcpLinksBuilder) -> TcpLinksBuilder,
    ) -> Self {
        let links = settings(TcpLinks::builder(key.clone()));
        let links = links.build().expect("valid");
        links.add_peer(peer.clone());
        let service = match kind {
            Kind::Channel => {
                // Each failure is to be seen, also one that would be tried again.
                let builder = Channel::with_tcp_links(links.clone())
                    .peer(peer.clone())
                    .stack(tower_iroh::StackBuilder::without_retry);
                Service::new(builder.build().expect("valid"))
            }
            Kind::Tonic => {
                let connector = TcpConnector::with_links(links.clone());
                let channel =
                    TonicEndpoint::from(peer.uri()).connect_with_connector_lazy(connector);
                Service::new(ExactCodesLayer.layer(channel))
            }
        };
        Self { links, service }
    }

    pub fn client(&self) -> Client {
        EchoClient::new(self.service.clone())
    }

    /// One unary call, checked.
    pub async fn echo(&self, payload: &[u8]) -> Result<(), Status> {
        let call = async { self.client().echo(request(payload)).await };
        let answer = soon("an answer", call).await?.into_inner();
        assert_eq!(answer.payload, payload, "the answer to another call");
        Ok(())
    }

    /// One unary call, with our own error where it fails before there is a response.
    pub async fn error(&self) -> Error {
        // An empty message: no compression, no bytes.
        let body = http_body_util::Full::new(bytes::Bytes::from_static(&[0; 5]));
        let request = HttpRequest::post("/tower_iroh.echo.v1.Echo/Echo")
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Body::new(body))
            .expect("a request");
        let mut service = self.service.clone();
        let called = async {
            std::future::poll_fn(|cx| service.poll_ready(cx)).await?;
            service.call(request).await
        };
        soon("an error", called).await.expect_err("refused")
    }

    /// What a call with this payload fails with.
    pub async fn error_of(&self, payload: &[u8]) -> Status {
        self.echo(payload).await.expect_err("failed")
    }

    pub async fn refusal(&self) -> (ErrorKind, Code) {
        let error = self.error().await;
        (error.kind(), error.status().code())
    }
}

/// tonic's own client, without TLS.
pub async fn plain_client(addr: SocketAddr) -> EchoClient<tonic::transport::Channel> {
    let endpoint = TonicEndpoint::from_shared(format!("http://{addr}")).expect("a URI");
    EchoClient::new(endpoint.connect_lazy())
}

/// Where nobody listens, and somebody did a moment ago.
pub async fn nobody() -> SocketAddr {
    listener().await.local_addr().expect("an address")
}

pub async fn socket(addr: SocketAddr) -> TcpStream {
    let socket = soon("a TCP connection", TcpStream::connect(addr)).await;
    socket.expect("connected")
}

pub fn at(key: &SecretKey, addr: impl Into<TcpAddr>) -> Peer {
    Peer::new(key.public()).with_tcp(addr)
}

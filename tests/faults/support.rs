//! A server that misbehaves on command, and callers of both kinds.

use std::{future::pending, pin::Pin, sync::Arc, time::Duration};

use futures_util::{FutureExt as _, Stream, StreamExt as _, stream};
use http::{Request as HttpRequest, Response as HttpResponse};
use iroh::{Endpoint, SecretKey, protocol::Router};
use tokio::{
    runtime::Runtime,
    sync::{oneshot, watch},
    task::JoinHandle,
    time::{sleep, timeout},
};
use tonic::{Code, Request, Response, Status, Streaming, body::Body};
use tower::{Layer as _, Service as _, util::BoxCloneSyncService};
use tower_iroh::{
    Acceptor, AcceptorBuilder, Channel, Connector, Error, ErrorKind, ExactCodesLayer, Links,
    LinksBuilder, Peer, presets::Offline,
};
use tower_iroh_proto::echo::{
    EchoRequest, EchoResponse, StreamRequest, StreamSummary,
    echo_client::EchoClient,
    echo_server::{Echo, EchoServer},
};

/// How long a test waits for something that is to happen. Two cores are shared with others, so this is no measure of speed.
const PATIENCE: Duration = Duration::from_secs(15);

#[path = "../support/waiting.rs"]
mod waiting;

pub use waiting::{soon, until};

/// Makes two tests of each function: over our `Channel`, and over tonic's with `Connector` and `ExactCodesLayer`.
macro_rules! on_both_arms {
    ($($name:ident)*) => {
        mod channel {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    super::$name(crate::support::Arm::Channel).await;
                }
            )*
        }
        mod tonic_channel {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    super::$name(crate::support::Arm::Tonic).await;
                }
            )*
        }
    };
}
pub(crate) use on_both_arms;

/// What the service's handlers have seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    pub begun: u64,
    pub finished: u64,
    /// Handlers or response streams that were dropped before their end.
    pub cancelled: u64,
    /// Messages of client and bidi streams.
    pub heard: u64,
}

/// The service's side of a test.
#[derive(Clone, Debug)]
pub struct Stage {
    counts: Arc<watch::Sender<Counts>>,
    released: Arc<watch::Sender<bool>>,
}

impl Default for Stage {
    fn default() -> Self {
        Self {
            counts: Arc::new(watch::Sender::new(Counts::default())),
            released: Arc::new(watch::Sender::new(false)),
        }
    }
}

impl Stage {
    pub fn counts(&self) -> Counts {
        *self.counts.borrow()
    }

    pub async fn wait(&self, what: &str, wanted: impl FnMut(&Counts) -> bool) -> Counts {
        let mut counts = self.counts.subscribe();
        match timeout(PATIENCE, counts.wait_for(wanted)).await {
            Ok(counts) => *counts.expect("the sender is held by self"),
            Err(_) => panic!(
                "waited {PATIENCE:?} for {what}, and have {:?}",
                self.counts()
            ),
        }
    }

    /// Lets every call that holds go on.
    pub fn release(&self) {
        self.released.send_replace(true);
    }

    fn begin(&self) -> OnStage {
        self.counts.send_modify(|counts| counts.begun += 1);
        OnStage {
            stage: self.clone(),
            finished: false,
        }
    }

    fn hear(&self) {
        self.counts.send_modify(|counts| counts.heard += 1);
    }
}

/// A call on the server; dropped before it has finished, it counts as cancelled.
struct OnStage {
    stage: Stage,
    finished: bool,
}

impl OnStage {
    fn finish(&mut self) {
        self.finished = true;
    }
}

impl Drop for OnStage {
    fn drop(&mut self) {
        let finished = self.finished;
        self.stage.counts.send_modify(|counts| {
            if finished {
                counts.finished += 1;
            } else {
                counts.cancelled += 1;
            }
        });
    }
}

/// A payload that makes the handler wait for ever.
pub const HANG: &[u8] = b"hang";
/// A payload that makes the handler wait for [`Stage::release`].
pub const HOLD: &[u8] = b"hold";
/// A payload that makes the handler panic.
pub const PANIC: &[u8] = b"panic";
/// A server stream of so many messages does not end.
pub const ENDLESS: u32 = u32::MAX;

/// Does as its requests say.
#[derive(Clone, Debug)]
pub struct Faulty(pub Stage);

type Outgoing = Pin<Box<dyn Stream<Item = Result<EchoResponse, Status>> + Send>>;

#[tonic::async_trait]
impl Echo for Faulty {
    type ServerStreamStream = Outgoing;
    type BidiStreamStream = Outgoing;

    async fn echo(&self, request: Request<EchoRequest>) -> Result<Response<EchoResponse>, Status> {
        let mut call = self.0.begin();
        let EchoRequest { payload } = request.into_inner();
        if payload == HANG {
            pending::<()>().await;
        } else if payload == HOLD {
            let mut released = self.0.released.subscribe();
            let _ = released.wait_for(|released| *released).await;
        } else if payload == PANIC {
            panic!("a handler's own panic, as the test asked for");
        }
        call.finish();
        Ok(Response::new(EchoResponse { payload }))
    }

    /// Each message begins with its number.
    async fn server_stream(
        &self,
        request: Request<StreamRequest>,
    ) -> Result<Response<Outgoing>, Status> {
        let request = request.into_inner();
        let call = self.0.begin();
        let pause = Duration::from_millis(request.interval_ms.into());
        let messages = stream::unfold((call, 0), move |(mut call, number)| async move {
            if request.count != ENDLESS && number == request.count {
                call.finish();
                return None;
            }
            if number > 0 && !pause.is_zero() {
                sleep(pause).await;
            }
            let mut payload = number.to_be_bytes().to_vec();
            payload.resize((request.size as usize).max(4), 0);
            let payload = payload.into();
            Some((Ok(EchoResponse { payload }), (call, number + 1)))
        });
        Ok(Response::new(messages.boxed()))
    }

    async fn client_stream(
        &self,
        request: Request<Streaming<EchoRequest>>,
    ) -> Result<Response<StreamSummary>, Status> {
        let mut call = self.0.begin();
        let mut incoming = request.into_inner();
        let mut summary = StreamSummary::default();
        while let Some(EchoRequest { payload }) = incoming.message().await? {
            self.0.hear();
            summary.count += 1;
            summary.bytes += payload.len() as u64;
        }
        call.finish();
        Ok(Response::new(summary))
    }

    async fn bidi_stream(
        &self,
        request: Request<Streaming<EchoRequest>>,
    ) -> Result<Response<Outgoing>, Status> {
        let call = self.0.begin();
        let stage = self.0.clone();
        let incoming = request.into_inner();
        let messages = stream::unfold((call, incoming), move |(mut call, mut incoming)| {
            let stage = stage.clone();
            async move {
                match incoming.message().await {
                    Ok(Some(EchoRequest { payload })) => {
                        stage.hear();
                        Some((Ok(EchoResponse { payload }), (call, incoming)))
                    }
                    Ok(None) => {
                        call.finish();
                        None
                    }
                    Err(status) => Some((Err(status), (call, incoming))),
                }
            }
        });
        Ok(Response::new(messages.boxed()))
    }
}

pub async fn offline() -> Endpoint {
    Endpoint::bind(Offline).await.expect("127.0.0.1 is there")
}

pub async fn offline_with(key: SecretKey) -> Endpoint {
    let builder = Endpoint::builder(Offline).secret_key(key);
    builder.bind().await.expect("127.0.0.1 is there")
}

/// A running server.
pub struct Server {
    pub endpoint: Endpoint,
    pub peer: Peer,
    pub router: Router,
    pub acceptor: Acceptor,
    pub stage: Stage,
    stop: Option<oneshot::Sender<()>>,
    served: Option<JoinHandle<Result<(), tonic::transport::Error>>>,
}

impl Server {
    pub async fn start() -> Self {
        Self::on(offline().await, Acceptor::builder())
    }

    pub async fn with_key(key: &SecretKey) -> Self {
        Self::on(offline_with(key.clone()).await, Acceptor::builder())
    }

    pub fn on(endpoint: Endpoint, acceptor: AcceptorBuilder) -> Self {
        Self::routed(endpoint, acceptor, |router, _| router)
    }

    pub fn routed(
        endpoint: Endpoint,
        acceptor: AcceptorBuilder,
        route: impl FnOnce(iroh::protocol::RouterBuilder, &Acceptor) -> iroh::protocol::RouterBuilder,
    ) -> Self {
        let (acceptor, incoming) = acceptor.build().expect("valid settings");
        let peer = Peer::of(&endpoint).expect("dialable");
        let router = route(acceptor.router(endpoint.clone()), &acceptor).spawn();
        let stage = Stage::default();
        let (stop, stopped) = oneshot::channel();
        let service = EchoServer::new(Faulty(stage.clone()));
        let served = tonic::transport::Server::builder()
            .add_service(service)
            .serve_with_incoming_shutdown(incoming, stopped.map(|_| ()));
        Self {
            endpoint,
            peer,
            router,
            acceptor,
            stage,
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
}

/// How a server is ended abruptly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// Its endpoint is closed, which the peers are told.
    Closed,
    /// Its process is gone from one moment to the next: nothing is sent any more.
    Vanished,
}

/// A server on a runtime of its own, which stands for a process of its own.
pub struct Elsewhere {
    runtime: Option<Runtime>,
    pub endpoint: Endpoint,
    pub peer: Peer,
    pub stage: Stage,
}

impl Elsewhere {
    pub async fn start(key: &SecretKey) -> Self {
        let runtime = another_runtime();
        let key = key.clone();
        let (tell, told) = oneshot::channel();
        runtime.spawn(async move {
            let server = Server::with_key(&key).await;
            let known = (
                server.endpoint.clone(),
                server.peer.clone(),
                server.stage.clone(),
            );
            assert!(tell.send(known).is_ok(), "the test waits");
            pending::<()>().await;
            drop(server);
        });
        let (endpoint, peer, stage) = soon("the server's start", told).await.expect("started");
        Self {
            runtime: Some(runtime),
            endpoint,
            peer,
            stage,
        }
    }

    pub async fn end(&mut self, how: End) {
        match how {
            End::Closed => self.endpoint.close().await,
            End::Vanished => {
                if let Some(runtime) = self.runtime.take() {
                    runtime.shutdown_background();
                }
            }
        }
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        // A runtime that is dropped in an asynchronous context panics; this way it does not.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

pub fn another_runtime() -> Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .expect("a runtime")
}

/// Which kind of channel calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arm {
    /// Our `Channel`.
    Channel,
    /// tonic's, over `Connector` and under `ExactCodesLayer`.
    Tonic,
}

pub type Service = BoxCloneSyncService<HttpRequest<Body>, HttpResponse<Body>, Error>;
pub type Client = EchoClient<Service>;

/// A client, with what is beneath it.
#[derive(Clone)]
pub struct Caller {
    pub endpoint: Endpoint,
    pub links: Links,
    pub peer: Peer,
    pub service: Service,
}

impl Caller {
    pub async fn new(arm: Arm, peer: &Peer) -> Self {
        Self::with(arm, peer, None, |links| links).await
    }

    pub async fn with(
        arm: Arm,
        peer: &Peer,
        timeout: Option<Duration>,
        settings: impl FnOnce(LinksBuilder) -> LinksBuilder,
    ) -> Self {
        let endpoint = offline().await;
        let links = settings(Links::builder(endpoint.clone()));
        Self::over(arm, peer, timeout, links.build().expect("valid"))
    }

    pub fn over(arm: Arm, peer: &Peer, timeout: Option<Duration>, links: Links) -> Self {
        let service = match arm {
            Arm::Channel => {
                // Each failure is to be seen, also one that would be tried again.
                let mut builder = Channel::with_links(links.clone())
                    .peer(peer.clone())
                    .stack(tower_iroh::StackBuilder::without_retry);
                if let Some(timeout) = timeout {
                    builder = builder.timeout(timeout);
                }
                Service::new(builder.build().expect("valid"))
            }
            Arm::Tonic => {
                let connector = Connector::with_links(links.clone());
                connector.add_peer(peer.clone());
                let mut endpoint = tonic::transport::Endpoint::from(peer.uri());
                if let Some(timeout) = timeout {
                    endpoint = endpoint.timeout(timeout);
                }
                let channel = endpoint.connect_with_connector_lazy(connector);
                Service::new(ExactCodesLayer.layer(channel))
            }
        };
        Self {
            endpoint: links.endpoint().clone(),
            links,
            peer: peer.clone(),
            service,
        }
    }

    pub fn client(&self) -> Client {
        EchoClient::new(self.service.clone())
    }

    /// One unary call, checked.
    pub async fn echo(&self, payload: &[u8]) -> Result<(), Status> {
        let answer = self.client().echo(request(payload)).await?.into_inner();
        assert_eq!(answer.payload, payload, "the answer to another call");
        Ok(())
    }

    /// One unary call, with our own error where it fails before there is a response.
    pub async fn kind(&self) -> Result<(), (ErrorKind, Code)> {
        // An empty message: no compression, no bytes.
        let body = http_body_util::Full::new(bytes::Bytes::from_static(&[0; 5]));
        let request = HttpRequest::post("/tower_iroh.echo.v1.Echo/Echo")
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(Body::new(body))
            .expect("a request");
        let mut service = self.service.clone();
        let ready = std::future::poll_fn(|cx| service.poll_ready(cx)).await;
        let result = match ready {
            Ok(()) => service.call(request).await,
            Err(error) => Err(error),
        };
        result
            .map(|_| ())
            .map_err(|error| (error.kind(), error.status().code()))
    }

    /// Waits until the peer answers again; whatever it says before that has to be UNAVAILABLE.
    pub async fn recovers(&self) {
        self.recovers_from(&[Code::Unavailable]).await;
    }

    /// Waits until the peer answers; whatever it says before that has to be one of these.
    pub async fn recovers_from(&self, codes: &[Code]) {
        let calls = async {
            loop {
                match self.echo(b"again").await {
                    Ok(()) => return,
                    Err(status) => assert!(codes.contains(&status.code()), "{status:?}"),
                }
                sleep(Duration::from_millis(20)).await;
            }
        };
        soon("the peer's recovery", calls).await;
    }
}

pub fn request(payload: &[u8]) -> EchoRequest {
    EchoRequest {
        payload: bytes::Bytes::copy_from_slice(payload),
    }
}

/// The number that a message of [`Faulty`]'s server stream begins with.
pub fn number(message: &EchoResponse) -> u32 {
    let first = message.payload.first_chunk().expect("four bytes");
    u32::from_be_bytes(*first)
}

/// A raw connection to a server, for what no client of ours would do.
pub async fn raw(endpoint: &Endpoint, peer: &Peer) -> iroh::endpoint::Connection {
    let dial = endpoint.connect(peer.addr().clone(), tower_iroh::ALPN);
    soon("a raw connection", dial).await.expect("connected")
}

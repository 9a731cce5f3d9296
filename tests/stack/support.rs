//! A server that counts what it gets and comes and goes, and clients with the whole stack in front of it.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use iroh::{Endpoint, SecretKey, protocol::Router};
use tokio::{runtime::Runtime, sync::watch, task::JoinHandle, time::sleep};
use tonic::{
    Code, Request, Response, Status, Streaming,
    body::Body,
    transport::{Server as Tonic, server::TcpIncoming},
};
use tower::{Layer as _, ServiceBuilder, util::BoxCloneSyncService};
use tower_iroh::{
    Acceptor, Channel, ExactCodesLayer, Peer, Stack, StackBuilder, StackHandle, presets::Offline,
};
use tower_iroh_proto::{
    EchoService,
    echo::{
        EchoRequest, EchoResponse, StreamRequest, StreamSummary,
        echo_client::EchoClient,
        echo_server::{Echo, EchoServer},
    },
};

pub const ECHO: &str = "/tower_iroh.echo.v1.Echo/Echo";

const PATIENCE: Duration = Duration::from_secs(20);

#[path = "../support/waiting.rs"]
mod waiting;

pub use waiting::{soon, until};

/// Makes two tests of each function: over iroh, and over TCP.
macro_rules! on_both_transports {
    ($($name:ident)*) => {
        mod iroh {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    super::$name(crate::support::Arm::Iroh).await;
                }
            )*
        }
        mod tcp {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $name() {
                    super::$name(crate::support::Arm::Tcp).await;
                }
            )*
        }
    };
}
pub(crate) use on_both_transports;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arm {
    Iroh,
    Tcp,
}

/// What the service does with a unary call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mood {
    Answer,
    /// Answers with this code, in a head that is trailers too.
    Refuse(Code),
    /// Never answers.
    Hang,
}

/// The service's side of a test: an echo that remembers each payload and header that came.
#[derive(Clone, Debug)]
pub struct Desk {
    mood: Arc<watch::Sender<Mood>>,
    receipts: Arc<Mutex<Vec<Receipt>>>,
}

#[derive(Clone, Debug)]
pub struct Receipt {
    pub payload: Bytes,
    pub metadata: tonic::metadata::MetadataMap,
}

impl Desk {
    pub fn new() -> Self {
        Self {
            mood: Arc::new(watch::Sender::new(Mood::Answer)),
            receipts: Arc::default(),
        }
    }

    pub fn set(&self, mood: Mood) {
        self.mood.send_replace(mood);
    }

    pub fn receipts(&self) -> Vec<Receipt> {
        self.receipts.lock().expect("no panic").clone()
    }

    /// How often each payload came.
    pub fn counts(&self) -> HashMap<Bytes, usize> {
        let mut counts = HashMap::new();
        for receipt in self.receipts() {
            *counts.entry(receipt.payload).or_default() += 1;
        }
        counts
    }
}

#[tonic::async_trait]
impl Echo for Desk {
    type ServerStreamStream = <EchoService as Echo>::ServerStreamStream;
    type BidiStreamStream = <EchoService as Echo>::BidiStreamStream;

    async fn echo(&self, request: Request<EchoRequest>) -> Result<Response<EchoResponse>, Status> {
        let metadata = request.metadata().clone();
        let payload = request.into_inner().payload;
        self.receipts.lock().expect("no panic").push(Receipt {
            payload: payload.clone(),
            metadata,
        });
        let mood = *self.mood.borrow();
        match mood {
            Mood::Answer => Ok(Response::new(EchoResponse { payload })),
            Mood::Refuse(code) => Err(Status::new(code, "as the test wants it")),
            Mood::Hang => std::future::pending().await,
        }
    }

    async fn server_stream(
        &self,
        request: Request<StreamRequest>,
    ) -> Result<Response<Self::ServerStreamStream>, Status> {
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

/// A server that can go and come back under the same name.
pub struct Server {
    pub desk: Desk,
    place: Place,
    running: Option<Running>,
}

enum Place {
    Iroh(Box<SecretKey>, Option<Peer>),
    Tcp(SocketAddr),
}

/// What ends with a moment's notice.
enum Running {
    Iroh {
        router: Router,
        served: JoinHandle<Result<(), tonic::transport::Error>>,
    },
    /// tonic gives each connection a task of its own, and only the runtime's end is the end of them all.
    Tcp(Runtime),
}

impl Drop for Server {
    fn drop(&mut self) {
        // A runtime that is dropped in an asynchronous context panics; this way it does not.
        if let Some(Running::Tcp(runtime)) = self.running.take() {
            runtime.shutdown_background();
        }
    }
}

impl Server {
    pub async fn start(arm: Arm) -> Self {
        let place = match arm {
            Arm::Iroh => Place::Iroh(Box::new(SecretKey::generate()), None),
            Arm::Tcp => Place::Tcp(SocketAddr::from(([127, 0, 0, 1], 0))),
        };
        let mut server = Self {
            desk: Desk::new(),
            place,
            running: None,
        };
        server.come_back().await;
        server
    }

    /// Starts again, under the same key and at the same address.
    pub async fn come_back(&mut self) {
        assert!(self.running.is_none());
        let service = EchoServer::new(self.desk.clone());
        let tonic = Tonic::builder().add_service(service);
        self.running = Some(match &mut self.place {
            Place::Iroh(key, peer) => {
                let endpoint = bind(key, peer.as_ref()).await;
                *peer = Some(Peer::of(&endpoint).expect("dialable"));
                let (acceptor, incoming) = Acceptor::new();
                let router = acceptor.router(endpoint).spawn();
                let served = tonic.serve_with_incoming(incoming);
                Running::Iroh {
                    router,
                    served: tokio::spawn(served),
                }
            }
            Place::Tcp(addr) => {
                let runtime = tokio::runtime::Builder::new_multi_thread()
                    .worker_threads(1)
                    .enable_all()
                    .build()
                    .expect("a runtime");
                let incoming = soon("the port", async {
                    loop {
                        let _context = runtime.enter();
                        if let Ok(incoming) = TcpIncoming::bind(*addr) {
                            return incoming;
                        }
                        std::thread::yield_now();
                    }
                })
                .await;
                *addr = incoming.local_addr().expect("bound");
                runtime.spawn(tonic.serve_with_incoming(incoming));
                Running::Tcp(runtime)
            }
        });
    }

    /// Goes from one moment to the next: what is in flight is lost.
    pub async fn go(&mut self) {
        match self.running.take().expect("it runs") {
            Running::Iroh { router, served } => {
                router.endpoint().close().await;
                served.abort();
            }
            Running::Tcp(runtime) => runtime.shutdown_background(),
        }
    }

    /// Where it is, over iroh.
    pub fn peer(&self) -> Peer {
        match &self.place {
            Place::Iroh(_, peer) => peer.clone().expect("started"),
            Place::Tcp(_) => panic!("over TCP there is no peer"),
        }
    }

    /// A client, of which the test needs not know by which way it calls.
    pub async fn client(&self, settings: impl FnOnce(StackBuilder) -> StackBuilder) -> Caller {
        match &self.place {
            Place::Iroh(_, peer) => {
                let endpoint = Endpoint::bind(Offline).await.expect("a free port");
                let channel = Channel::builder(endpoint.clone())
                    .peer(peer.clone().expect("started"))
                    .links(|links| links.dial_timeout(Duration::from_millis(300)))
                    .stack(settings)
                    .build()
                    .expect("valid");
                Caller {
                    stack: channel.stack().clone(),
                    service: Service::new(tower::ServiceExt::<http::Request<Body>>::map_err(
                        channel,
                        |error| Status::from_error(Box::new(error)),
                    )),
                }
            }
            Place::Tcp(addr) => {
                let endpoint = tonic::transport::Endpoint::from_shared(format!("http://{addr}"));
                let channel = endpoint.expect("a URI").connect_lazy();
                let stack = settings(Stack::builder()).build().expect("valid");
                let stacked = stack.layer(ExactCodesLayer.layer(channel));
                Caller {
                    stack: stacked.handle().clone(),
                    service: Service::new(
                        ServiceBuilder::new()
                            .map_response(|response: http::Response<_>| response.map(Body::new))
                            .map_err(Status::from_error)
                            .service(stacked),
                    ),
                }
            }
        }
    }
}

/// At the peer's old port where there was one: the last owner of the socket may still be letting go of it.
async fn bind(key: &SecretKey, before: Option<&Peer>) -> Endpoint {
    let Some(before) = before else {
        let builder = Endpoint::builder(Offline).secret_key(key.clone());
        return builder.bind().await.expect("a free port");
    };
    let addr = *before.addr().ip_addrs().next().expect("an address");
    soon("the port", async {
        loop {
            let builder = Endpoint::builder(Offline).secret_key(key.clone());
            let builder = builder
                .clear_ip_transports()
                .bind_addr(addr)
                .expect("an address");
            if let Ok(endpoint) = builder.bind().await {
                return endpoint;
            }
            sleep(Duration::from_millis(10)).await;
        }
    })
    .await
}

/// A boxed error here would keep its futures from being spawned: rustc then wants a conversion for every lifetime of the box.
pub type Service = BoxCloneSyncService<http::Request<Body>, http::Response<Body>, Status>;

/// A client with the whole stack, and the stack's handles.
#[derive(Clone)]
pub struct Caller {
    pub service: Service,
    pub stack: StackHandle,
}

impl Caller {
    pub fn client(&self) -> EchoClient<Service> {
        EchoClient::new(self.service.clone())
    }

    /// One unary call, checked.
    pub async fn echo(&self, payload: &'static str) -> Result<(), Status> {
        self.send(request(payload)).await
    }

    pub async fn send(&self, request: Request<EchoRequest>) -> Result<(), Status> {
        let sent = request.get_ref().payload.clone();
        let answer = soon("an answer", self.client().echo(request)).await?;
        assert_eq!(
            answer.into_inner().payload,
            sent,
            "the answer to another call"
        );
        Ok(())
    }
}

pub fn request(payload: impl Into<Bytes>) -> Request<EchoRequest> {
    Request::new(EchoRequest {
        payload: payload.into(),
    })
}

//! A tonic server behind an iroh endpoint.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use iroh::{Endpoint, SecretKey, protocol::Router};
use tokio::{
    sync::oneshot,
    task::JoinHandle,
    time::{Duration, sleep},
};
use tonic::{Request, Response, Status, Streaming, metadata::MetadataValue};
use tower_iroh::{Acceptor, Peer, PeerInfo, presets::Offline};
use tower_iroh_proto::{
    EchoService,
    echo::{
        EchoRequest, EchoResponse, StreamRequest, StreamSummary,
        echo_server::{Echo, EchoServer},
    },
};

use crate::{Error, calls::WHO_AM_I, outage::NOTE};

/// What callers asked to be written down, in the order in which it came.
type NoteBook = Arc<Mutex<Vec<String>>>;

/// A running server.
pub(crate) struct Server {
    peer: Peer,
    addr: SocketAddr,
    notes: NoteBook,
    router: Router,
    stop: oneshot::Sender<()>,
    served: JoinHandle<Result<(), tonic::transport::Error>>,
}

impl Server {
    /// Starts one; `addr` is where it would like to be, and it takes another port when that is taken.
    pub(crate) async fn start(key: SecretKey, addr: Option<SocketAddr>) -> Result<Self, Error> {
        let endpoint = bind(key, addr).await?;
        let peer = Peer::of(&endpoint)?;
        let bound = endpoint.bound_sockets().into_iter().next();
        let addr = bound.ok_or("the endpoint has no socket")?;

        let (acceptor, incoming) = Acceptor::new();
        let router = acceptor.router(endpoint).spawn();
        let notes = NoteBook::default();
        let (stop, stopped) = oneshot::channel();
        let served = tonic::transport::Server::builder()
            .add_service(EchoServer::new(Attentive(EchoService, notes.clone())))
            .serve_with_incoming_shutdown(incoming, async {
                // Either way it is time to stop: told so, or nobody is left who could tell.
                let _ = stopped.await;
            });
        Ok(Self {
            peer,
            addr,
            notes,
            router,
            stop,
            served: tokio::spawn(served),
        })
    }

    pub(crate) fn peer(&self) -> &Peer {
        &self.peer
    }

    pub(crate) fn notes(&self) -> Vec<String> {
        self.notes
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Stops gracefully: no new calls, those in flight to their end, then the connections, then the endpoint.
    pub(crate) async fn stop(self) -> Result<(), Error> {
        // The receiver is gone only if the server ended by itself, and then its result says why.
        let _ = self.stop.send(());
        self.served.await??;
        self.router.shutdown().await?;
        Ok(())
    }
}

/// Binds to `addr`, or to any free port when there is none or it stays taken.
async fn bind(key: SecretKey, addr: Option<SocketAddr>) -> Result<Endpoint, Error> {
    let builder = || Endpoint::builder(Offline).secret_key(key.clone());
    if let Some(addr) = addr {
        // The last owner of the socket may still be letting go of it.
        for _ in 0..20 {
            let endpoint = builder()
                .clear_ip_transports()
                .bind_addr(addr)?
                .bind()
                .await;
            if let Ok(endpoint) = endpoint {
                return Ok(endpoint);
            }
            sleep(Duration::from_millis(10)).await;
        }
    }
    Ok(builder().bind().await?)
}

/// [`EchoService`], whose unary call tells callers that ask for it who they are, and writes notes down.
struct Attentive(EchoService, NoteBook);

#[tonic::async_trait]
impl Echo for Attentive {
    type ServerStreamStream = <EchoService as Echo>::ServerStreamStream;
    type BidiStreamStream = <EchoService as Echo>::BidiStreamStream;

    async fn echo(&self, request: Request<EchoRequest>) -> Result<Response<EchoResponse>, Status> {
        if request.metadata().contains_key(NOTE) {
            let note = String::from_utf8_lossy(&request.get_ref().payload).into_owned();
            self.1
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .push(note);
        }
        if !request.metadata().contains_key(WHO_AM_I) {
            return self.0.echo(request).await;
        }
        // The identity was proved in the handshake, before the handler saw anything.
        let caller = request.extensions().get::<PeerInfo>().cloned();
        let caller = caller.ok_or_else(|| Status::unauthenticated("not over iroh"))?;
        let id = caller
            .id()
            .ok_or_else(|| Status::unauthenticated("nothing proved yet"))?;
        let mut response = self.0.echo(request).await?;
        let path = caller.path().map(|path| path.to_string());
        let rtt = caller.rtt().map(crate::screen::shown);
        for (name, value) in [
            (WHO_AM_I, id.to_string()),
            ("path", path.unwrap_or_default()),
            ("rtt", rtt.unwrap_or_default()),
        ] {
            let value = MetadataValue::try_from(value);
            let value = value.map_err(|error| Status::internal(error.to_string()))?;
            response.metadata_mut().insert(name, value);
        }
        Ok(response)
    }

    async fn server_stream(
        &self,
        request: Request<StreamRequest>,
    ) -> Result<Response<Self::ServerStreamStream>, Status> {
        self.0.server_stream(request).await
    }

    async fn client_stream(
        &self,
        request: Request<Streaming<EchoRequest>>,
    ) -> Result<Response<StreamSummary>, Status> {
        self.0.client_stream(request).await
    }

    async fn bidi_stream(
        &self,
        request: Request<Streaming<EchoRequest>>,
    ) -> Result<Response<Self::BidiStreamStream>, Status> {
        self.0.bidi_stream(request).await
    }
}

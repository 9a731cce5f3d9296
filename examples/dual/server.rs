//! The echo service on both transports, and what reached it.

use std::{
    collections::HashSet,
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
};

use iroh::Endpoint;
use tokio::task::JoinHandle;
use tonic::{Request, Response, Status, Streaming};
use tower_iroh::{Peer, Server, ServerError, ServerHandle};
use tower_iroh_proto::{
    EchoService,
    echo::{
        EchoRequest, EchoResponse, StreamRequest, StreamSummary,
        echo_server::{Echo, EchoServer},
    },
};

use crate::Error;

/// A running server.
pub(crate) struct Serving {
    pub(crate) peer: Peer,
    pub(crate) udp: SocketAddr,
    pub(crate) tcp: SocketAddr,
    book: Book,
    handle: ServerHandle,
    served: JoinHandle<Result<(), ServerError>>,
}

/// What reached the service.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Done {
    pub(crate) calls: u64,
    /// A call that came more than once.
    pub(crate) twice: Option<u64>,
}

#[derive(Clone, Default)]
struct Book(Arc<Mutex<(Done, HashSet<u64>)>>);

impl Serving {
    pub(crate) async fn start(endpoint: Endpoint) -> Result<Self, Error> {
        let udp = endpoint.bound_sockets().into_iter().next();
        let server = Server::builder()
            .endpoint(endpoint)
            .tcp(([127, 0, 0, 1], 0).into())
            .bind()
            .await?;
        let (peer, handle) = (server.addresses()?, server.handle());
        let tcp = server.tcp_addr().ok_or("no TCP port")?;
        let book = Book::default();
        let services = tonic::transport::Server::builder()
            .add_service(EchoServer::new(Counted(EchoService, book.clone())));
        let served =
            tokio::spawn(server.serve(|incoming, stopped| {
                services.serve_with_incoming_shutdown(incoming, stopped)
            }));
        Ok(Self {
            peer,
            udp: udp.ok_or("no UDP port")?,
            tcp,
            book,
            handle,
            served,
        })
    }

    pub(crate) fn done(&self) -> Done {
        self.book.0.lock().unwrap_or_else(PoisonError::into_inner).0
    }

    pub(crate) async fn stop(self) -> Result<(), Error> {
        self.handle.shutdown();
        Ok(self.served.await??)
    }
}

/// The service, which writes each unary call's number down.
struct Counted(EchoService, Book);

#[tonic::async_trait]
impl Echo for Counted {
    type ServerStreamStream = <EchoService as Echo>::ServerStreamStream;
    type BidiStreamStream = <EchoService as Echo>::BidiStreamStream;

    async fn echo(&self, request: Request<EchoRequest>) -> Result<Response<EchoResponse>, Status> {
        let number = request.get_ref().payload.first_chunk().copied();
        let number = u64::from_be_bytes(
            number.ok_or_else(|| Status::invalid_argument("a number is expected"))?,
        );
        {
            let mut book = self.1.0.lock().unwrap_or_else(PoisonError::into_inner);
            book.0.calls += 1;
            if !book.1.insert(number) {
                book.0.twice.get_or_insert(number);
            }
        }
        self.0.echo(request).await
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

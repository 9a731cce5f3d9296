use std::{
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use iroh::SecretKey;
use tower::Service;

use super::{TcpIo, TcpLinks, health::ConnectionHealth, link::TcpLink};
use crate::{
    error::{Error, ErrorKind},
    peer::Peer,
    pool::Use,
};

/// Connects [`tonic::transport::Endpoint`] to a peer over TCP, encrypted, both sides proving their iroh identities: `iroh://<endpoint id>` or
/// `http://<endpoint id>`.
///
/// ```no_run
/// # async fn example(key: iroh::SecretKey, ticket: &str) -> Result<(), Box<dyn std::error::Error>> {
/// use tower_iroh::{Peer, TcpAddr, tcp::TcpConnector};
///
/// let peer = ticket.parse::<Peer>()?.with_tcp("db.example:7001".parse::<TcpAddr>()?);
/// let connector = TcpConnector::new(key);
/// connector.add_peer(peer.clone());
/// let channel: tonic::transport::Channel = tonic::transport::Endpoint::from(peer.uri())
///     .connect_with_connector(connector)
///     .await?;
/// # drop(channel);
/// # Ok(())
/// # }
/// ```
///
/// Each tonic channel has a TCP connection of its own: what refuses or ends one leaves the others alone. Dials are paced as [`TcpLinks`] says; the rest is as with [`Connector`](crate::Connector): **errors**
/// are an [`Error`] with a [`tonic::Status`] in the source chain, of which [`ExactCodesLayer`](crate::ExactCodesLayer) tells the caller more than tonic does.
///
/// **Readiness.** Always ready. What waits, waits in the future; dropped, it leaves nothing behind.
#[derive(Clone, Debug)]
pub struct TcpConnector {
    links: TcpLinks,
}

impl TcpConnector {
    /// A connector with links of its own, with default settings, that prove `key`.
    pub fn new(key: SecretKey) -> Self {
        Self::with_links(TcpLinks::new(key))
    }

    /// A connector on links that others use too, or that have other settings.
    pub fn with_links(links: TcpLinks) -> Self {
        Self { links }
    }

    /// Says where a peer [answers over TCP](Peer::with_tcp).
    pub fn add_peer(&self, peer: impl Into<Peer>) {
        self.links.add_peer(peer);
    }

    /// The links beneath: statistics, state.
    pub fn links(&self) -> &TcpLinks {
        &self.links
    }
}

impl Service<Uri> for TcpConnector {
    type Response = TcpConnectorIo;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<TcpConnectorIo, Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let links = self.links.clone();
        Box::pin(async move {
            let peer = Peer::from_uri(&uri).map_err(|error| {
                Error::new(ErrorKind::InvalidPeer, error.to_string()).caused_by(error)
            })?;
            let link = links.get(peer.id()).await?;
            let (io, health) = link.connect().await?;
            Ok(TcpConnectorIo {
                io: TokioIo::new(io),
                health,
                link,
            })
        })
    }
}

/// A connection for hyper. It counts as a use of its peer's until it is dropped.
#[derive(Debug)]
pub struct TcpConnectorIo {
    io: TokioIo<TcpIo>,
    health: Arc<ConnectionHealth>,
    link: Use<TcpLink>,
}

impl TcpConnectorIo {
    /// What a failure means for the calls goes into the error, for [`ExactCodesLayer`](crate::ExactCodesLayer).
    fn checked<T>(&self, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        result.map_err(|error| self.link.why_lost(&self.health).to_io(error.kind()))
    }
}

impl Read for TcpConnectorIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.io).poll_read(cx, buf);
        if result.is_ready() && self.health.refused() {
            // hyper would say no more of a GOAWAY than that the connection is closed.
            let refused = self.link.why_lost(&self.health);
            let refused = refused.to_io(io::ErrorKind::ConnectionRefused);
            return Poll::Ready(Err(refused));
        }
        self.checked(result)
    }
}

impl Write for TcpConnectorIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write(cx, buf);
        self.checked(result)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let result = Pin::new(&mut self.io).poll_write_vectored(cx, slices);
        self.checked(result)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.io).poll_flush(cx);
        self.checked(result)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.io).poll_shutdown(cx);
        self.checked(result)
    }
}

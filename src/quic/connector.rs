//! The way in for a real tonic `Channel`.

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
use iroh::{Endpoint, EndpointId};
use tower::Service;
use tower_iroh_layers::Urgency;

use super::{Links, QuicIo, io::Activity, link::Link};
use crate::{
    error::{Error, ErrorKind},
    peer::Peer,
    pool::Use,
    wire::{Kind, Preamble, reset},
};

/// Connects [`tonic::transport::Endpoint`] to an iroh peer: `iroh://<endpoint id>` or `http://<endpoint id>`.
///
/// ```no_run
/// # async fn example(endpoint: iroh::Endpoint, ticket: &str) -> Result<(), Box<dyn std::error::Error>> {
/// use tower_iroh::{Connector, Peer};
///
/// let peer: Peer = ticket.parse()?;
/// let connector = Connector::new(endpoint);
/// connector.add_peer(peer.clone());
/// let channel: tonic::transport::Channel = tonic::transport::Endpoint::from(peer.uri())
///     .connect_with_connector(connector)
///     .await?;
/// # drop(channel);
/// # Ok(())
/// # }
/// ```
///
/// All channels of one connector to one peer share one QUIC connection; each is a lane of its own on it, of the connector's
/// urgency. It keeps the connection as long as it lives: a connector sees bytes, not calls. For the same reason it waits for the handshake, also on links that
/// [send early data](crate::LinksBuilder::early_data): that is for [`Channel`](crate::Channel).
///
/// **Errors.** Each is an [`Error`] with a [`tonic::Status`] in its source chain. tonic shows a caller UNAVAILABLE for every
/// failed dial, Unknown for a lost connection, and Cancelled for an expired timeout; put
/// [`ExactCodesLayer`](crate::ExactCodesLayer) on the channel to have the exact ones.
///
/// **Readiness.** Always ready. What waits, waits in the future; dropped, it leaves nothing behind.
#[derive(Clone, Debug)]
pub struct Connector {
    links: Links,
    urgency: Urgency,
}

impl Connector {
    /// A connector with links of its own, with default settings.
    pub fn new(endpoint: Endpoint) -> Self {
        Self::with_links(Links::new(endpoint))
    }

    /// A connector on links that others use too.
    pub fn with_links(links: Links) -> Self {
        Self {
            links,
            urgency: Urgency::default(),
        }
    }

    /// The urgency of the lanes that this connector opens. Default [`Urgency::INTERACTIVE`].
    pub fn urgency(mut self, urgency: Urgency) -> Self {
        self.urgency = urgency;
        self
    }

    /// Says where a peer is. Without it the endpoint's address lookup has to know.
    pub fn add_peer(&self, peer: impl Into<Peer>) {
        self.links.add_peer(peer);
    }

    /// The links beneath: statistics, state.
    pub fn links(&self) -> &Links {
        &self.links
    }
}

impl Service<Uri> for Connector {
    type Response = ConnectorIo;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<ConnectorIo, Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let links = self.links.clone();
        let urgency = self.urgency;
        Box::pin(async move {
            let peer = Peer::from_uri(&uri).map_err(|error| {
                Error::new(ErrorKind::InvalidPeer, error.to_string()).caused_by(error)
            })?;
            let id = peer.id();
            let link = links.get(id).await?;
            let preamble = Preamble {
                kind: Kind::Http2,
                urgency,
            };
            let stream = link.open_stream(preamble).await?.corked();
            Ok(ConnectorIo {
                activity: stream.activity(),
                io: TokioIo::new(stream),
                link,
                links,
                id,
            })
        })
    }
}

/// A lane for hyper. It counts as a use of its connection until it is dropped.
#[derive(Debug)]
pub struct ConnectorIo {
    io: TokioIo<QuicIo>,
    activity: Arc<Activity>,
    link: Use<Link>,
    links: Links,
    id: EndpointId,
}

impl ConnectorIo {
    /// A server that refuses this lane because it shuts down refuses the next one too: the next dial is to be a new connection.
    ///
    /// What the failure means for the calls goes into the error, for [`ExactCodesLayer`](crate::ExactCodesLayer).
    fn checked<T>(&self, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        let Poll::Ready(Err(error)) = result else {
            return result;
        };
        if self.activity.code() == Some(reset::DRAINING) {
            self.links.pool().retire(self.id, self.link.connection());
        }
        let meaning = self.link.meaning(self.activity.code());
        Poll::Ready(Err(meaning.to_io(error.kind())))
    }
}

impl Read for ConnectorIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.io).poll_read(cx, buf);
        self.checked(result)
    }
}

impl Write for ConnectorIo {
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
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

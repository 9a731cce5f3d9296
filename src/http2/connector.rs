//! The way in for a client that speaks HTTP/2 itself: a real tonic `Channel`.

use std::{
    fmt,
    future::Future,
    io,
    pin::Pin,
    task::{Context, Poll},
};

use http::Uri;
use hyper::rt::{Read, ReadBufCursor, Write};
use hyper_util::rt::TokioIo;
use iroh::EndpointId;
use tokio::io::{AsyncRead, AsyncWrite};
use tower::Service;
use tower_iroh_layers::Urgency;

use crate::{
    error::{Error, ErrorKind},
    peer::Peer,
    pool::{Dialer, Links, Pooled, Use},
};

/// A connection that opens byte streams for a client that speaks HTTP/2 itself. Use it as a bound: there is nothing to call or to implement.
pub trait Streams: Pooled {
    /// One of them.
    #[doc(hidden)]
    type Stream: AsyncRead + AsyncWrite + fmt::Debug + Unpin + Send + 'static;
    /// What knows why a stream ended.
    #[doc(hidden)]
    type Ending: fmt::Debug + Send + Unpin + 'static;

    /// Opens a stream.
    #[doc(hidden)]
    fn stream(
        &self,
        urgency: Urgency,
    ) -> impl Future<Output = Result<(Self::Stream, Self::Ending), Error>> + Send;

    /// What the end of a stream means for its calls.
    #[doc(hidden)]
    fn why_ended(&self, ending: &Self::Ending) -> Error;

    /// Whether the peer has said, in bytes that hyper would not pass on, that it does not take the stream.
    #[doc(hidden)]
    fn is_refused(_: &Self::Ending) -> bool {
        false
    }
}

/// Connects [`tonic::transport::Endpoint`] to a peer: `iroh://<endpoint id>` or `http://<endpoint id>`. Over iroh it is
/// [`Connector`](crate::Connector), over TCP [`TcpConnector`](crate::tcp::TcpConnector).
///
/// **Errors.** Each is an [`Error`] with a [`tonic::Status`] in its source chain. tonic shows a caller UNAVAILABLE for every
/// failed dial, Unknown for a lost connection, and Cancelled for an expired timeout; put
/// [`ExactCodesLayer`](crate::ExactCodesLayer) on the channel to have the exact codes.
///
/// **Readiness.** Always ready. What waits, waits in the future. **Cancel safety.** A dropped future leaves nothing behind but the dial, which goes on.
pub struct Connector<D: Dialer> {
    links: Links<D>,
    urgency: Urgency,
}

impl<D: Dialer> Connector<D> {
    /// A connector on links that others use too, or that have other settings.
    pub fn with_links(links: Links<D>) -> Self {
        Self {
            links,
            urgency: Urgency::default(),
        }
    }

    /// Sets where a peer is: see [`Links::add_peer`].
    pub fn add_peer(&self, peer: impl Into<Peer>) {
        self.links.add_peer(peer);
    }

    /// The links beneath: statistics, state.
    pub fn links(&self) -> &Links<D> {
        &self.links
    }

    pub(crate) fn with_urgency(self, urgency: Urgency) -> Self {
        Self { urgency, ..self }
    }
}

impl<D: Dialer<Connection: Streams>> Service<Uri> for Connector<D> {
    type Response = ConnectorIo<D>;
    type Error = Error;
    type Future = Pin<Box<dyn Future<Output = Result<ConnectorIo<D>, Error>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let Self { links, urgency } = self.clone();
        Box::pin(async move {
            let peer = Peer::from_uri(&uri).map_err(|error| {
                Error::new(ErrorKind::InvalidPeer, error.to_string()).caused_by(error)
            })?;
            let id = peer.id();
            let link = links.get(id).await?;
            let (stream, ending) = link.stream(urgency).await?;
            Ok(ConnectorIo {
                io: TokioIo::new(stream),
                ending,
                link,
                links,
                id,
            })
        })
    }
}

impl<D: Dialer> Clone for Connector<D> {
    fn clone(&self) -> Self {
        Self {
            links: self.links.clone(),
            urgency: self.urgency,
        }
    }
}

impl<D: Dialer> fmt::Debug for Connector<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Connector")
            .field("links", &self.links)
            .field("urgency", &self.urgency)
            .finish()
    }
}

/// A stream for hyper. It counts as a use of its connection until it is dropped.
pub struct ConnectorIo<D: Dialer<Connection: Streams>> {
    io: TokioIo<<D::Connection as Streams>::Stream>,
    ending: <D::Connection as Streams>::Ending,
    link: Use<D::Connection>,
    links: Links<D>,
    id: EndpointId,
}

impl<D: Dialer<Connection: Streams>> ConnectorIo<D> {
    /// What a failure means for the calls goes into the error, for [`ExactCodesLayer`](crate::ExactCodesLayer).
    fn checked<T>(&self, result: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        let Poll::Ready(Err(error)) = result else {
            return result;
        };
        Poll::Ready(Err(self.why_ended(error.kind())))
    }

    fn why_ended(&self, kind: io::ErrorKind) -> io::Error {
        let why = self.link.why_ended(&self.ending);
        if why.kind() == ErrorKind::Draining {
            // A server that refuses this stream because it shuts down refuses the next one too: the next dial is to be a new connection.
            self.links.pool().retire(self.id, self.link.connection());
        }
        why.to_io(kind)
    }
}

impl<D: Dialer<Connection: Streams>> Read for ConnectorIo<D> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: ReadBufCursor<'_>,
    ) -> Poll<io::Result<()>> {
        let result = Pin::new(&mut self.io).poll_read(cx, buf);
        if result.is_ready() && D::Connection::is_refused(&self.ending) {
            // hyper would say no more of a GOAWAY than that the connection is closed.
            return Poll::Ready(Err(self.why_ended(io::ErrorKind::ConnectionRefused)));
        }
        self.checked(result)
    }
}

impl<D: Dialer<Connection: Streams>> Write for ConnectorIo<D> {
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

impl<D: Dialer<Connection: Streams>> fmt::Debug for ConnectorIo<D> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectorIo")
            .field("io", &self.io)
            .field("peer", &self.id)
            .finish_non_exhaustive()
    }
}

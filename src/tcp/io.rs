use std::{
    fmt,
    io::{self, IoSlice},
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::{Duration, Instant},
};

use iroh::EndpointId;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::{Sleep, sleep},
};
use tonic::transport::server::Connected;

use super::{
    acceptor::Permit,
    health::{ConnectionHealth, Watched},
    refusal::{Heard, Listener},
    stream::Stream,
};
use crate::{http2::Observer, peer::PeerInfo};

/// One TCP connection, encrypted or plain: what [`TcpIncoming`](super::TcpIncoming) yields.
///
/// Reading and writing are cancel safe, as with any [`AsyncRead`] and [`AsyncWrite`].
pub struct TcpIo {
    stream: Stream,
    info: PeerInfo,
    /// What ends the connection from outside.
    ended: Ended,
    /// What is known of it on the client's side.
    health: Option<Watched>,
    /// Until the first bytes have come, there.
    listener: Option<Listener>,
    /// Until the caller has begun to speak HTTP/2.
    preface: Option<Preface>,
    /// What it takes of the server's bounds, until it is dropped.
    place: Option<Permit>,
    /// Counts its calls, on the server's side.
    observer: Option<Box<Observer>>,
}

/// A caller's first bytes, and how long they may take.
struct Preface {
    left: usize,
    late: Pin<Box<Sleep>>,
}

/// As long as HTTP/2's preface: RFC 9113, section 3.4.
const PREFACE: usize = 24;

enum Ended {
    /// Only its peer ends it.
    Never,
    When(End),
    /// Over, for this reason.
    Now(io::ErrorKind, String),
}

/// Resolves when a connection is to end, with the reason.
pub(super) type End = Pin<Box<dyn Future<Output = io::Error> + Send + Sync>>;

impl TcpIo {
    pub(super) fn new(stream: Stream, id: Option<EndpointId>, remote: SocketAddr) -> Self {
        let local = match &stream {
            Stream::Plain(tcp) => tcp.local_addr(),
            Stream::Tls(tls) => tls.get_ref().0.local_addr(),
        };
        Self {
            stream,
            info: PeerInfo::tcp(id, remote, local.ok()),
            ended: Ended::Never,
            health: None,
            listener: None,
            preface: None,
            place: None,
            observer: None,
        }
    }

    pub(super) fn until(mut self, end: End) -> Self {
        self.ended = Ended::When(end);
        self
    }

    /// Says what becomes of the connection, and ends it when it is told to.
    pub(super) fn seen_by(mut self, health: Watched) -> Self {
        let closing = health.closing();
        self.health = Some(health);
        self.listener = Some(Listener::default());
        self.until(Box::pin(async move {
            closing.cancelled().await;
            io::Error::new(io::ErrorKind::ConnectionAborted, "closed on this side")
        }))
    }

    /// What is known of the connection, on the client's side.
    pub(super) fn health(&self) -> Option<&Arc<ConnectionHealth>> {
        self.health.as_deref()
    }

    /// Ends the connection where the caller takes longer than that to begin.
    pub(super) fn begun_within(mut self, time: Duration) -> Self {
        self.preface = Some(Preface {
            left: PREFACE,
            late: Box::pin(sleep(time)),
        });
        self
    }

    /// Follows the HTTP/2 connection, as its server.
    pub(super) fn observed(mut self, observer: Observer) -> Self {
        self.observer = Some(Box::new(observer));
        self
    }

    pub(super) fn at(mut self, place: Permit) -> Self {
        self.place = Some(place);
        self
    }

    /// Who is at the other end.
    pub fn peer_info(&self) -> &PeerInfo {
        &self.info
    }

    /// Where the stream itself has to wait: whether it is over for another reason. So a connection that is busy pays nothing for the look.
    fn or_over<T>(
        &mut self,
        cx: &mut Context<'_>,
        polled: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if polled.is_pending()
            && let Ended::When(end) = &mut self.ended
            && let Poll::Ready(reason) = end.as_mut().poll(cx)
        {
            self.ended = Ended::Now(reason.kind(), reason.to_string());
        }
        if polled.is_pending()
            && let Some(preface) = &mut self.preface
            && preface.late.as_mut().poll(cx).is_ready()
        {
            let said = "the caller did not begin to speak HTTP/2 in time".to_owned();
            self.ended = Ended::Now(io::ErrorKind::TimedOut, said);
        }
        match &self.ended {
            Ended::Now(kind, reason) => Poll::Ready(Err(io::Error::new(*kind, reason.clone()))),
            _ => polled,
        }
    }

    /// Whether the server must see the end of the connection, because it is shut. The client is told before.
    fn is_shut(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(observer) = &mut self.observer else {
            return false;
        };
        let is_shut = observer.is_shut(cx);
        // What cannot be sent now is sent with the server's next bytes, and an error is for the server to find.
        if observer.has_news() && self.poll_tell(cx).is_ready() {
            let _ = Pin::new(&mut self.stream).poll_flush(cx);
        }
        is_shut
    }

    fn poll_tell(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(observer) = &mut self.observer {
            ready!(observer.poll_tell(cx, &mut self.stream))?;
        }
        Poll::Ready(Ok(()))
    }

    fn wrote(&mut self, slices: &[IoSlice<'_>], written: &Poll<io::Result<usize>>) {
        if let Some(observer) = &mut self.observer
            && let Poll::Ready(Ok(bytes)) = written
        {
            // The kernel bounds what waits for a caller, so it does not matter whether a handler answers.
            let _ = observer.wrote(&self.info, slices, *bytes);
        }
        let Some(health) = &self.health else { return };
        match written {
            Poll::Ready(Ok(bytes)) => health.sent(*bytes),
            Poll::Ready(Err(error)) => health.failed(error),
            Poll::Pending => {}
        }
    }
}

impl AsyncRead for TcpIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let asked = buf.remaining() > 0;
        let read = Pin::new(&mut self.stream).poll_read(cx, buf);
        let came = buf.filled().len() - before;
        if let Some(preface) = &mut self.preface {
            preface.left = preface.left.saturating_sub(came);
            if preface.left == 0 {
                self.preface = None;
            }
        }
        let read = match self.or_over(cx, read) {
            Poll::Pending if self.is_shut(cx) => return Poll::Ready(Ok(())),
            read => read,
        };
        let Self { observer, info, .. } = &mut *self;
        let looked = observer.as_mut().map_or(Ok(true), |observer| {
            observer.read(Instant::now, info, &buf.filled()[before..])
        });
        match looked {
            Ok(true) => {}
            Ok(false) => {
                buf.set_filled(before);
                self.is_shut(cx);
                return Poll::Ready(Ok(()));
            }
            Err(error) => {
                // For good, or the server would still write.
                self.ended = Ended::Now(error.kind(), error.to_string());
                return Poll::Ready(Err(error));
            }
        }
        let Self {
            health, listener, ..
        } = &mut *self;
        if let Some(health) = health {
            match &read {
                Poll::Ready(Ok(())) if buf.filled().len() > before => {
                    let came = &buf.filled()[before..];
                    health.received(came.len());
                    if let Some(first) = listener {
                        let heard = first.hear(came);
                        if heard != Heard::NotYet {
                            *listener = None;
                        }
                        health.heard(heard);
                    }
                }
                Poll::Ready(Ok(())) if asked => health.finished(),
                Poll::Ready(Err(error)) => health.failed(error),
                Poll::Ready(Ok(())) | Poll::Pending => {}
            }
        }
        read
    }
}

impl AsyncWrite for TcpIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let told = self.poll_tell(cx);
        if !matches!(told, Poll::Ready(Ok(()))) {
            return self.or_over(cx, told.map_ok(|()| 0));
        }
        let buf = match &self.observer {
            Some(observer) => &buf[..observer.within_frame(buf)],
            None => buf,
        };
        let written = Pin::new(&mut self.stream).poll_write(cx, buf);
        let written = self.or_over(cx, written);
        self.wrote(&[IoSlice::new(buf)], &written);
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.observer.as_ref().is_some_and(|it| it.has_news()) {
            let first = slices.iter().find(|slice| !slice.is_empty());
            return self.poll_write(cx, first.map_or(&[], |first| first));
        }
        let written = Pin::new(&mut self.stream).poll_write_vectored(cx, slices);
        let written = self.or_over(cx, written);
        self.wrote(slices, &written);
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let flushed = match self.poll_tell(cx) {
            Poll::Ready(Ok(())) => Pin::new(&mut self.stream).poll_flush(cx),
            told => told,
        };
        self.or_over(cx, flushed)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let shut = match self.poll_tell(cx) {
            Poll::Ready(Ok(())) => Pin::new(&mut self.stream).poll_shutdown(cx),
            told => told,
        };
        self.or_over(cx, shut)
    }
}

impl Connected for TcpIo {
    type ConnectInfo = PeerInfo;

    fn connect_info(&self) -> PeerInfo {
        self.info.clone()
    }
}

impl fmt::Debug for TcpIo {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpIo")
            .field("peer", &self.info)
            .field("stream", &self.stream)
            .finish_non_exhaustive()
    }
}

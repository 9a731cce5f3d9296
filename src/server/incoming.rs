use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll},
};

use futures_core::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;

use crate::{
    peer::PeerInfo,
    quic::{Incoming, QuicIo},
    tcp::{TcpIncoming, TcpIo},
};

/// The connections of both transports, as one stream. It ends when both have ended.
#[derive(Debug)]
pub struct ServerIncoming {
    iroh: Option<Incoming>,
    tcp: Option<TcpIncoming>,
    /// Which transport is polled first takes turns, so that neither starves the other.
    tcp_first: bool,
}

impl ServerIncoming {
    /// Joins the connections of one or both transports.
    pub fn new(iroh: Option<Incoming>, tcp: Option<TcpIncoming>) -> Self {
        Self {
            iroh,
            tcp,
            tcp_first: false,
        }
    }

    fn poll_iroh(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<ServerIo>>> {
        poll_arm(&mut self.iroh, cx, ServerIo::Iroh)
    }

    fn poll_tcp(&mut self, cx: &mut Context<'_>) -> Poll<Option<io::Result<ServerIo>>> {
        poll_arm(&mut self.tcp, cx, ServerIo::Tcp)
    }
}

/// Drops an arm that has ended, which stays ended.
fn poll_arm<S, IO>(
    arm: &mut Option<S>,
    cx: &mut Context<'_>,
    wrap: fn(IO) -> ServerIo,
) -> Poll<Option<io::Result<ServerIo>>>
where
    S: Stream<Item = io::Result<IO>> + Unpin,
{
    let Some(incoming) = arm else {
        return Poll::Ready(None);
    };
    let polled = Pin::new(incoming).poll_next(cx);
    if let Poll::Ready(None) = polled {
        *arm = None;
    }
    polled.map(|next| next.map(|io| io.map(wrap)))
}

impl Stream for ServerIncoming {
    type Item = io::Result<ServerIo>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        self.tcp_first = !self.tcp_first;
        let first = if self.tcp_first {
            self.poll_tcp(cx)
        } else {
            self.poll_iroh(cx)
        };
        if let Poll::Ready(Some(_)) = first {
            return first;
        }
        let second = if self.tcp_first {
            self.poll_iroh(cx)
        } else {
            self.poll_tcp(cx)
        };
        match (first, second) {
            (_, Poll::Ready(Some(io))) => Poll::Ready(Some(io)),
            (Poll::Ready(None), Poll::Ready(None)) => Poll::Ready(None),
            _ => Poll::Pending,
        }
    }
}

/// A connection of either transport.
#[derive(Debug)]
pub enum ServerIo {
    /// A lane over iroh.
    Iroh(QuicIo),
    /// A TCP connection.
    Tcp(TcpIo),
}

impl AsyncRead for ServerIo {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Iroh(io) => Pin::new(io).poll_read(cx, buf),
            Self::Tcp(io) => Pin::new(io).poll_read(cx, buf),
        }
    }
}

impl AsyncWrite for ServerIo {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Iroh(io) => Pin::new(io).poll_write(cx, buf),
            Self::Tcp(io) => Pin::new(io).poll_write(cx, buf),
        }
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Iroh(io) => Pin::new(io).poll_write_vectored(cx, slices),
            Self::Tcp(io) => Pin::new(io).poll_write_vectored(cx, slices),
        }
    }

    fn is_write_vectored(&self) -> bool {
        match self {
            Self::Iroh(io) => io.is_write_vectored(),
            Self::Tcp(io) => io.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Iroh(io) => Pin::new(io).poll_flush(cx),
            Self::Tcp(io) => Pin::new(io).poll_flush(cx),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Iroh(io) => Pin::new(io).poll_shutdown(cx),
            Self::Tcp(io) => Pin::new(io).poll_shutdown(cx),
        }
    }
}

impl Connected for ServerIo {
    type ConnectInfo = PeerInfo;

    fn connect_info(&self) -> PeerInfo {
        match self {
            Self::Iroh(io) => io.connect_info(),
            Self::Tcp(io) => io.connect_info(),
        }
    }
}

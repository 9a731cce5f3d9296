//! Lanes of the test's own: tonic over a raw QUIC stream, with a reader that can be stopped.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use hyper_util::rt::TokioIo;
use iroh::endpoint::{Connection, RecvStream, SendStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::{Channel, Endpoint, server::Connected};
use tower_iroh::{
    Urgency,
    wire::{Kind, Preamble},
};

/// A raw stream as an IO.
pub struct Lane {
    pub send: SendStream,
    pub recv: RecvStream,
    /// Once set, nothing is read any more.
    pub stopped: Arc<AtomicBool>,
}

impl Lane {
    pub fn new((send, recv): (SendStream, RecvStream)) -> Self {
        Self {
            send,
            recv,
            stopped: Arc::default(),
        }
    }
}

impl AsyncRead for Lane {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        if self.stopped.load(Ordering::SeqCst) {
            // For good: nobody wakes it.
            return Poll::Pending;
        }
        AsyncRead::poll_read(Pin::new(&mut self.recv), cx, buf)
    }
}

impl AsyncWrite for Lane {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        AsyncWrite::poll_write(Pin::new(&mut self.send), cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_flush(Pin::new(&mut self.send), cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        AsyncWrite::poll_shutdown(Pin::new(&mut self.send), cx)
    }
}

impl Connected for Lane {
    type ConnectInfo = ();

    fn connect_info(&self) {}
}

pub fn preamble(urgency: Urgency) -> [u8; 3] {
    let kind = Kind::Http2;
    Preamble { kind, urgency }.encode()
}

/// tonic's channel over a raw stream: behind a preamble of that urgency, or HTTP/2 from the first byte on. Its HTTP/2 windows
/// are as large as can be, so that what stops a server is the QUIC stream.
pub async fn channel(
    connection: &Connection,
    urgency: Option<Urgency>,
) -> (Channel, Arc<AtomicBool>) {
    let (mut send, recv) = connection.open_bi().await.expect("a stream");
    if let Some(urgency) = urgency {
        send.write_all(&preamble(urgency)).await.expect("written");
    }
    let lane = Lane::new((send, recv));
    let stopped = lane.stopped.clone();
    let lane = Arc::new(Mutex::new(Some(lane)));
    let connector = tower::service_fn(move |_: http::Uri| {
        let lane = lane.lock().expect("no panic").take();
        async move {
            lane.map(TokioIo::new)
                .ok_or_else(|| io::Error::other("only once"))
        }
    });
    let channel = Endpoint::from_static("http://raw")
        .initial_stream_window_size(i32::MAX as u32)
        .initial_connection_window_size(i32::MAX as u32)
        .connect_with_connector(connector)
        .await
        .expect("connected");
    (channel, stopped)
}

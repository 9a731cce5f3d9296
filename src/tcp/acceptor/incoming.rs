use std::{
    fmt,
    future::Future,
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use futures_core::Stream;
use tokio::{
    net::TcpListener,
    task::JoinSet,
    time::{Sleep, sleep},
};
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::{super::TcpIo, Shared, handshake::shake_hands};

/// How long accepting pauses after the system had no file descriptor for a connection.
const PAUSE: Duration = Duration::from_millis(100);

/// The connections that callers make: a stream of IO for `Server::serve_with_incoming` and `serve_with_incoming_shutdown`.
///
/// It never yields an error. A connection that fails concerns its caller alone, and if the system has no file descriptor left, this waits 100 ms and tries
/// again.
///
/// It owns the listener and the handshakes in flight, each in a task. Dropping it closes the port, ends the handshakes, and begins the drain. It ends by itself
/// with [`TcpAcceptor::shutdown`](super::TcpAcceptor::shutdown).
pub struct TcpIncoming {
    listener: TcpListener,
    shared: Arc<Shared>,
    handshakes: JoinSet<Option<TcpIo>>,
    pause: Option<Pin<Box<Sleep>>>,
    stopped: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl TcpIncoming {
    pub(super) fn new(listener: TcpListener, shared: Arc<Shared>) -> Self {
        Self {
            listener,
            stopped: Box::pin(shared.draining.clone().cancelled_owned()),
            shared,
            handshakes: JoinSet::new(),
            pause: None,
        }
    }

    /// The next connection whose handshake succeeded.
    fn poll_done(&mut self, cx: &mut Context<'_>) -> Poll<TcpIo> {
        // An empty set is ready with nothing, and registers no waker.
        while let Some(done) = ready!(self.handshakes.poll_join_next(cx)) {
            if let Ok(Some(io)) = done {
                return Poll::Ready(io);
            }
        }
        Poll::Pending
    }

    /// Begins the handshakes of the callers that wait. Ready if `max_handshakes` are in flight.
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        while self.handshakes.len() < self.shared.settings.max_handshakes {
            if let Some(pause) = &mut self.pause {
                ready!(pause.as_mut().poll(cx));
                self.pause = None;
            }
            match ready!(self.listener.poll_accept(cx)) {
                Ok((stream, remote)) => {
                    let shared = self.shared.clone();
                    self.handshakes.spawn(shake_hands(shared, stream, remote));
                }
                Err(error) if is_caller_gone(&error) => {}
                Err(error) => {
                    metrics::counter!("tower_iroh_tcp_accept_errors_total").increment(1);
                    tracing::warn!(%error, listener = %self.shared.local_addr, "cannot accept a TCP connection");
                    self.pause = Some(Box::pin(sleep(PAUSE)));
                }
            }
        }
        Poll::Ready(())
    }
}

fn is_caller_gone(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::ConnectionRefused
            | io::ErrorKind::Interrupted
    )
}

impl Stream for TcpIncoming {
    type Item = io::Result<TcpIo>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.stopped.as_mut().poll(cx).is_ready() {
            return Poll::Ready(None);
        }
        loop {
            let full = self.poll_accept(cx).is_ready();
            if let Poll::Ready(io) = self.poll_done(cx) {
                return Poll::Ready(Some(Ok(io)));
            }
            // If it was full, the listener has no waker registered: look again once a handshake has ended.
            if !full || self.handshakes.len() >= self.shared.settings.max_handshakes {
                return Poll::Pending;
            }
        }
    }
}

impl Drop for TcpIncoming {
    fn drop(&mut self) {
        self.shared.draining.cancel();
    }
}

impl fmt::Debug for TcpIncoming {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpIncoming")
            .field("listener", &self.shared.local_addr)
            .field("handshakes", &self.handshakes.len())
            .finish_non_exhaustive()
    }
}

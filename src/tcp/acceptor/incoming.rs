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
    time::{Instant, Sleep, sleep},
};
use tokio_util::sync::WaitForCancellationFutureOwned;

use super::{
    super::TcpIo,
    Shared,
    handshake::{Turn, shake_hands},
    silent::{Accepted, Heard, SilentSockets},
};

/// How long accepting pauses after the system had no file descriptor for a connection.
const PAUSE: Duration = Duration::from_millis(100);

/// The connections that callers make: a stream of IO for `Server::serve_with_incoming` and `serve_with_incoming_shutdown`.
///
/// It never yields an error. A connection that fails concerns its caller alone, and if the system has no file descriptor left, this waits 100 ms and tries
/// again.
///
/// It owns the listener, the sockets from which nothing has come yet, and the handshakes in flight, each in a task. Dropping it closes the port, ends the handshakes, and begins the drain. It ends by itself
/// with [`TcpAcceptor::shutdown`](super::TcpAcceptor::shutdown).
pub struct TcpIncoming {
    listener: TcpListener,
    shared: Arc<Shared>,
    silent: SilentSockets,
    handshakes: JoinSet<Option<TcpIo>>,
    pause: Option<Pin<Box<Sleep>>>,
    stopped: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl TcpIncoming {
    pub(super) fn new(listener: TcpListener, shared: Arc<Shared>) -> Self {
        let settings = &shared.settings;
        Self {
            silent: SilentSockets::new(settings.max_handshakes, settings.handshake_timeout),
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

    /// Begins the handshakes of the callers that have spoken. Pending once the rest is silent.
    fn poll_spoken(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let heard = ready!(self.silent.poll_heard(cx));
            self.on_heard(heard);
        }
    }

    fn on_heard(&mut self, heard: Heard) {
        match heard {
            Heard::Spoke(socket) => {
                if let Some(turn) = Turn::take(&self.shared, socket.remote) {
                    let handshake = shake_hands(self.shared.clone(), socket, turn);
                    self.handshakes.spawn(handshake);
                }
            }
            Heard::Gone(remote) => self.shared.refusals.add("silent", |suppressed| {
                tracing::debug!(%remote, suppressed, "closed a TCP connection: nothing came from it");
            }),
        }
    }

    /// Accepts whoever is there. Ready if that was somebody, whose socket has to be polled.
    fn poll_accept(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let mut accepted = Poll::Pending;
        loop {
            if let Some(pause) = &mut self.pause {
                if pause.as_mut().poll(cx).is_pending() {
                    return accepted;
                }
                self.pause = None;
            }
            match self.listener.poll_accept(cx) {
                Poll::Pending => return accepted,
                Poll::Ready(Ok((stream, remote))) => {
                    let since = Instant::now();
                    let displaced = self.silent.push(Accepted {
                        stream,
                        remote,
                        since,
                    });
                    if let Some(displaced) = displaced {
                        self.on_heard(displaced);
                    }
                    accepted = Poll::Ready(());
                }
                Poll::Ready(Err(error)) if is_caller_gone(&error) => {}
                Poll::Ready(Err(error)) => {
                    metrics::counter!("tower_iroh_tcp_accept_errors_total").increment(1);
                    tracing::warn!(%error, listener = %self.shared.local_addr, "cannot accept a TCP connection");
                    self.pause = Some(Box::pin(sleep(PAUSE)));
                }
            }
        }
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
            let _ = self.poll_spoken(cx);
            if let Poll::Ready(io) = self.poll_done(cx) {
                return Poll::Ready(Some(Ok(io)));
            }
            ready!(self.poll_accept(cx));
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
            .field("silent", &self.silent.len())
            .field("handshakes", &self.handshakes.len())
            .finish_non_exhaustive()
    }
}

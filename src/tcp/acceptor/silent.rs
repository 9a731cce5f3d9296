//! Accepted sockets from which nothing has come yet.

use std::{
    collections::VecDeque,
    mem::MaybeUninit,
    net::SocketAddr,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use socket2::SockRef;
use tokio::{
    io::ReadBuf,
    net::TcpStream,
    time::{Instant, Sleep, sleep},
};

/// How long a caller has for its first byte. A client sends it together with the last packet of TCP's own handshake; if that is lost, the client repeats it after
/// about a second (RFC 6298).
const FIRST_BYTE: Duration = Duration::from_secs(2);

/// An accepted socket.
pub(super) struct Accepted {
    pub(super) stream: TcpStream,
    pub(super) remote: SocketAddr,
    pub(super) since: Instant,
}

/// Why a socket is no longer silent.
pub(super) enum Heard {
    /// Its first byte has come.
    Spoke(Accepted),
    /// It has said nothing for too long, or is closed.
    Gone(SocketAddr),
}

/// The silent sockets, oldest first. It has no tasks: whoever owns it polls it.
pub(super) struct SilentSockets {
    most: usize,
    patience: Duration,
    sockets: VecDeque<Accepted>,
    /// When the oldest has been silent for too long.
    late: Pin<Box<Sleep>>,
}

impl SilentSockets {
    /// Bounds their number, and their time by the time for a whole handshake.
    pub(super) fn new(most: usize, handshake_timeout: Duration) -> Self {
        Self {
            most,
            patience: FIRST_BYTE.min(handshake_timeout),
            sockets: VecDeque::new(),
            late: Box::pin(sleep(FIRST_BYTE)),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.sockets.len()
    }

    /// Adds a socket, which has to be polled afterwards. If there are too many by then, the oldest has to go.
    pub(super) fn push(&mut self, socket: Accepted) -> Option<Heard> {
        self.sockets.push_back(socket);
        if self.sockets.len() <= self.most {
            return None;
        }
        let oldest = self.sockets.pop_front()?;
        // What the kernel has may be newer than what the runtime knows.
        let mut byte = [MaybeUninit::uninit()];
        Some(match SockRef::from(&oldest.stream).peek(&mut byte) {
            Ok(1..) => Heard::Spoke(oldest),
            Ok(0) | Err(_) => Heard::Gone(oldest.remote),
        })
    }

    /// The next socket that is no longer silent.
    pub(super) fn poll_heard(&mut self, cx: &mut Context<'_>) -> Poll<Heard> {
        for index in 0..self.sockets.len() {
            let mut byte = [0];
            let mut first = ReadBuf::new(&mut byte);
            let stream = &self.sockets[index].stream;
            let Poll::Ready(peeked) = stream.poll_peek(cx, &mut first) else {
                continue;
            };
            if let Some(socket) = self.sockets.remove(index) {
                return Poll::Ready(match peeked {
                    Ok(1..) => Heard::Spoke(socket),
                    Ok(0) | Err(_) => Heard::Gone(socket.remote),
                });
            }
        }
        let Some(oldest) = self.sockets.front() else {
            return Poll::Pending;
        };
        let late = oldest.since + self.patience;
        if self.late.deadline() != late {
            self.late.as_mut().reset(late);
        }
        ready!(self.late.as_mut().poll(cx));
        match self.sockets.pop_front() {
            Some(socket) => Poll::Ready(Heard::Gone(socket.remote)),
            None => Poll::Pending,
        }
    }
}

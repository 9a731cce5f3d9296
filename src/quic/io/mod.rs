//! One bidirectional QUIC stream as an I/O object for hyper, tokio and tonic.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    task::{Context, Poll, ready},
    time::Instant,
};

use bytes::{Bytes, BytesMut};
use iroh::endpoint::{RecvStream, SendStream, VarInt};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;

use super::copies::{Copies, LaneCopies};
use crate::{http2::Observer, peer::PeerInfo, wire::reset};

mod activity;
mod gate;
mod goaway;
mod screen;
mod stream_priority;

pub(crate) use activity::{Activities, Activity};
pub(crate) use gate::Gate;
pub(crate) use goaway::OnGoaway;
pub(crate) use screen::Permits;
#[cfg(any(test, fuzzing))]
pub use screen::fuzzing::screen;

use gate::Through;
use stream_priority::StreamPriority;

/// One bidirectional QUIC stream: what [`Incoming`](crate::Incoming) yields.
///
/// Dropping it ends the stream cleanly after what was written. Reading and writing are cancel safe, as with any
/// [`AsyncRead`] and [`AsyncWrite`].
#[derive(Debug)]
pub struct QuicIo {
    send: SendStream,
    recv: RecvStream,
    info: PeerInfo,
    priority: StreamPriority,
    activity: std::sync::Arc<Activity>,
    /// Called when the stream ends, so that the server stops counting the lane.
    release: Option<Release>,
    corking: Corking,
    /// Present on the server's side until the connection's handshake is complete.
    gate: Option<Box<Gate>>,
    copies: Option<LaneCopies>,
    /// Present on the server's side.
    observer: Option<Box<Observer>>,
    /// Present on the client's side, beneath a client that speaks HTTP/2 itself.
    on_goaway: Option<Box<OnGoaway>>,
}

/// Whether a small write yields to the runtime first, so that other calls' writes can share its packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Corking {
    Never,
    /// The next small write yields.
    Armed,
    /// It has yielded; writes go out at once until the next flush.
    Waited,
}

/// How many bytes of answers wait for a peer that no handler has served, beyond what is on its way. Such a peer gets refusals, of a few dozen bytes each.
const STRANGER_UNSENT: u64 = 256 * 1024;
/// A write of this size fills most of a packet by itself.
const SMALL_WRITE: usize = 1024;

/// Called when the stream is no longer written to.
///
/// It gets the sending side if the stream ended well, and nothing after a reset.
pub(crate) struct Release(pub(crate) Box<LetGo>);

type LetGo = dyn FnOnce(Option<&SendStream>) + Send + Sync;

impl std::fmt::Debug for Release {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Release")
    }
}

impl QuicIo {
    pub(crate) fn new(
        (send, recv): (SendStream, RecvStream),
        info: PeerInfo,
        activities: &Activities,
    ) -> Self {
        let priority = StreamPriority::new(info.urgency(), Instant::now());
        // This fails on a closed stream; the first write gives a better error.
        let _ = send.set_priority(priority.priority());
        Self {
            send,
            recv,
            info,
            priority,
            activity: activities.add(),
            release: None,
            corking: Corking::Never,
            gate: None,
            copies: None,
            observer: None,
            on_goaway: None,
        }
    }

    /// Uses the peer's copies of what it writes on this stream, of which `read` bytes have been read, and sends copies of small
    /// writes if `sends`. Call this before anything is written.
    pub(crate) fn copied(mut self, copies: &Copies, read: u64, sends: bool) -> Self {
        self.copies = Some(copies.lane(&self.send, read, sends));
        self
    }

    /// Holds back bytes that may be a replay until the handshake is over.
    pub(crate) fn behind(mut self, gate: Option<Gate>) -> Self {
        self.gate = gate.map(Box::new);
        self
    }

    /// Counts the calls on the stream, and ends it with its connection.
    pub(crate) fn observed(mut self, observer: Observer) -> Self {
        self.observer = Some(Box::new(observer));
        self
    }

    pub(crate) fn on_goaway(mut self, on_goaway: OnGoaway) -> Self {
        self.on_goaway = Some(Box::new(on_goaway));
        self
    }

    pub(crate) fn on_release(mut self, release: Release) -> Self {
        self.release = Some(release);
        self
    }

    /// Makes small writes yield to the scheduler once.
    ///
    /// For a writer that flushes after each call, such as hyper's client. Otherwise each write would be
    /// a packet, which costs QUIC more than TCP.
    pub(crate) fn corked(mut self) -> Self {
        self.corking = Corking::Armed;
        self
    }

    /// Whether a write of this size must yield; if so, the task has been woken already.
    fn waits(&mut self, cx: &Context<'_>, bytes: usize) -> bool {
        let waits = self.corking == Corking::Armed && bytes < SMALL_WRITE;
        if waits {
            self.corking = Corking::Waited;
            cx.waker().wake_by_ref();
        }
        waits
    }

    pub(crate) fn activity(&self) -> std::sync::Arc<Activity> {
        self.activity.clone()
    }

    /// Ends the stream in both directions with a code.
    pub(crate) fn refuse(mut self, code: VarInt) {
        self.end(code);
    }

    fn end(&mut self, code: VarInt) {
        // Each fails if the peer has ended the stream already.
        let _ = self.send.reset(code);
        let _ = self.recv.stop(code);
        if let Some(Release(release)) = self.release.take() {
            release(None);
        }
    }

    /// The peer at the other end.
    pub fn peer_info(&self) -> &PeerInfo {
        &self.info
    }

    fn copies_wanted(&self, bytes: usize) -> bool {
        let copies = self.copies.as_ref();
        copies.is_some_and(|copies| copies.wanted(bytes))
    }

    /// Whether the server must see the end of the stream, because the connection is shut. The client is told before.
    fn is_shut(&mut self, cx: &mut Context<'_>) -> bool {
        let Some(observer) = &mut self.observer else {
            return false;
        };
        let is_shut = observer.is_shut(cx);
        // What cannot be sent now is sent with the server's next bytes, and an error is for the server to find.
        let _ = self.poll_tell(cx);
        is_shut
    }

    fn poll_tell(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        if let Some(observer) = &mut self.observer {
            let told = ready!(observer.poll_tell(cx, &mut self.send))?;
            if told > 0 {
                self.wrote(told, None);
            }
        }
        Poll::Ready(Ok(()))
    }

    /// Counts bytes that the stream has accepted; `copied` are sent again.
    fn wrote(&mut self, bytes: usize, copied: Option<&[u8]>) {
        self.activity.wrote(bytes);
        if let Some(copies) = &mut self.copies {
            copies.wrote(bytes, copied);
        }
        if let Some(priority) = self.priority.wrote(Instant::now(), bytes) {
            let _ = self.send.set_priority(priority);
        }
    }

    /// Reads the stream and its copies, through the gate if there is one.
    fn poll_stream(&mut self, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let mut source = Source {
            recv: &mut self.recv,
            copies: self.copies.as_mut(),
        };
        if let Some(gate) = &mut self.gate {
            match ready!(gate.poll_read(cx, &mut source, buf))? {
                Through::Read => return Poll::Ready(Ok(())),
                Through::Open => self.gate = None,
            }
        }
        Pin::new(&mut source).poll_read(cx, buf)
    }

    /// Looks at what came, or ends the stream. False if the server must not get it, because the connection is shut.
    fn look(&mut self, came: &[u8]) -> io::Result<bool> {
        let Some(observer) = &mut self.observer else {
            return Ok(true);
        };
        let looked = observer.read(Instant::now, &self.info, came);
        if looked.is_err() {
            self.end(reset::DROPPED);
        }
        looked
    }

    /// Looks at what the stream has accepted.
    ///
    /// # Errors
    /// If a peer that no handler has served lets answers pile up. They are thrown away.
    fn look_back(&mut self, slices: &[IoSlice<'_>], bytes: usize) -> io::Result<()> {
        let Some(observer) = &mut self.observer else {
            return Ok(());
        };
        if observer.wrote(&self.info, slices, bytes) {
            self.activity.served();
        }
        let Some(sum) = self.activity.wrote_to_stranger(bytes) else {
            return Ok(());
        };
        if sum <= STRANGER_UNSENT {
            return Ok(());
        }
        let connection = self.info.connection();
        let sent = connection.map_or(0, |connection| connection.stats().udp_tx.bytes);
        if sum.saturating_sub(sent) <= STRANGER_UNSENT {
            return Ok(());
        }
        let reason = "refusals pile up that the peer does not take";
        observer.blame(&self.info, reason);
        self.end(reset::DROPPED);
        Err(io::Error::new(io::ErrorKind::ConnectionAborted, reason))
    }

    fn failed(&self, error: io::Error) -> io::Error {
        self.activity.fail(&error);
        error
    }
}

/// Reads the stream and its copies.
struct Source<'a> {
    recv: &'a mut RecvStream,
    copies: Option<&'a mut LaneCopies>,
}

impl AsyncRead for Source<'_> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { recv, copies } = &mut *self;
        match copies {
            Some(copies) => copies.poll_read(recv, cx, buf),
            None => AsyncRead::poll_read(Pin::new(*recv), cx, buf),
        }
    }
}

impl Drop for QuicIo {
    fn drop(&mut self) {
        // Unread bytes must not look like a stall to an owner that keeps the activity.
        self.activity.waits();
        if let Some(Release(release)) = self.release.take() {
            // This fails if the stream has ended already; nothing is left to send then.
            let _ = self.send.finish();
            release(Some(&self.send));
        }
    }
}

impl AsyncRead for QuicIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        match self.poll_stream(cx, buf) {
            Poll::Pending => {
                self.activity.waits();
                match self.is_shut(cx) {
                    true => Poll::Ready(Ok(())),
                    false => Poll::Pending,
                }
            }
            Poll::Ready(Ok(())) => {
                match buf.filled().len() - before {
                    // The end: no unread bytes are left.
                    0 => self.activity.waits(),
                    bytes => self.activity.read(bytes),
                }
                if let Some(on_goaway) = &mut self.on_goaway {
                    on_goaway.read(&buf.filled()[before..]);
                }
                if !self.look(&buf.filled()[before..])? {
                    buf.set_filled(before);
                    self.is_shut(cx);
                }
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(self.failed(error))),
        }
    }
}

impl AsyncWrite for QuicIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        if self.waits(cx, buf.len()) {
            return Poll::Pending;
        }
        ready!(self.poll_tell(cx))?;
        let buf = match &self.observer {
            Some(observer) => &buf[..observer.within_frame(buf)],
            None => buf,
        };
        match AsyncWrite::poll_write(Pin::new(&mut self.send), cx, buf) {
            Poll::Ready(Ok(bytes)) => {
                let copied = self.copies_wanted(bytes).then(|| &buf[..bytes]);
                self.wrote(bytes, copied);
                self.look_back(&[IoSlice::new(buf)], bytes)?;
                Poll::Ready(Ok(bytes))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(self.failed(error))),
            Poll::Pending => Poll::Pending,
        }
    }

    /// HTTP/2 writes a frame's head and its payload as two slices. Handing them over together takes the connection's
    /// lock and wakes its driver once instead of twice; QUIC copies the bytes in any case.
    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        const MOST: usize = 64 * 1024;
        let mut filled = slices.iter().filter(|slice| !slice.is_empty());
        let (Some(first), second) = (filled.next(), filled.next()) else {
            return Poll::Ready(Ok(0));
        };
        let interrupted = self.observer.as_ref().is_some_and(|it| it.has_news());
        if second.is_none() || first.len() >= MOST || interrupted {
            return self.poll_write(cx, first);
        }
        let total = slices.iter().map(|slice| slice.len()).sum::<usize>();
        if self.waits(cx, total) {
            return Poll::Pending;
        }
        let mut gathered = BytesMut::with_capacity(total.min(MOST));
        for slice in slices {
            let room = MOST - gathered.len();
            gathered.extend_from_slice(&slice[..slice.len().min(room)]);
        }
        let gathered = gathered.freeze();
        let copied = self.copies_wanted(gathered.len()).then(|| gathered.clone());
        let mut chunks: &mut [Bytes] = &mut [gathered];
        // Cancel safe: a write that does not resolve has written nothing.
        let written = std::pin::pin!(self.send.write_many_chunks(&mut chunks)).poll(cx);
        match written {
            Poll::Ready(Ok(bytes)) => {
                self.wrote(bytes, copied.as_ref().map(|copied| &copied[..bytes]));
                self.look_back(slices, bytes)?;
                Poll::Ready(Ok(bytes))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(self.failed(error.into()))),
            Poll::Pending => Poll::Pending,
        }
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_tell(cx))?;
        if self.corking == Corking::Waited {
            self.corking = Corking::Armed;
        }
        // The connection's driver sends the bytes by itself.
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_tell(cx))?;
        // QUIC reuses the ids of streams whose early data was rejected, and `finish` could end another stream. Dropping checks, and follows
        // right after.
        if !self.recv.is_0rtt() {
            // The stream is closed already.
            let _ = self.send.finish();
        }
        Poll::Ready(Ok(()))
    }
}

impl Connected for QuicIo {
    type ConnectInfo = PeerInfo;

    fn connect_info(&self) -> PeerInfo {
        self.info.clone()
    }
}

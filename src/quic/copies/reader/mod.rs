//! Reads one lane: the QUIC stream in order, and copies while the stream has no bytes.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll},
};

use futures_util::task::AtomicWaker;
use tokio::io::{AsyncRead, ReadBuf};

use super::store::Store;
use crate::lock::lock;

/// The copies that wait for a lane's reader.
///
/// **No wake-up is lost.** The writer first stores a copy and then wakes the reader; the reader first registers and then looks.
/// [`AtomicWaker`] orders the two: if the wake came before the registration, the reader sees what was stored before the wake.
#[derive(Debug, Default)]
pub(super) struct Inbox {
    /// Whether the store holds anything, so that a reader rarely takes the lock.
    some: AtomicBool,
    store: Mutex<Store>,
    reader: AtomicWaker,
    /// The offset up to which the lane has been read. A stale value only keeps a useless copy a little longer.
    read: AtomicU64,
}

impl Inbox {
    /// Stores a copy for the reader.
    pub(super) fn leave(&self, offset: u64, bytes: &[u8]) {
        let end = offset.saturating_add(bytes.len() as u64);
        if end <= self.read.load(Ordering::Relaxed) {
            return;
        }
        {
            let mut store = lock(&self.store);
            if !store.insert(offset, bytes) {
                return;
            }
            self.some.store(true, Ordering::Release);
        }
        self.reader.wake();
    }

    /// Moves the bytes from offset `at` on into `buf`. Returns how many copies were used.
    fn take(&self, at: u64, buf: &mut ReadBuf<'_>) -> u64 {
        if !self.some.load(Ordering::Acquire) {
            return 0;
        }
        let mut store = lock(&self.store);
        let used = store.take(at, buf);
        self.some.store(!store.is_empty(), Ordering::Release);
        used
    }
}

/// Reads a stream and its copies as one.
#[derive(Debug)]
pub(super) struct Reader {
    inbox: Arc<Inbox>,
    /// How many bytes the stream has delivered, including skipped ones.
    streamed: u64,
    /// How many bytes the reader has got: `streamed`, and those that came from copies ahead of it.
    read: u64,
    ended: bool,
}

impl Reader {
    /// A reader of a stream of which `read` bytes have been read.
    pub(super) fn new(read: u64) -> Self {
        let inbox = Arc::new(Inbox::default());
        inbox.read.store(read, Ordering::Relaxed);
        Self {
            inbox,
            streamed: read,
            read,
            ended: false,
        }
    }

    pub(super) fn inbox(&self) -> &Arc<Inbox> {
        &self.inbox
    }

    /// Reads. Only the stream reports the end and errors; `used` is called with the number of copies that were ahead of the stream.
    ///
    /// # Errors
    /// The stream's errors, and `InvalidData` if the stream ends before bytes that its copies had.
    pub(super) fn poll_read<S>(
        &mut self,
        stream: &mut S,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
        used: &AtomicU64,
    ) -> Poll<io::Result<()>>
    where
        S: AsyncRead + Unpin,
    {
        if self.ended || buf.remaining() == 0 {
            return Pin::new(stream).poll_read(cx, buf);
        }
        loop {
            let before = buf.filled().len();
            let ahead = self.read - self.streamed;
            let (polled, bytes) = if ahead == 0 {
                let polled = Pin::new(&mut *stream).poll_read(cx, buf);
                (polled, buf.filled().len() - before)
            } else {
                // Already read from copies: read into the unused part of the buffer and overwritten by the next bytes.
                let room = usize::try_from(ahead).unwrap_or(usize::MAX);
                let room = room.min(buf.remaining());
                let mut skipped = ReadBuf::new(buf.initialize_unfilled_to(room));
                let polled = Pin::new(&mut *stream).poll_read(cx, &mut skipped);
                (polled, skipped.filled().len())
            };
            match polled {
                Poll::Pending => break,
                Poll::Ready(Ok(())) if bytes == 0 => {
                    self.end();
                    let lied = ahead > 0;
                    return Poll::Ready(if lied { Err(beyond_the_end()) } else { Ok(()) });
                }
                Poll::Ready(Ok(())) => {
                    self.streamed += bytes as u64;
                    if ahead == 0 {
                        self.advance(bytes);
                        return Poll::Ready(Ok(()));
                    }
                }
                Poll::Ready(Err(error)) => {
                    self.end();
                    return Poll::Ready(Err(error));
                }
            }
        }
        self.inbox.reader.register(cx.waker());
        let before = buf.filled().len();
        let copies = self.inbox.take(self.read, buf);
        match buf.filled().len() - before {
            0 => Poll::Pending,
            bytes => {
                used.fetch_add(copies, Ordering::Relaxed);
                self.advance(bytes);
                Poll::Ready(Ok(()))
            }
        }
    }

    fn advance(&mut self, bytes: usize) {
        self.read += bytes as u64;
        self.inbox.read.store(self.read, Ordering::Relaxed);
    }

    /// Drops all copies, once the stream has ended or failed.
    fn end(&mut self) {
        self.ended = true;
        self.inbox.read.store(u64::MAX, Ordering::Relaxed);
    }
}

fn beyond_the_end() -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidData,
        "the peer copied bytes beyond the end of its stream",
    )
}

#[cfg(test)]
mod tests;

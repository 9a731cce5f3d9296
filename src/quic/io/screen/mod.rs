//! Reads the bytes that arrive on a lane before the peer has proved anything, and decides how many of them may be served.
//!
//! The screen is an HTTP/2 server that never answers. It feeds the bytes to h2, the same code that tonic uses, before tonic sees them. Each block of headers must
//! come out as a request to a listed method. A reader of frames counts the blocks by their nine-byte heads alone. So if h2 swallows a block, resets it or
//! reads it as something else, the counts differ and the lane stops: bytes that the screen does not understand wait for the handshake.

use std::{
    fmt,
    future::Future,
    io,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
};

use bytes::{Buf, Bytes, BytesMut};
use h2::{
    RecvStream,
    server::{Connection, Handshake, SendResponse},
};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::{
    http2::{Frames, Head},
    lock::lock,
};

#[cfg(any(test, fuzzing))]
pub(in crate::quic) mod fuzzing;

/// Whether the method at a path may be served early.
pub(crate) type Permits = Arc<dyn Fn(&str) -> bool + Send + Sync>;

/// How many bytes of a lane are read before the handshake is complete. A client that has not seen the server's settings may send no more than this in DATA
/// frames (RFC 9113, section 6.9.2).
pub(super) const MOST: usize = 64 * 1024;

/// How many calls of a lane are held before the handshake is complete. hyper's servers take as many at a time.
const MOST_CALLS: u32 = 200;

pub(super) struct Screen {
    permits: Permits,
    frames: Frames,
    /// Blocks of headers that have ended.
    blocks: usize,
    http2: Http2,
    tape: Tape,
    /// Kept because h2 resets a stream whose handles are dropped, and then treats its next frames as errors. Their headers are dropped: one byte of a block can
    /// become a header of 72 bytes.
    requests: Vec<(RecvStream, SendResponse<Bytes>)>,
    seen: usize,
}

enum Http2 {
    Preface(Pin<Box<Handshake<Tape, Bytes>>>),
    Open(Box<Connection<Tape, Bytes>>),
    Broken,
}

impl Screen {
    pub(super) fn new(permits: Permits) -> Self {
        let tape = Tape::default();
        // Wider than a configured server, because a frame that this one refuses stops the lane. Only streams are bounded: each costs memory, and comes
        // from a caller that has proved nothing.
        let handshake = h2::server::Builder::new()
            .max_frame_size((1 << 24) - 1)
            .max_concurrent_streams(MOST_CALLS)
            .handshake(tape.clone());
        Self {
            permits,
            frames: Frames::of_client(),
            blocks: 0,
            http2: Http2::Preface(Box::pin(handshake)),
            tape,
            requests: Vec::new(),
            seen: 0,
        }
    }

    /// How many of these bytes, which follow those of the last call, may be served. If fewer than all, the rest and everything after it waits for the
    /// handshake, and the screen needs no further bytes.
    pub(super) fn pass(&mut self, bytes: &[u8]) -> usize {
        let mut passed = 0;
        while passed < bytes.len() {
            let (part, ended) = self.frames.next_part(&bytes[passed..]);
            self.blocks += usize::from(ended.is_some_and(Head::ends_block));
            let part = &bytes[passed..][..part];
            self.seen += part.len();
            self.tape.lock().extend_from_slice(part);
            if self.seen > MOST || !self.is_permitted() {
                self.http2 = Http2::Broken;
                self.requests = Vec::new();
                break;
            }
            passed += part.len();
        }
        passed
    }

    /// Whether everything read so far belongs to calls of listed methods.
    fn is_permitted(&mut self) -> bool {
        // Nothing wakes this: all that can be read is on the tape.
        let mut cx = Context::from_waker(Waker::noop());
        loop {
            match &mut self.http2 {
                Http2::Preface(handshake) => match handshake.as_mut().poll(&mut cx) {
                    Poll::Ready(Ok(connection)) => self.http2 = Http2::Open(Box::new(connection)),
                    Poll::Ready(Err(_)) => return false,
                    Poll::Pending => break,
                },
                Http2::Open(connection) => match connection.poll_accept(&mut cx) {
                    Poll::Ready(Some(Ok((request, respond)))) => {
                        if !(self.permits)(request.uri().path()) {
                            return false;
                        }
                        self.requests.push((request.into_body(), respond));
                    }
                    Poll::Ready(Some(Err(_)) | None) => return false,
                    Poll::Pending => break,
                },
                Http2::Broken => return false,
            }
        }
        self.requests.len() == self.blocks
    }
}

impl fmt::Debug for Screen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Screen")
            .field("seen", &self.seen)
            .field("calls", &self.requests.len())
            .finish_non_exhaustive()
    }
}

/// The bytes that were received and not read. Bytes that are written are discarded.
#[derive(Clone, Default)]
struct Tape(Arc<Mutex<BytesMut>>);

impl Tape {
    fn lock(&self) -> std::sync::MutexGuard<'_, BytesMut> {
        lock(&self.0)
    }
}

impl AsyncRead for Tape {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let mut bytes = self.lock();
        if bytes.is_empty() {
            // `pass` polls after it has appended.
            return Poll::Pending;
        }
        let read = bytes.len().min(buf.remaining());
        buf.put_slice(&bytes[..read]);
        bytes.advance(read);
        Poll::Ready(Ok(()))
    }
}

impl AsyncWrite for Tape {
    fn poll_write(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Poll::Ready(Ok(buf.len()))
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
pub(in crate::quic::io) mod tests;

//! Follows the frames of a server's HTTP/2 connection: counts the calls in flight, watches the peer's conduct, and tells the client to go elsewhere.
//!
//! tonic owns the HTTP/2 connection, so this reads the nine-byte heads of the frames as they pass. It needs no layer around the services, and a server
//! cannot forget it. A quiet watch is a call in flight like any other: bytes alone would not tell.

use std::{
    io::{self, IoSlice},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use futures_util::task::AtomicWaker;
use tokio::{io::AsyncWrite, time::Instant};

use super::{
    conduct::Conduct,
    frames::{Frames, Head, PREFACE},
};
use crate::{
    peer::PeerInfo,
    pool::{OpenConnection, Refusals, Stage},
};

/// What a server's side of one HTTP/2 connection sees of its bytes.
#[derive(Debug)]
pub(crate) struct Observer {
    connection: Arc<OpenConnection>,
    conduct: Conduct,
    waker: Arc<AtomicWaker>,
    reads: Frames,
    writes: Frames,
    /// Bytes of the preface that have come.
    preface: usize,
    /// HTTP/1.1 has no frames: its connection counts as one call.
    is_http1: bool,
    /// The streams of the calls in flight, in ascending order. `max_concurrent_streams` of tonic's server bounds them, which has no bound by itself.
    open: Vec<u32>,
    /// The last stream that the client opened.
    last: u32,
    /// The server's preface, or a block of headers, must not be interrupted.
    may_interrupt: bool,
    told: Told,
    /// A frame to be sent before the server's next.
    out: Vec<u8>,
}

/// What the client has been told.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Told {
    Nothing,
    /// To begin no further call.
    Leave,
    /// Which calls were not begun. The server itself may say so too.
    Last,
}

/// The stream id that stands for any.
const ANY: u32 = (1 << 31) - 1;

impl Observer {
    pub(crate) fn new(connection: Arc<OpenConnection>, refusals: Arc<Refusals>) -> Self {
        Self {
            conduct: Conduct::new(refusals),
            waker: connection.woken(),
            connection,
            reads: Frames::of_client(),
            writes: Frames::default(),
            preface: 0,
            is_http1: false,
            open: Vec::new(),
            last: 0,
            may_interrupt: false,
            told: Told::Nothing,
            out: Vec::new(),
        }
    }

    /// The client's next bytes. False if a call begins with them and the connection is shut: then the server must not get them.
    ///
    /// # Errors
    /// If the peer sends more than it may of what carries nothing. The connection must end.
    pub(crate) fn read(
        &mut self,
        now: impl FnOnce() -> std::time::Instant,
        peer: &PeerInfo,
        bytes: &[u8],
    ) -> io::Result<bool> {
        if self.is_http1 {
            return Ok(true);
        }
        if self.preface < PREFACE.len() {
            let expected = &PREFACE[self.preface..];
            let came = &bytes[..bytes.len().min(expected.len())];
            if !expected.starts_with(came) {
                self.is_http1 = true;
                self.open.push(0);
                return Ok(self.connection.begin());
            }
            self.preface += came.len();
        }
        let mut at = 0;
        while at < bytes.len() {
            let (part, ended) = self.reads.next_part(&bytes[at..]);
            at += part;
            let Some(head) = ended else { continue };
            self.conduct.came(head);
            match head.kind {
                // A lower number is an old call's trailers.
                Head::HEADERS if head.stream > self.last => {
                    if !self.connection.begin() {
                        return Ok(false);
                    }
                    self.last = head.stream;
                    self.open.push(head.stream);
                }
                Head::RST_STREAM => self.end(head.stream),
                _ => {}
            }
        }
        self.conduct.settle(now, peer)?;
        Ok(true)
    }

    /// Looks at the first `bytes` of what the server has sent. Returns true once: when a handler has served a call.
    pub(crate) fn wrote(&mut self, peer: &PeerInfo, slices: &[IoSlice<'_>], bytes: usize) -> bool {
        if self.is_http1 {
            return false;
        }
        self.conduct.sent(bytes);
        let (mut left, mut served) = (bytes, false);
        for slice in slices {
            let (mut rest, _) = slice.split_at(left.min(slice.len()));
            left -= rest.len();
            while !rest.is_empty() {
                let (part, ended) = self.writes.next_part(rest);
                rest = &rest[part..];
                let Some(head) = ended else { continue };
                served |= self.conduct.answered(head, peer);
                self.may_interrupt = !head.is_block() || head.ends_block();
                if head.kind == Head::RST_STREAM || head.ends_stream() {
                    self.end(head.stream);
                } else if head.kind == Head::GOAWAY {
                    // A second one from here could contradict it.
                    self.told = Told::Last;
                }
            }
        }
        // A frame may be larger than what a peer may leave unread before a handler has served it.
        served || (self.writes.is_within(Head::DATA) && self.conduct.is_served())
    }

    /// Counts what a peer has done, and names the peer in the log.
    pub(crate) fn blame(&self, peer: &PeerInfo, reason: &str) {
        self.conduct.blame(peer, reason);
    }

    fn end(&mut self, stream: u32) {
        if let Ok(at) = self.open.binary_search(&stream) {
            self.open.remove(at);
            self.connection.end(1, Instant::now());
        }
    }

    /// To be asked when there is nothing to read: whether the server must see the end of the connection. Wakes the reader when the answer changes.
    pub(crate) fn is_shut(&mut self, cx: &Context<'_>) -> bool {
        self.waker.register(cx.waker());
        self.look() == Stage::Shut
    }

    /// Prepares what the client is to be told.
    fn look(&mut self) -> Stage {
        let stage = self.connection.stage();
        let (told, last) = match stage {
            Stage::Open => return stage,
            Stage::Leaving => (Told::Leave, ANY),
            Stage::Shut => (Told::Last, self.last),
        };
        if self.told < told && !self.is_http1 {
            self.told = told;
            self.out.extend_from_slice(&goaway(last));
        }
        stage
    }

    /// Sends what the client is to be told, if it may be sent now. Ready with how many bytes that were. Not ready: then the server must not send either.
    pub(crate) fn poll_tell<S: AsyncWrite + Unpin>(
        &mut self,
        cx: &mut Context<'_>,
        stream: &mut S,
    ) -> Poll<io::Result<usize>> {
        let mut told = 0;
        while self.has_news() && self.may_interrupt && self.writes.is_between() {
            let bytes = ready!(Pin::new(&mut *stream).poll_write(cx, &self.out))?;
            self.out.drain(..bytes);
            told += bytes;
        }
        Poll::Ready(Ok(told))
    }

    /// Whether something waits to be told.
    pub(crate) fn has_news(&self) -> bool {
        !self.out.is_empty()
    }

    /// How many of the server's next bytes may be sent now: not beyond the end of a frame while something waits to be said.
    pub(crate) fn within_frame(&self, bytes: &[u8]) -> usize {
        if !self.has_news() {
            return bytes.len();
        }
        let mut frames = self.writes.clone();
        frames.next_part(bytes).0
    }
}

impl Drop for Observer {
    fn drop(&mut self) {
        self.connection.end(self.open.len(), Instant::now());
    }
}

/// GOAWAY without an error: RFC 9113, section 6.8.
fn goaway(last: u32) -> [u8; 17] {
    let mut frame = [0; 17];
    frame[2] = 8;
    frame[3] = Head::GOAWAY;
    frame[9..13].copy_from_slice(&last.to_be_bytes());
    frame
}

#[cfg(test)]
mod tests;

//! Follows the frames of a server's HTTP/2 connection: counts the calls in flight, and tells the client to go elsewhere.
//!
//! tonic owns the HTTP/2 connection, so this reads the nine-byte heads of the frames as they pass. It needs no layer around the services, and a server
//! cannot forget it. A quiet watch is a call in flight like any other: bytes alone would not tell.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use futures_util::task::AtomicWaker;
use tokio::{io::AsyncWrite, time::Instant};

use super::frames::{Frames, Head, PREFACE};
use crate::pool::{OpenConnection, Stage};

/// What a server's side of one HTTP/2 connection sees of its bytes.
#[derive(Debug)]
pub(crate) struct Observer {
    connection: Arc<OpenConnection>,
    waker: Arc<AtomicWaker>,
    reads: Frames,
    writes: Frames,
    /// Bytes of the preface that have come.
    preface: usize,
    /// HTTP/1.1 has no frames: its connection counts as one call.
    is_http1: bool,
    /// The streams of the calls in flight, in ascending order. HTTP/2 servers bound them.
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
    pub(crate) fn new(connection: Arc<OpenConnection>) -> Self {
        Self {
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
    pub(crate) fn read(&mut self, bytes: &[u8]) -> bool {
        if self.is_http1 {
            return true;
        }
        if self.preface < PREFACE.len() {
            let expected = &PREFACE[self.preface..];
            let came = &bytes[..bytes.len().min(expected.len())];
            if !expected.starts_with(came) {
                self.is_http1 = true;
                self.open.push(0);
                return self.connection.begin();
            }
            self.preface += came.len();
        }
        let mut at = 0;
        while at < bytes.len() {
            let (part, ended) = self.reads.next_part(&bytes[at..]);
            at += part;
            match ended {
                // A lower number is an old call's trailers.
                Some(head) if head.kind == Head::HEADERS && head.stream > self.last => {
                    if !self.connection.begin() {
                        return false;
                    }
                    self.last = head.stream;
                    self.open.push(head.stream);
                }
                Some(head) if head.kind == Head::RST_STREAM => self.end(head.stream),
                _ => {}
            }
        }
        true
    }

    /// Bytes that the server has sent.
    pub(crate) fn wrote(&mut self, bytes: &[u8]) {
        if self.is_http1 {
            return;
        }
        let mut at = 0;
        while at < bytes.len() {
            let (part, ended) = self.writes.next_part(&bytes[at..]);
            at += part;
            let Some(head) = ended else { continue };
            self.may_interrupt = !head.is_block() || head.ends_block();
            if head.kind == Head::RST_STREAM || head.ends_stream() {
                self.end(head.stream);
            } else if head.kind == Head::GOAWAY {
                // A second one from here could contradict it.
                self.told = Told::Last;
            }
        }
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
mod tests {
    use std::task::Waker;

    use crate::pool::Why;

    use super::*;

    const END_STREAM: u8 = 1;
    const END_HEADERS: u8 = 4;
    const SETTINGS: u8 = 4;
    const CONTINUATION: u8 = 9;

    fn frame(kind: u8, flags: u8, stream: u32) -> Vec<u8> {
        let mut frame = vec![0, 0, 3, kind, flags];
        frame.extend_from_slice(&stream.to_be_bytes());
        frame.extend_from_slice(b"abc");
        frame
    }

    fn call(stream: u32) -> Vec<u8> {
        frame(Head::HEADERS, END_HEADERS, stream)
    }

    /// An observer that has seen the preface of the client.
    fn observer() -> (Arc<OpenConnection>, Observer) {
        let connection = OpenConnection::new(Instant::now());
        let mut observer = Observer::new(connection.clone());
        for byte in PREFACE {
            assert!(observer.read(&[*byte]));
        }
        assert!(observer.read(&frame(SETTINGS, 0, 0)));
        (connection, observer)
    }

    /// What is said now.
    fn said(observer: &mut Observer) -> Vec<u8> {
        let mut cx = Context::from_waker(Waker::noop());
        observer.is_shut(&cx);
        let mut sent = Vec::new();
        let told = observer.poll_tell(&mut cx, &mut sent);
        assert!(matches!(told, Poll::Ready(Ok(bytes)) if bytes == sent.len()));
        sent
    }

    #[test]
    fn a_call_is_in_flight_from_its_headers_to_its_end_from_either_side() {
        let (connection, mut observer) = observer();
        for stream in [1, 3, 5, 7] {
            assert!(observer.read(&call(stream)));
        }
        assert_eq!(connection.calls(), 4);
        observer.read(&frame(Head::DATA, END_STREAM, 1));
        observer.read(&frame(Head::HEADERS, END_HEADERS | END_STREAM, 3));
        assert_eq!(connection.calls(), 4, "the client's end is not the call's");
        for (flags, stream, left) in [(0, 1, 4), (END_STREAM, 1, 3), (END_STREAM, 1, 3)] {
            observer.wrote(&frame(Head::DATA, flags, stream));
            assert_eq!(connection.calls(), left);
        }
        observer.wrote(&frame(Head::HEADERS, END_HEADERS | END_STREAM, 3));
        observer.wrote(&frame(Head::RST_STREAM, 0, 5));
        observer.read(&frame(Head::RST_STREAM, 0, 5));
        assert_eq!(connection.calls(), 1);
        drop(observer);
        assert_eq!(connection.calls(), 0);
    }

    #[test]
    fn the_client_is_told_between_frames_and_once() {
        let (connection, mut observer) = observer();
        connection.leave();
        assert!(said(&mut observer).is_empty(), "SETTINGS come first");
        observer.wrote(&frame(SETTINGS, 0, 0));
        observer.wrote(&frame(Head::HEADERS, 0, 1));
        assert!(said(&mut observer).is_empty(), "in a block of headers");
        let rest = frame(CONTINUATION, END_HEADERS, 1);
        let two = [rest.clone(), rest.clone()].concat();
        assert_eq!(observer.within_frame(&two), rest.len());
        observer.wrote(&rest[..5]);
        assert!(said(&mut observer).is_empty(), "in a frame");
        observer.wrote(&rest[5..]);
        assert_eq!(said(&mut observer), goaway(ANY));
        assert!(said(&mut observer).is_empty());
        assert_eq!(observer.within_frame(&two), two.len());
        assert!(observer.read(&call(1)), "it was on its way");
        observer.wrote(&frame(Head::RST_STREAM, 0, 1));
        assert!(connection.shut_unused(Why::Idle));
        assert!(!observer.read(&call(3)), "it is not begun");
        assert_eq!(said(&mut observer), goaway(1));
    }

    #[test]
    fn a_server_that_says_goodbye_itself_is_not_contradicted() {
        let (connection, mut observer) = observer();
        observer.wrote(&frame(SETTINGS, 0, 0));
        observer.wrote(&goaway(0));
        assert!(connection.shut_unused(Why::Evicted));
        assert!(said(&mut observer).is_empty());
    }

    #[test]
    fn http1_counts_as_a_call() {
        let connection = OpenConnection::new(Instant::now());
        let mut observer = Observer::new(connection.clone());
        assert!(observer.read(b"P"));
        assert_eq!(connection.calls(), 0);
        assert!(observer.read(b"OST / HTTP/1.1\r\n"));
        assert_eq!(connection.calls(), 1);
        connection.leave();
        assert!(said(&mut observer).is_empty());
    }
}

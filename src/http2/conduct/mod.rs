//! Follows what the two sides of a server's HTTP/2 connection do: whether a handler answers, and whether the peer breaks the rules.
//!
//! tonic owns the connection and logs neither, so this reads the heads of the frames that pass. h2 itself ends a connection whose peer breaks the protocol or
//! resets calls faster than they can be served. What h2 answers without end, such as pings, has a budget here.

use std::{
    io::{self, IoSlice},
    sync::Arc,
    time::Instant,
};

use crate::{peer::PeerInfo, pool::Refusals};

mod heads;

use heads::{Head, Heads, PREFACE};

/// How many frames that carry nothing a peer may send at once, and how many more for each second, each call, and each byte that it gets. A call may be
/// reset, and a client with small windows sends an update for every few kilobytes.
const BURST: f64 = 10_000.0;
const EACH_SECOND: f64 = 1_000.0;
const EACH_CALL: f64 = 2.0;
const EACH_BYTE: f64 = 1.0 / 1024.0;

/// One HTTP/2 connection, from the server's side.
#[derive(Debug)]
pub(crate) struct Conduct {
    refusals: Arc<Refusals>,
    /// `None` where the peer speaks HTTP/1.1.
    came: Option<Heads>,
    /// Bytes of the preface that have come.
    preface: usize,
    wrote: Heads,
    budget: Budget,
    /// Whether a handler has served a call of it.
    serves: bool,
}

impl Conduct {
    pub(crate) fn new(refusals: Arc<Refusals>) -> Self {
        Self {
            refusals,
            came: Some(Heads::of_client()),
            preface: 0,
            wrote: Heads::of_server(),
            budget: Budget::new(Instant::now()),
            serves: false,
        }
    }

    /// Counts bytes that the peer has sent.
    ///
    /// # Errors
    /// If too many frames that carry nothing came. The connection must end.
    pub(crate) fn came(&mut self, now: Instant, peer: &PeerInfo, bytes: &[u8]) -> io::Result<()> {
        let expected = &PREFACE[self.preface..];
        let begins = &bytes[..bytes.len().min(expected.len())];
        self.preface += begins.len();
        if !expected.starts_with(begins) {
            self.came = None;
        }
        let Some(heads) = &mut self.came else {
            return Ok(());
        };
        let (mut calls, mut idle) = (0, 0);
        heads.feed(bytes, |head| {
            calls += u32::from(head.kind == Head::HEADERS);
            idle += u32::from(carries_nothing(head));
        });
        self.budget.earn(EACH_CALL * f64::from(calls));
        if idle == 0 || self.budget.spend(now, idle) {
            return Ok(());
        }
        let reason = "more frames without content than a connection may send";
        self.blame(peer, reason);
        Err(io::Error::new(io::ErrorKind::InvalidData, reason))
    }

    /// Looks at the first `bytes` of what the server has written. Returns true once: when a handler has served a call.
    pub(crate) fn wrote(&mut self, peer: &PeerInfo, slices: &[IoSlice<'_>], bytes: usize) -> bool {
        if self.came.is_none() {
            return false;
        }
        self.budget.earn(EACH_BYTE * bytes as f64);
        let (mut left, mut code, mut served) = (bytes, None, false);
        for slice in slices {
            let (part, _) = slice.split_at(left.min(slice.len()));
            left -= part.len();
            self.wrote.feed(part, |head| {
                served |= shows_a_handler(head);
                if head.kind == Head::GOAWAY {
                    code = head.code.filter(|code| *code != 0);
                }
            });
        }
        if let Some(code) = code {
            self.blame(peer, &h2::Reason::from(code).to_string());
        }
        served && !std::mem::replace(&mut self.serves, true)
    }

    /// Counts what a peer has done, and names the peer in the log.
    pub(crate) fn blame(&self, peer: &PeerInfo, reason: &str) {
        self.refusals.add("abuse", |suppressed| {
            let id = peer.id().map(|id| id.fmt_short().to_string());
            tracing::warn!(
                peer = id.as_deref().unwrap_or("unknown"),
                path = ?peer.path(),
                reason,
                suppressed,
                "ended an HTTP/2 connection: its peer broke the rules"
            );
        });
    }
}

/// Frames that cost the server work and bring no part of a call.
fn carries_nothing(head: Head) -> bool {
    match head.kind {
        Head::HEADERS => false,
        Head::DATA => head.len == 0 && head.flags & END_STREAM == 0,
        // Blocks of headers have a limit of their own.
        Head::CONTINUATION => false,
        _ => true,
    }
}

const END_STREAM: u8 = 1;

/// A message of a response, or room for more of a request whose body is being read. A server that refuses a call sends neither.
fn shows_a_handler(head: Head) -> bool {
    match head.kind {
        Head::DATA => head.len > 0,
        Head::WINDOW_UPDATE => head.stream != 0,
        _ => false,
    }
}

/// A burst, and what comes back of it with time. Pure: it is told the time.
#[derive(Debug)]
struct Budget {
    left: f64,
    at: Instant,
}

impl Budget {
    fn new(now: Instant) -> Self {
        Self {
            left: BURST,
            at: now,
        }
    }

    fn earn(&mut self, frames: f64) {
        self.left = (self.left + frames).min(BURST);
    }

    /// Whether the budget has that much.
    fn spend(&mut self, now: Instant, frames: u32) -> bool {
        let passed = now.saturating_duration_since(self.at);
        self.at = now;
        self.earn(passed.as_secs_f64() * EACH_SECOND);
        self.left -= f64::from(frames);
        self.left >= 0.0
    }
}

#[cfg(test)]
mod tests;

//! What the peer of a server's HTTP/2 connection does, frame by frame: whether a handler answers it, and whether it breaks the rules.
//!
//! h2 itself ends a connection whose peer breaks the protocol or resets calls faster than they can be served, and names nobody. What h2 answers without end,
//! such as pings, has a budget here.

use std::{io, sync::Arc, time::Instant};

use super::Head;
use crate::{peer::PeerInfo, pool::Refusals};

/// How many frames that carry nothing a peer may send at once, and how many more for each second, each call, each frame of messages either way, and each byte
/// that it gets. A call may be reset, a client with small windows sends an update for every few kilobytes, and gRPC's clients of other makers send an update and
/// a PING, which measures their windows, for each message of a stream.
const BURST: f64 = 10_000.0;
const EACH_SECOND: f64 = 1_000.0;
const EACH_CALL: f64 = 2.0;
const EACH_MESSAGE: f64 = 4.0;
const EACH_BYTE: f64 = 1.0 / 1024.0;

/// The peer's conduct on one connection.
#[derive(Debug)]
pub(super) struct Conduct {
    refusals: Arc<Refusals>,
    budget: Budget,
    /// Frames without content that came since the last look at the budget.
    idle: u32,
    /// Whether a handler has served a call of the connection.
    serves: bool,
}

impl Conduct {
    pub(super) fn new(refusals: Arc<Refusals>) -> Self {
        Self {
            refusals,
            budget: Budget::new(Instant::now()),
            idle: 0,
            serves: false,
        }
    }

    /// Counts a frame that the peer has sent.
    pub(super) fn came(&mut self, head: Head) {
        match head.kind {
            Head::HEADERS => self.budget.earn(EACH_CALL),
            Head::DATA if !head.is_empty => self.budget.earn(EACH_MESSAGE),
            _ => {}
        }
        self.idle += u32::from(carries_nothing(head));
    }

    /// Pays for the frames that came. Asks for the time only if there is something to pay.
    ///
    /// # Errors
    /// If too many of them carry nothing. The connection must end.
    pub(super) fn settle(
        &mut self,
        now: impl FnOnce() -> Instant,
        peer: &PeerInfo,
    ) -> io::Result<()> {
        let idle = std::mem::take(&mut self.idle);
        if idle == 0 || self.budget.spend(now(), idle) {
            return Ok(());
        }
        let reason = "more frames without content than a connection may send";
        self.blame(peer, reason);
        Err(io::Error::new(io::ErrorKind::InvalidData, reason))
    }

    /// Counts bytes that the server has sent.
    pub(super) fn sent(&mut self, bytes: usize) {
        self.budget.earn(EACH_BYTE * bytes as f64);
    }

    /// Looks at a frame that the server has sent. Returns true once: when a handler has served a call.
    pub(super) fn answered(&mut self, head: Head, peer: &PeerInfo) -> bool {
        if let Some(reason) = head.code.map(h2::Reason::from).filter(is_the_peer_s) {
            self.blame(peer, &reason.to_string());
        }
        if head.kind == Head::DATA && !head.is_empty {
            self.budget.earn(EACH_MESSAGE);
        }
        shows_a_handler(head) && self.is_served()
    }

    /// A handler has served a call. Returns whether that is news.
    pub(super) fn is_served(&mut self) -> bool {
        !std::mem::replace(&mut self.serves, true)
    }

    /// Counts what a peer has done, and names the peer in the log.
    pub(super) fn blame(&self, peer: &PeerInfo, reason: &str) {
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

/// Whether a GOAWAY's error is the peer's doing: RFC 9113, section 7.
fn is_the_peer_s(reason: &h2::Reason) -> bool {
    use h2::Reason;
    [
        Reason::PROTOCOL_ERROR,
        Reason::FLOW_CONTROL_ERROR,
        Reason::STREAM_CLOSED,
        Reason::FRAME_SIZE_ERROR,
        Reason::COMPRESSION_ERROR,
        Reason::ENHANCE_YOUR_CALM,
    ]
    .contains(reason)
}

/// Frames that cost the server work and bring no part of a call.
fn carries_nothing(head: Head) -> bool {
    match head.kind {
        Head::HEADERS => false,
        Head::DATA => head.is_empty && !head.ends_stream(),
        // Blocks of headers have a limit of their own.
        Head::CONTINUATION => false,
        _ => true,
    }
}

/// A message of a response, or room for more of a request whose body is being read. A server that refuses a call sends neither.
fn shows_a_handler(head: Head) -> bool {
    match head.kind {
        Head::DATA => !head.is_empty,
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

//! What the connections of one link have seen, for whoever owns the link.

use std::{
    io,
    sync::{
        OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio_util::sync::CancellationToken;

use super::{error, refusal::Heard};
use crate::error::{Error, ErrorKind};

/// Shared by a link and its lanes.
#[derive(Debug)]
pub(super) struct LinkHealth {
    sent: AtomicU64,
    received: AtomicU64,
    /// The peer has taken a connection of these.
    alive: AtomicBool,
    /// It has said that it takes none.
    refused: AtomicBool,
    /// Microseconds, smoothed.
    rtt: AtomicU64,
    /// The last one's, 0 before the first.
    ping: AtomicU64,
    /// Why no further call may begin. The first reason counts, what follows are its consequences.
    end: OnceLock<Error>,
    /// Cancelled with the first lane that ends: its link takes no further call, and those on other lanes go on.
    over: CancellationToken,
    /// Cancelled when all lanes are to end at once.
    closed: CancellationToken,
}

impl LinkHealth {
    /// Of a peer whose first answer took `rtt`.
    pub(super) fn new(rtt: Duration) -> Self {
        Self {
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            alive: AtomicBool::new(false),
            refused: AtomicBool::new(false),
            rtt: AtomicU64::new(micros(rtt)),
            ping: AtomicU64::new(0),
            end: OnceLock::new(),
            over: CancellationToken::new(),
            closed: CancellationToken::new(),
        }
    }

    pub(super) fn sent(&self, bytes: usize) {
        self.sent.fetch_add(bytes as u64, Relaxed);
    }

    pub(super) fn received(&self, bytes: usize) {
        self.received.fetch_add(bytes as u64, Relaxed);
    }

    /// The bytes sent and received, within TLS.
    pub(super) fn bytes(&self) -> (u64, u64) {
        (self.sent.load(Relaxed), self.received.load(Relaxed))
    }

    /// What a connection's first bytes say.
    pub(super) fn heard(&self, heard: Heard) {
        match heard {
            Heard::NotYet => {}
            Heard::Welcome => self.alive.store(true, Relaxed),
            Heard::Refusal(reason, said) => {
                self.refused.store(true, Relaxed);
                self.end(error::refusal(reason, &said));
            }
        }
    }

    /// Whether the peer has taken any connection. That a handshake was complete does not say so.
    pub(super) fn alive(&self) -> bool {
        self.alive.load(Relaxed)
    }

    /// Whether it has said that it takes none.
    pub(super) fn refused(&self) -> bool {
        self.refused.load(Relaxed)
    }

    /// The peer has finished a lane.
    pub(super) fn finished(&self) {
        self.end(Error::new(
            ErrorKind::Lost,
            "the peer closed the connection",
        ));
    }

    /// A lane is broken.
    pub(super) fn failed(&self, error: &io::Error) {
        self.end(error::lost(error));
    }

    pub(super) fn end(&self, why: Error) {
        let _ = self.end.set(why);
        self.over.cancel();
    }

    /// Ends all lanes, with all that is on them.
    pub(super) fn close(&self, why: Error) {
        self.end(why);
        self.closed.cancel();
    }

    pub(super) fn why(&self) -> Option<&Error> {
        self.end.get()
    }

    pub(super) fn is_over(&self) -> bool {
        self.over.is_cancelled()
    }

    /// Resolves with the first lane's end.
    pub(super) async fn over(&self) {
        self.over.cancelled().await;
    }

    pub(super) fn closing(&self) -> CancellationToken {
        self.closed.clone()
    }

    /// A ping has been answered. Smoothed as TCP does it, by an eighth (RFC 6298, section 2).
    pub(super) fn answered(&self, took: Duration) {
        let took = micros(took);
        self.ping.store(took, Relaxed);
        let smooth = |rtt| Some(rtt - rtt / 8 + took / 8);
        let _ = self.rtt.fetch_update(Relaxed, Relaxed, smooth);
    }

    pub(super) fn rtt(&self) -> Duration {
        Duration::from_micros(self.rtt.load(Relaxed))
    }

    pub(super) fn ping(&self) -> Option<Duration> {
        let micros = self.ping.load(Relaxed);
        (micros > 0).then(|| Duration::from_micros(micros))
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros())
        .unwrap_or(u64::MAX / 2)
        .max(1)
}

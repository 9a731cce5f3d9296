//! What is known of one TCP connection, and of all those of one link together.

use std::{
    io,
    ops::Deref,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{error, refusal::Heard};
use crate::{
    error::{Error, ErrorKind},
    http2::{Gate, REOPENING},
    lock::lock,
    pool::Backoff,
};

/// What the connections of one link have in common. The link is over when the last of them has ended.
#[derive(Debug)]
pub(super) struct LinkHealth {
    sent: AtomicU64,
    received: AtomicU64,
    /// Microseconds, smoothed.
    rtt: AtomicU64,
    /// The last one's, 0 before the first.
    ping: AtomicU64,
    /// Asks every connection to ping its peer now.
    suspect: Notify,
    /// The peer has taken a connection of these.
    alive: AtomicBool,
    open: AtomicUsize,
    /// When a further connection may be made after one that failed or was refused, and why that one was.
    pace: Mutex<(Backoff, Option<Error>)>,
    /// Why no further call may begin.
    end: OnceLock<Error>,
    gate: Gate,
    over: CancellationToken,
    /// Cancelled when all connections are to end at once.
    closed: CancellationToken,
}

impl LinkHealth {
    /// Of a peer whose first answer took `rtt`. `gate` lets calls in until the link is over.
    pub(super) fn new(rtt: Duration, gate: Gate) -> Arc<Self> {
        Arc::new(Self {
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            rtt: AtomicU64::new(micros(rtt)),
            ping: AtomicU64::new(0),
            suspect: Notify::new(),
            alive: AtomicBool::new(false),
            open: AtomicUsize::new(0),
            pace: Mutex::new((Backoff::new(REOPENING), None)),
            end: OnceLock::new(),
            gate,
            over: CancellationToken::new(),
            closed: CancellationToken::new(),
        })
    }

    /// One more connection.
    pub(super) fn connection(self: &Arc<Self>) -> Watched {
        self.open.fetch_add(1, Ordering::AcqRel);
        Watched(Arc::new(ConnectionHealth {
            link: self.clone(),
            alive: AtomicBool::new(false),
            refused: AtomicBool::new(false),
            end: OnceLock::new(),
            closed: self.closed.child_token(),
        }))
    }

    /// The bytes sent and received, within TLS.
    pub(super) fn bytes(&self) -> (u64, u64) {
        (self.sent.load(Relaxed), self.received.load(Relaxed))
    }

    /// Whether the peer has taken any connection. That a handshake was complete does not say so.
    pub(super) fn alive(&self) -> bool {
        self.alive.load(Relaxed)
    }

    /// Whether a further connection is due.
    ///
    /// # Errors
    /// Why the last one failed, while it is not.
    pub(super) fn due(&self) -> Result<(), Error> {
        match &*lock(&self.pace) {
            (backoff, Some(last)) => match backoff.wait(Instant::now()) {
                Some(wait) => Err(Error::backoff(wait, last)),
                None => Ok(()),
            },
            _ => Ok(()),
        }
    }

    /// A further connection has failed, or was refused.
    pub(super) fn failed(&self, error: &Error) {
        let mut pace = lock(&self.pace);
        pace.0.failed(Instant::now(), rand::random());
        pace.1 = Some(error.clone());
    }

    /// Ends all connections, with all that is on them.
    pub(super) fn close(&self, why: Error) {
        let _ = self.end.set(why);
        self.shut();
        self.closed.cancel();
    }

    /// No further call begins on the link.
    fn shut(&self) {
        self.gate.close();
        self.over.cancel();
    }

    /// One connection has ended, for this reason where it was not we who dropped it.
    fn ended(&self, why: Option<&Error>) {
        if self.open.fetch_sub(1, Ordering::AcqRel) == 1 {
            if let Some(why) = why {
                let _ = self.end.set(why.clone());
            }
            self.shut();
        }
    }

    pub(super) fn why(&self) -> Option<&Error> {
        self.end.get()
    }

    /// Resolves when no further call may begin.
    pub(super) async fn over(&self) {
        self.over.cancelled().await;
    }

    /// What was sent has no answer: pings the peer on each connection, to tell a peer that is gone from one that is slow.
    pub(super) fn suspect(&self) {
        self.suspect.notify_waiters();
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

/// What is true of one connection.
#[derive(Debug)]
pub struct ConnectionHealth {
    link: Arc<LinkHealth>,
    /// The peer has taken it.
    alive: AtomicBool,
    /// The peer has said that it does not take it.
    refused: AtomicBool,
    /// Why it ended. The first reason counts, what follows are its consequences.
    end: OnceLock<Error>,
    closed: CancellationToken,
}

impl ConnectionHealth {
    pub(super) fn sent(&self, bytes: usize) {
        self.link.sent.fetch_add(bytes as u64, Relaxed);
    }

    pub(super) fn received(&self, bytes: usize) {
        self.link.received.fetch_add(bytes as u64, Relaxed);
    }

    /// What the connection's first bytes say.
    pub(super) fn heard(&self, heard: Heard) {
        match heard {
            Heard::NotYet => {}
            Heard::Welcome => {
                self.alive.store(true, Relaxed);
                self.link.alive.store(true, Relaxed);
                lock(&self.link.pace).0.reset();
            }
            Heard::Refusal(reason, said) => {
                self.refused.store(true, Relaxed);
                self.end(error::refusal(reason, &said));
                // Whoever shuts down takes no other connection either.
                if reason == h2::Reason::NO_ERROR {
                    self.link.shut();
                }
            }
        }
    }

    /// Whether the peer has taken it. That the handshake was complete does not say so.
    pub(super) fn alive(&self) -> bool {
        self.alive.load(Relaxed)
    }

    /// Whether the peer has said that it does not take it.
    pub(super) fn refused(&self) -> bool {
        self.refused.load(Relaxed)
    }

    /// The peer has finished it.
    pub(super) fn finished(&self) {
        self.end(Error::new(
            ErrorKind::Lost,
            "the peer closed the connection",
        ));
    }

    /// It is broken.
    pub(super) fn failed(&self, error: &io::Error) {
        self.end(error::lost(error));
    }

    /// Ends it, with all that is on it.
    pub(super) fn close(&self, why: Error) {
        self.end(why);
        self.closed.cancel();
    }

    fn end(&self, why: Error) {
        // What is closed with the whole link has that reason.
        let closed = self.link.closed.is_cancelled();
        let why = self.link.why().filter(|_| closed).cloned().unwrap_or(why);
        if self.end.set(why.clone()).is_ok() {
            if !closed && !self.alive() {
                self.link.failed(&why);
            }
            self.link.ended(Some(&why));
        }
    }

    pub(super) fn why(&self) -> Option<&Error> {
        self.end.get()
    }

    pub(super) fn closing(&self) -> CancellationToken {
        self.closed.clone()
    }

    pub(super) fn answered(&self, took: Duration) {
        self.link.answered(took);
    }

    /// Resolves when a ping is asked for.
    pub(super) async fn suspected(&self) {
        self.link.suspect.notified().await;
    }
}

/// The connection itself has this: when it is dropped, the connection has ended.
#[derive(Debug)]
pub(super) struct Watched(Arc<ConnectionHealth>);

impl Deref for Watched {
    type Target = Arc<ConnectionHealth>;

    fn deref(&self) -> &Arc<ConnectionHealth> {
        &self.0
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        let closed = Error::new(ErrorKind::Closed, "the connection was closed on this side");
        if self.end.set(closed).is_ok() {
            self.link.ended(None);
        }
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros())
        .unwrap_or(u64::MAX / 2)
        .max(1)
}

//! Second copies of small writes, for paths that lose packets.
//!
//! A lane is an ordered stream: a lost packet delays everything after it until it is sent again, at least
//! a round trip. So while a connection loses packets, small writes of urgent lanes are sent again as QUIC datagrams,
//! twice, a few milliseconds later. The peer's reader uses whichever arrives first. No call can run
//! twice: copies are of the bytes beneath HTTP/2, and each byte of a stream is read once.
//!
//! [`Copies`] belongs to a connection, [`LaneCopies`] to a lane. A peer may ignore the datagrams
//! (`docs/wire.md`, `docs/decisions/second-copies.md`).

use std::{
    collections::{HashMap, hash_map::Entry},
    convert::Infallible,
    future::pending,
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::{Duration, Instant as StdInstant},
};

use bytes::Bytes;
use iroh::endpoint::{Connection, RecvStream, SendStream};
use tokio::{
    io::ReadBuf,
    sync::Notify,
    time::{Instant, sleep_until},
};

use crate::{lock::lock, wire::StreamCopy};

#[cfg(any(test, fuzzing))]
pub(super) mod fuzzing;
mod loss_history;
mod reader;
mod schedule;
mod store;

pub(crate) use loss_history::LossSample;

use loss_history::LossHistory;
use reader::{Inbox, Reader};
use schedule::CopySchedule;

/// The largest write that is copied, in bytes. With its header it fits into one datagram on any path that QUIC supports.
const LARGEST: usize = 1000;
/// How many datagrams are read in one go.
const BATCH: usize = 16;

/// The copies of one connection. Clones share.
#[derive(Clone, Debug)]
pub(crate) struct Copies {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    /// Microseconds between copies; zero while none are sent, so that a write reads only this.
    delay: AtomicU64,
    history: Mutex<LossHistory>,
    schedule: Mutex<CopySchedule>,
    /// Notified when a new copy is due before all others.
    sooner: Notify,
    inboxes: Mutex<HashMap<u64, Arc<Inbox>>>,
    sent: AtomicU64,
    used: AtomicU64,
}

impl Copies {
    pub(crate) fn new() -> Self {
        Self {
            shared: Arc::new(Shared {
                delay: AtomicU64::new(0),
                history: Mutex::default(),
                schedule: Mutex::new(CopySchedule::new(Instant::now())),
                sooner: Notify::new(),
                inboxes: Mutex::default(),
                sent: AtomicU64::new(0),
                used: AtomicU64::new(0),
            }),
        }
    }

    /// How many copies were sent, and how many were received and read ahead of their stream.
    pub(crate) fn counts(&self) -> (u64, u64) {
        (
            self.shared.sent.load(Relaxed),
            self.shared.used.load(Relaxed),
        )
    }

    /// Decides from a sample of the path whether copies are sent.
    pub(crate) fn follow(&self, sample: LossSample) {
        let delay = lock(&self.shared.history).update(StdInstant::now(), sample);
        let micros = delay.map_or(0, |delay| u64::try_from(delay.as_micros()).unwrap_or(0));
        self.shared.delay.store(micros, Relaxed);
    }

    /// The copies of one lane, of which `read` bytes have been read and nothing has been written. The peer's copies are used; copies of
    /// this side's writes are sent if `sends`.
    pub(crate) fn lane(&self, stream: &SendStream, read: u64, sends: bool) -> LaneCopies {
        let reader = Reader::new(read);
        let stream = u64::from(stream.id());
        lock(&self.shared.inboxes).insert(stream, reader.inbox().clone());
        LaneCopies {
            shared: self.shared.clone(),
            stream,
            reader,
            sends,
            written: 0,
        }
    }

    /// Sends the copies that are due and delivers those that arrive, as long as it is polled. Cancel safe.
    pub(crate) async fn run(&self, connection: &Connection) -> Infallible {
        let mut received = [const { Bytes::new() }; BATCH];
        loop {
            let next = lock(&self.shared.schedule).next();
            let due = async {
                match next {
                    Some(due) => sleep_until(due).await,
                    None => pending().await,
                }
            };
            tokio::select! {
                read = connection.read_many_datagrams(&mut received) => match read {
                    Ok(count) => {
                        for datagram in &mut received[..count] {
                            self.hand_out(std::mem::take(datagram));
                        }
                    }
                    // The connection is closed; its owner notices that elsewhere.
                    Err(_) => pending().await,
                },
                () = due => self.send_due(connection),
                () = self.shared.sooner.notified() => {}
            }
            // A peer may send faster than this reads.
            tokio::task::consume_budget().await;
        }
    }

    fn hand_out(&self, datagram: Bytes) {
        let Some(copy) = StreamCopy::decode(datagram) else {
            return;
        };
        let inbox = lock(&self.shared.inboxes).get(&copy.stream).cloned();
        if let Some(inbox) = inbox {
            inbox.leave(copy.offset, &copy.bytes);
        }
    }

    fn send_due(&self, connection: &Connection) {
        let now = Instant::now();
        loop {
            let due = lock(&self.shared.schedule).due(now);
            let Some(copy) = due else {
                return;
            };
            // This fails if the peer takes no datagrams or the connection is gone. The stream works without copies.
            if connection.send_datagram(copy).is_ok() {
                self.shared.sent.fetch_add(1, Relaxed);
            }
        }
    }
}

/// The copies of one lane, in both directions. Dropping it discards the copies kept for its reader.
#[derive(Debug)]
pub(crate) struct LaneCopies {
    shared: Arc<Shared>,
    stream: u64,
    reader: Reader,
    sends: bool,
    written: u64,
}

impl LaneCopies {
    /// Whether a write of this size is copied now.
    pub(crate) fn wanted(&self, bytes: usize) -> bool {
        self.sends && bytes <= LARGEST && self.shared.delay.load(Relaxed) > 0
    }

    /// Counts bytes that the stream has accepted, and schedules copies of `copied`.
    pub(crate) fn wrote(&mut self, bytes: usize, copied: Option<&[u8]>) {
        let offset = self.written;
        self.written += bytes as u64;
        if let Some(copied) = copied
            && !copied.is_empty()
        {
            let delay = Duration::from_micros(self.shared.delay.load(Relaxed));
            let sooner = lock(&self.shared.schedule).plan(
                Instant::now(),
                delay,
                (self.stream, offset),
                copied,
            );
            if sooner {
                self.shared.sooner.notify_one();
            }
        }
    }

    /// Reads the stream, and the peer's copies while the stream has no bytes.
    pub(crate) fn poll_read(
        &mut self,
        stream: &mut RecvStream,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.reader.poll_read(stream, cx, buf, &self.shared.used)
    }
}

impl Drop for LaneCopies {
    fn drop(&mut self) {
        let mut inboxes = lock(&self.shared.inboxes);
        // A stream that was opened after early data was rejected has the id of one from before.
        if let Entry::Occupied(entry) = inboxes.entry(self.stream)
            && Arc::ptr_eq(entry.get(), self.reader.inbox())
        {
            entry.remove();
        }
    }
}

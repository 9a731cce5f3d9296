//! Tells a connection's owner what the readers of its lanes do.

use std::{
    io,
    sync::{
        Arc, Mutex, OnceLock, Weak,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use iroh::endpoint::{ReadError, VarInt, WriteError};
use tokio::{sync::Notify, time::timeout};

use crate::lock::lock;

/// The state of one lane's reader.
#[derive(Debug, Default)]
pub struct Activity {
    /// The last read found nothing: the reader has taken every byte that has arrived.
    waiting: AtomicBool,
    /// Bytes read.
    read: AtomicU64,
    connection: Arc<ConnectionActivity>,
    /// The code with which the peer ended the stream, if any.
    code: OnceLock<VarInt>,
}

/// What all lanes of a connection have in common.
#[derive(Debug, Default)]
struct ConnectionActivity {
    /// Set with the first byte that any lane receives.
    alive: AtomicBool,
    /// A handler has served a call of the peer's.
    served: AtomicBool,
    serves: Notify,
    /// Bytes written until then.
    wrote: AtomicU64,
    /// The connection's owner rests.
    rests: AtomicBool,
    /// Bytes read and written since it does.
    moved: AtomicUsize,
    stirred: Notify,
}

impl ConnectionActivity {
    fn moved(&self, bytes: usize) {
        if self.rests.load(Relaxed)
            && self.moved.fetch_add(bytes, Relaxed).saturating_add(bytes) >= STIRS
            && self.rests.swap(false, Relaxed)
        {
            self.stirred.notify_one();
        }
    }
}

/// How many bytes end an owner's rest: more than a few pings.
const STIRS: usize = 256;

impl Activity {
    pub(super) fn waits(&self) {
        self.waiting.store(true, Relaxed);
    }

    pub(super) fn read(&self, bytes: usize) {
        self.waiting.store(false, Relaxed);
        if self.read.fetch_add(bytes as u64, Relaxed) == 0 {
            self.connection.alive.store(true, Relaxed);
        }
        self.connection.moved(bytes);
    }

    pub(super) fn wrote(&self, bytes: usize) {
        self.connection.moved(bytes);
    }

    /// Counts what is written to a peer that no handler has served yet. Returns the sum on all lanes.
    pub(super) fn wrote_to_stranger(&self, bytes: usize) -> Option<u64> {
        if self.connection.served.load(Relaxed) {
            return None;
        }
        let before = self.connection.wrote.fetch_add(bytes as u64, Relaxed);
        Some(before + bytes as u64)
    }

    /// A handler has served a call of the peer's.
    pub(super) fn served(&self) {
        if !self.connection.served.swap(true, Relaxed) {
            self.connection.serves.notify_one();
        }
    }

    pub(super) fn fail(&self, error: &io::Error) {
        // Unread bytes are gone with the stream.
        self.waits();
        let source = error.get_ref();
        let reset = source.and_then(|source| match source.downcast_ref() {
            Some(ReadError::Reset(code)) => Some(*code),
            _ => None,
        });
        let stopped = source.and_then(|source| match source.downcast_ref() {
            Some(WriteError::Stopped(code)) => Some(*code),
            _ => None,
        });
        if let Some(code) = reset.or(stopped) {
            // The first code is the peer's reason, a later one a consequence.
            let _ = self.code.set(code);
        }
    }

    /// The code with which the peer reset or stopped the stream.
    pub(crate) fn code(&self) -> Option<VarInt> {
        self.code.get().copied()
    }
}

/// A lane, and how many bytes it had read at the last look.
type Lane = (Weak<Activity>, u64);

/// What the lanes have done since the last look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Looked {
    /// How many lanes have had unread bytes since then.
    pub(crate) stalled: u64,
    /// Bytes read.
    pub(crate) read: u64,
}

/// The lanes of one connection. Clones share.
#[derive(Clone, Debug, Default)]
pub(crate) struct Activities {
    lanes: Arc<Mutex<Vec<Lane>>>,
    connection: Arc<ConnectionActivity>,
}

impl Activities {
    pub(super) fn add(&self) -> Arc<Activity> {
        let activity = Arc::new(Activity {
            connection: self.connection.clone(),
            ..Activity::default()
        });
        self.lock().push((Arc::downgrade(&activity), 0));
        activity
    }

    /// Whether any lane has ever received a byte.
    pub(crate) fn alive(&self) -> bool {
        self.connection.alive.load(Relaxed)
    }

    /// Waits until more moves on the lanes than a few pings, at most so long. A byte that moves as the wait begins may be overlooked. Cancel safe.
    pub(crate) async fn stirred(&self, most: Duration) {
        let connection = &self.connection;
        connection.moved.store(0, Relaxed);
        connection.rests.store(true, Relaxed);
        let _ = timeout(most, connection.stirred.notified()).await;
        connection.rests.store(false, Relaxed);
    }

    /// Whether a handler has served a call of the peer's.
    pub(crate) fn is_served(&self) -> bool {
        self.connection.served.load(Relaxed)
    }

    /// Waits until the first call is served. Only one may wait, and it is told once. Cancel safe.
    pub(crate) async fn first_served(&self) {
        self.connection.serves.notified().await;
    }

    /// Looks at all lanes.
    pub(crate) fn look(&self) -> Looked {
        let mut looked = Looked::default();
        self.lock().retain_mut(|(activity, seen)| {
            let Some(activity) = activity.upgrade() else {
                return false;
            };
            let read = activity.read.load(Relaxed);
            if !activity.waiting.load(Relaxed) && read == *seen {
                looked.stalled += 1;
            }
            looked.read += read - *seen;
            *seen = read;
            true
        });
        looked
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<Lane>> {
        lock(&self.lanes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_stalls_when_bytes_wait_for_its_reader_twice_in_a_row() {
        let lanes = Activities::default();
        let lane = lanes.add();
        assert_eq!(lanes.look().stalled, 1, "nobody has looked at it yet");
        lane.waits();
        assert_eq!(lanes.look().stalled, 0, "it waits for bytes");
        assert!(!lanes.alive());
        lane.read(1);
        assert!(lanes.alive());
        assert_eq!(lanes.look().stalled, 0, "it read since");
        assert_eq!(lanes.look().stalled, 1, "it has not come back for more");
        lane.read(1);
        assert_eq!(lanes.look().stalled, 0);
        drop(lane);
        assert_eq!(lanes.look().stalled, 0, "a lane that is gone holds nothing");
    }

    #[tokio::test(start_paused = true)]
    async fn an_owner_rests_until_more_than_pings_move() {
        const MOST: Duration = Duration::from_secs(60);
        let lanes = Activities::default();
        let lane = lanes.add();
        let rest = async |lanes: &Activities, moves: &[usize]| {
            let began = tokio::time::Instant::now();
            let mut rest = std::pin::pin!(lanes.stirred(MOST));
            assert!(futures_util::poll!(rest.as_mut()).is_pending());
            for bytes in moves {
                lane.read(*bytes);
                lane.wrote(*bytes);
            }
            rest.await;
            began.elapsed()
        };
        // Nothing that moved while nobody rested counts.
        lane.read(5000);
        assert_eq!(rest(&lanes, &[]).await, MOST);
        assert_eq!(rest(&lanes, &[11, 11, 11]).await, MOST, "three pings");
        assert_eq!(rest(&lanes, &[200]).await, Duration::ZERO);
        assert_eq!(rest(&lanes, &[11]).await, MOST);
    }
}

//! Tells a connection's owner what the readers of its lanes do.

use std::{
    io,
    sync::{
        Arc, Mutex, OnceLock, Weak,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use iroh::endpoint::{ReadError, VarInt, WriteError};

use crate::lock::lock;

/// The state of one lane's reader.
#[derive(Debug, Default)]
pub struct Activity {
    /// The last read found nothing: the reader has taken every byte that has arrived.
    waiting: AtomicBool,
    reads: AtomicU64,
    /// Set with the first byte that any lane of the connection receives.
    alive: Arc<AtomicBool>,
    /// The code with which the peer ended the stream, if any.
    code: OnceLock<VarInt>,
}

impl Activity {
    pub(super) fn waits(&self) {
        self.waiting.store(true, Relaxed);
    }

    pub(super) fn read(&self) {
        self.waiting.store(false, Relaxed);
        if self.reads.fetch_add(1, Relaxed) == 0 {
            self.alive.store(true, Relaxed);
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

/// A lane, and its number of reads at the last look.
type Lane = (Weak<Activity>, u64);

/// The lanes of one connection. Clones share.
#[derive(Clone, Debug, Default)]
pub(crate) struct Activities {
    lanes: Arc<Mutex<Vec<Lane>>>,
    alive: Arc<AtomicBool>,
}

impl Activities {
    pub(super) fn add(&self) -> Arc<Activity> {
        let activity = Arc::new(Activity {
            alive: self.alive.clone(),
            ..Activity::default()
        });
        self.lock().push((Arc::downgrade(&activity), 0));
        activity
    }

    /// Whether any lane has ever received a byte.
    pub(crate) fn alive(&self) -> bool {
        self.alive.load(Relaxed)
    }

    /// How many lanes have had unread bytes since the last look.
    pub(crate) fn stalled(&self) -> u64 {
        let mut stalled = 0;
        self.lock().retain_mut(|(activity, seen)| {
            let Some(activity) = activity.upgrade() else {
                return false;
            };
            let reads = activity.reads.load(Relaxed);
            if !activity.waiting.load(Relaxed) && reads == *seen {
                stalled += 1;
            }
            *seen = reads;
            true
        });
        stalled
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
        assert_eq!(lanes.stalled(), 1, "nobody has looked at it yet");
        lane.waits();
        assert_eq!(lanes.stalled(), 0, "it waits for bytes");
        assert!(!lanes.alive());
        lane.read();
        assert!(lanes.alive());
        assert_eq!(lanes.stalled(), 0, "it read since");
        assert_eq!(lanes.stalled(), 1, "it has not come back for more");
        lane.read();
        assert_eq!(lanes.stalled(), 0);
        drop(lane);
        assert_eq!(lanes.stalled(), 0, "a lane that is gone holds nothing");
    }
}

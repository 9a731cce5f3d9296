use std::{fmt, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{BufferReason, shared::Shared};

/// A look into one buffer from outside, and a hand on it. Clones are the same handle; it keeps no driver alive.
#[derive(Clone)]
pub struct BufferHandle(Arc<dyn Control>);

/// A buffer's accounts at one moment.
///
/// `accepted = delivered + failed + expired + dropped + cancelled + in_flight + waiting`, always. A call counts from the first poll of its
/// future, and counts once, however often it is put back. Calls that pass by are not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BufferStats {
    /// Calls that were let in: into the queue, or past the empty queue to the peer.
    pub accepted: u64,
    /// Calls whose answer came while the caller was there. What a response's body says later does not count.
    pub delivered: u64,
    /// Calls that ended in an error from below, or whose answer's head says that they failed. Those too that came back when there had
    /// been no room to hold them.
    pub failed: u64,
    /// Calls whose time to live or deadline was over while they waited or when they came back.
    pub expired: u64,
    /// Calls that made room for another, or were cleared.
    pub dropped: u64,
    /// Calls whose caller left.
    pub cancelled: u64,
    /// Calls that were handed over and have not come to an end.
    pub in_flight: u64,
    /// Calls that wait.
    pub waiting: usize,
    /// Bytes of the messages that wait.
    pub bytes: usize,
    /// Calls that would have had to wait and were refused; they are not among those accepted.
    pub rejected: u64,
    /// How often a call was handed over.
    pub attempts: u64,
    /// How long the oldest call has waited.
    pub oldest: Option<Duration>,
}

/// What a handle can do, whatever the response is.
trait Control: Send + Sync {
    fn stats(&self) -> BufferStats;
    fn flush(&self);
    fn clear(&self, why: String) -> usize;
}

impl<R: Send> Control for Shared<R> {
    fn stats(&self) -> BufferStats {
        Self::stats(self)
    }

    fn flush(&self) {
        let now = Instant::now();
        self.with(|state| {
            state.pace.hurry(now);
            state.queue.hurry();
        });
        self.changed.notify_one();
    }

    fn clear(&self, why: String) -> usize {
        Self::clear(self, || BufferReason::Cleared { why: why.clone() })
    }
}

impl BufferHandle {
    pub(super) fn new<R: Send + 'static>(shared: Arc<Shared<R>>) -> Self {
        Self(shared)
    }

    /// The accounts now.
    pub fn stats(&self) -> BufferStats {
        self.0.stats()
    }

    /// Says that now is a good time: ends the waits after failed deliveries. A service below that is not ready is waited for still.
    pub fn flush(&self) {
        self.0.flush();
    }

    /// Ends all calls that wait with UNAVAILABLE and the reason `why`, and says how many. Those in flight go on.
    pub fn clear(&self, why: impl Into<String>) -> usize {
        self.0.clear(why.into())
    }
}

impl fmt::Debug for BufferHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("BufferHandle").field(&self.stats()).finish()
    }
}

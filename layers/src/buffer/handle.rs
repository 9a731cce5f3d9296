use std::{fmt, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{BufferReason, shared::Shared};

/// Reads and controls one buffer from outside. Clones are the same handle; it keeps no driver alive.
#[derive(Clone)]
pub struct BufferHandle(Arc<dyn Control>);

/// A buffer's accounts at one moment.
///
/// `accepted = delivered + failed + expired + dropped + cancelled + in_flight + waiting`, always. A call counts from the first poll of its
/// future, and only once, however often it is put back. Calls that pass by are not counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct BufferStats {
    /// Calls that were admitted: into the queue, or past the empty queue to the peer.
    pub accepted: u64,
    /// Calls whose answer came while the caller was there. A later status in the response's body does not count.
    pub delivered: u64,
    /// Calls that ended in an error from below, or whose answer's head reports a failure. Includes calls that came back and had not been
    /// held for lack of capacity.
    pub failed: u64,
    /// Calls whose time to live or deadline was over while they waited or when they came back.
    pub expired: u64,
    /// Calls that were dropped for another call, or cleared.
    pub dropped: u64,
    /// Calls whose caller left.
    pub cancelled: u64,
    /// Calls that were handed over and have not ended.
    pub in_flight: u64,
    /// Calls that wait.
    pub waiting: usize,
    /// Bytes of the waiting messages.
    pub bytes: usize,
    /// Calls that would have had to wait and were refused; `accepted` does not include them.
    pub rejected: u64,
    /// How often calls were handed over.
    pub attempts: u64,
    /// How long the oldest call has waited.
    pub oldest: Option<Duration>,
}

/// The operations of a handle, for any response type.
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

    /// Ends the waits after failed deliveries, so that the next try is now. Still waits for a service below that is not ready.
    pub fn flush(&self) {
        self.0.flush();
    }

    /// Ends all waiting calls with UNAVAILABLE and the reason `why`, and returns their number. Calls in flight go on.
    pub fn clear(&self, why: impl Into<String>) -> usize {
        self.0.clear(why.into())
    }
}

impl fmt::Debug for BufferHandle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("BufferHandle").field(&self.stats()).finish()
    }
}

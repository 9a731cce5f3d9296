//! Who uses a connection: a count, and when it was last above zero.

use std::{
    ops::Deref,
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::{sync::Notify, time::Instant};

/// Notified when a connection falls unused while a dial waits for a slot.
#[derive(Debug, Default)]
pub(super) struct Freed {
    pub(super) waiting: AtomicUsize,
    pub(super) notify: Notify,
}

/// Counts a dial that waits for a slot.
pub(super) struct Waiting<'a>(&'a Freed);

impl<'a> Waiting<'a> {
    pub(super) fn new(freed: &'a Freed) -> Self {
        freed.waiting.fetch_add(1, Ordering::SeqCst);
        Self(freed)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        // Another may wait for the news that this one was given and has no use for any more.
        if self.0.waiting.fetch_sub(1, Ordering::SeqCst) > 1 {
            self.0.notify.notify_one();
        }
    }
}

/// How much a connection is used. Clones count together.
#[derive(Clone, Debug)]
pub struct Uses(Arc<Count>);

#[derive(Debug)]
struct Count {
    open: AtomicUsize,
    total: AtomicU64,
    since: Instant,
    /// Microseconds after `since`.
    last: AtomicU64,
    freed: Arc<Freed>,
    /// Set with the first who waits for [`Uses::unused`].
    is_awaited: AtomicBool,
    unused: Notify,
    /// Tells the ones that sleep in `used` that a use has begun, and how many sleep.
    begun: Notify,
    sleeping: AtomicUsize,
}

impl Uses {
    pub(super) fn new(freed: Arc<Freed>) -> Self {
        Self(Arc::new(Count {
            open: AtomicUsize::new(0),
            total: AtomicU64::new(0),
            since: Instant::now(),
            last: AtomicU64::new(0),
            freed,
            is_awaited: AtomicBool::new(false),
            unused: Notify::new(),
            begun: Notify::new(),
            sleeping: AtomicUsize::new(0),
        }))
    }

    /// The count of another connection to the same peer.
    pub(crate) fn another(&self) -> Self {
        Self::new(self.0.freed.clone())
    }

    /// How many use it now.
    pub(crate) fn open(&self) -> usize {
        self.0.open.load(Ordering::SeqCst)
    }

    /// Waits until nobody uses it. Cancel safe.
    pub(super) async fn unused(&self) {
        let Self(count) = self;
        count.is_awaited.store(true, Ordering::SeqCst);
        loop {
            let mut unused = pin!(count.unused.notified());
            unused.as_mut().enable();
            if self.open() == 0 {
                return;
            }
            unused.await;
        }
    }

    /// Waits until a use begins, if there is none. Cancel safe.
    pub(crate) async fn used(&self) {
        let Self(count) = self;
        let mut begun = pin!(count.begun.notified());
        begun.as_mut().enable();
        let _sleeping = Sleeping::new(&count.sleeping);
        // In one order with a use that counts itself and then looks whether anybody sleeps: one of the two sees the other.
        if self.open() == 0 {
            begun.await;
        }
    }

    /// How many have used it, those included that do.
    pub(crate) fn total(&self) -> u64 {
        self.0.total.load(Ordering::Relaxed)
    }

    /// When a use last began or ended.
    pub(crate) fn last(&self) -> Instant {
        self.0.since + Duration::from_micros(self.0.last.load(Ordering::Relaxed))
    }
}

impl Count {
    fn touch(&self) {
        let micros = self.since.elapsed().as_micros();
        self.last
            .store(u64::try_from(micros).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

/// Counts a future that waits for a use.
struct Sleeping<'a>(&'a AtomicUsize);

impl<'a> Sleeping<'a> {
    fn new(sleeping: &'a AtomicUsize) -> Self {
        sleeping.fetch_add(1, Ordering::SeqCst);
        Self(sleeping)
    }
}

impl Drop for Sleeping<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Something that counts its uses.
pub trait Used {
    /// The count.
    fn uses(&self) -> &Uses;
}

/// One use of a connection; it keeps the connection, and counts until it is dropped.
#[derive(Debug)]
pub(crate) struct Use<C: ?Sized> {
    // Before the connection: the last use of one that is out of the pool ends with it.
    _counted: Counted,
    connection: Arc<C>,
}

/// A use of a connection over whichever transport.
pub(crate) type AnyUse = Use<dyn Send + Sync>;

impl<C: Used> Use<C> {
    pub(super) fn new(connection: Arc<C>) -> Self {
        Self {
            _counted: Counted::new(connection.uses()),
            connection,
        }
    }

    /// The connection itself, to be compared or asked after this use.
    pub(crate) fn connection(&self) -> &Arc<C> {
        &self.connection
    }
}

impl<C: Send + Sync + 'static> From<Use<C>> for AnyUse {
    fn from(used: Use<C>) -> Self {
        Self {
            _counted: used._counted,
            connection: used.connection,
        }
    }
}

impl<C> Deref for Use<C> {
    type Target = C;

    fn deref(&self) -> &C {
        &self.connection
    }
}

#[derive(Debug)]
struct Counted(Uses);

impl Counted {
    fn new(uses: &Uses) -> Self {
        let Uses(count) = uses;
        let first = count.open.fetch_add(1, Ordering::SeqCst) == 0;
        if first && count.sleeping.load(Ordering::SeqCst) > 0 {
            count.begun.notify_waiters();
        }
        count.total.fetch_add(1, Ordering::Relaxed);
        count.touch();
        Self(uses.clone())
    }
}

impl Drop for Counted {
    fn drop(&mut self) {
        let Uses(count) = &self.0;
        count.touch();
        // In one order with a dial that says it waits and then looks whether anybody is unused: one of the two sees the other.
        let last = count.open.fetch_sub(1, Ordering::SeqCst) == 1;
        if last && count.freed.waiting.load(Ordering::SeqCst) > 0 {
            count.freed.notify.notify_one();
        }
        if last && count.is_awaited.load(Ordering::SeqCst) {
            count.unused.notify_waiters();
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio_test::{assert_pending, assert_ready, task};

    use super::*;

    #[tokio::test]
    async fn a_sleeper_wakes_with_the_first_use_alone() {
        let uses = Uses::new(Arc::default());
        let mut sleepers = [task::spawn(uses.used()), task::spawn(uses.used())];
        for sleeper in &mut sleepers {
            assert_pending!(sleeper.poll());
        }
        let first = Counted::new(&uses);
        for sleeper in &mut sleepers {
            assert!(sleeper.is_woken());
            assert_ready!(sleeper.poll());
        }
        assert_ready!(task::spawn(uses.used()).poll(), "it is in use");
        drop((first, sleepers));
        let mut sleeper = task::spawn(uses.used());
        assert_pending!(sleeper.poll());
        drop(sleeper);
        assert_eq!(uses.0.sleeping.load(Ordering::SeqCst), 0);
    }
}

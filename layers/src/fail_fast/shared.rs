use std::sync::{
    Arc, LazyLock,
    atomic::{AtomicU8, Ordering},
};

use tokio::{runtime::Handle, time::Instant};
use tower::Service;

use super::{FailFastConfig, FailedFast, meter::Meter, not_ready_since::NotReadySince};
use crate::{hidden::Hidden, mutex::Mutex, watcher::Watcher};

/// No service waits.
const CALM: u8 = 0;
/// A service waits.
const WAITING: u8 = 1;
/// Calls fail, and the task watches for readiness.
const FAILING: u8 = 2;

/// What the clones of a service share.
pub(super) struct Shared {
    config: FailFastConfig,
    /// Written under the lock only.
    phase: AtomicU8,
    inside: Mutex<Inside>,
    meter: LazyLock<Meter>,
}

#[derive(Default)]
struct Inside {
    not_ready_since: NotReadySince,
    /// Since when no service was ready, while calls fail.
    failing_since: Option<Instant>,
    watcher: Option<Watcher>,
}

impl Shared {
    pub(super) fn new(config: FailFastConfig) -> Self {
        Self {
            config,
            phase: AtomicU8::new(CALM),
            inside: Mutex::default(),
            meter: Meter::new(),
        }
    }

    fn settle(&self, inside: &Inside) {
        let phase = match (inside.failing_since, inside.not_ready_since.is_over()) {
            (Some(_), _) => FAILING,
            (None, false) => WAITING,
            (None, true) => CALM,
        };
        self.phase.store(phase, Ordering::Release);
    }

    pub(super) fn is_disabled(&self) -> bool {
        self.config.disabled
    }

    pub(super) fn is_failing(&self) -> bool {
        self.phase.load(Ordering::Acquire) == FAILING
    }

    /// Since when no service was ready, while calls fail.
    pub(super) fn failing_since(&self) -> Option<Instant> {
        self.inside.lock().failing_since
    }

    /// The error of a call that fails.
    pub(super) fn refusal(&self, since: Instant, now: Instant) -> FailedFast {
        self.meter.refused.increment(1);
        let reason = self.config.reason.as_ref().map(|Hidden(reason)| reason());
        FailedFast::new(now.saturating_duration_since(since), reason)
    }

    /// The inner service is not ready. Returns when that will have lasted too long.
    pub(super) fn not_ready(&self, now: Instant, waits: &mut bool) -> Instant {
        let mut inside = self.inside.lock();
        if !std::mem::replace(waits, true) {
            inside.not_ready_since.come();
        }
        let until = inside.not_ready_since.not_ready(now, self.config.wait);
        self.settle(&inside);
        until
    }

    /// The inner service is ready. One load if no service waits.
    pub(super) fn ready(&self, now: impl FnOnce() -> Instant, waits: &mut bool) {
        if self.phase.load(Ordering::Relaxed) == CALM && !*waits {
            return;
        }
        let mut inside = self.inside.lock();
        if std::mem::take(waits) {
            inside.not_ready_since.go();
        }
        inside.not_ready_since.ready(now());
        self.settle(&inside);
    }

    /// A service no longer waits, if it did.
    pub(super) fn leave(&self, waits: &mut bool) {
        if std::mem::take(waits) {
            let mut inside = self.inside.lock();
            inside.not_ready_since.go();
            self.settle(&inside);
        }
    }

    /// Makes calls fail if no service has been ready for long enough, and watches for readiness on `inner` meanwhile.
    pub(super) fn fail<S, Req>(self: &Arc<Self>, now: Instant, inner: &S)
    where
        S: Service<Req> + Clone + Send + 'static,
        Req: 'static,
    {
        let mut inside = self.inside.lock();
        if inside.failing_since.is_some() {
            return;
        }
        let Some(since) = inside.not_ready_since.lasted(now, self.config.wait) else {
            return;
        };
        // Without a runtime this panics, so it comes before anything has changed.
        let runtime = Handle::current();
        inside.failing_since = Some(since);
        self.settle(&inside);
        drop(inside);
        self.meter.failing.increment(1.0);
        // It does not keep the state. However it ends, calls do not fail for ever.
        let shared = Arc::downgrade(self);
        let watcher = Watcher::start(&runtime, inner, move |_| {
            if let Some(shared) = shared.upgrade() {
                shared.recovered();
            }
        });
        let mut inside = self.inside.lock();
        if inside.failing_since == Some(since) {
            inside.watcher = Some(watcher);
        }
    }

    fn recovered(&self) {
        let mut inside = self.inside.lock();
        inside.watcher = None;
        inside.not_ready_since.ready(Instant::now());
        if inside.failing_since.take().is_some() {
            self.meter.failing.decrement(1.0);
        }
        self.settle(&inside);
    }
}

impl Drop for Shared {
    fn drop(&mut self) {
        if self.inside.lock().failing_since.is_some() {
            self.meter.failing.decrement(1.0);
        }
    }
}

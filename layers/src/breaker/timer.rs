//! Rings when a circuit's time has come, on each runtime with a waiter.

use std::{
    future::Future,
    pin::Pin,
    sync::{
        Arc, Weak,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, Wake, Waker},
};

use tokio::{
    runtime::{self, Handle},
    time::{Instant, Sleep, sleep_until},
};

/// What is woken.
pub(super) trait OnTime: Send + Sync + 'static {
    fn on_time(&self);
}

/// A timer belongs to a runtime: it does not ring while nothing drives the runtime, and panics when it is polled after its end. So each
/// runtime has its own.
pub(super) struct Timers<R>(Vec<Timer<R>>);

struct Timer<R> {
    runtime: runtime::Id,
    sleep: Pin<Box<Sleep>>,
    alarm: Arc<Alarm<R>>,
}

/// What a timer wakes. It does not keep the circuit.
struct Alarm<R> {
    /// Its time has come, or its runtime ends, which makes all of its timers ring.
    rang: AtomicBool,
    whom: Weak<R>,
}

impl<R: OnTime> Wake for Alarm<R> {
    fn wake(self: Arc<Self>) {
        self.rang.store(true, Ordering::Release);
        if let Some(whom) = self.whom.upgrade() {
            whom.on_time();
        }
    }
}

impl<R: OnTime> Timers<R> {
    pub(super) fn new() -> Self {
        Self(Vec::new())
    }

    /// Makes it ring at `until` on this runtime, and at no other time on any. Returns whether `until` has passed.
    pub(super) fn arm(&mut self, until: Instant, whom: &Arc<R>) -> bool {
        let runtime = Handle::current().id();
        // Another time is an earlier one's, and all who waited for it were woken; so were they by one that rang, and it may have rung
        // because its runtime is gone.
        self.0
            .retain(|timer| timer.sleep.deadline() == until && !timer.has_rung());
        let ours = self.0.iter().position(|timer| timer.runtime == runtime);
        let ours = ours.unwrap_or_else(|| {
            let alarm = Alarm {
                rang: AtomicBool::new(false),
                whom: Arc::downgrade(whom),
            };
            self.0.push(Timer {
                runtime,
                sleep: Box::pin(sleep_until(until)),
                alarm: Arc::new(alarm),
            });
            self.0.len() - 1
        });
        self.0[ours].poll_over().is_ready()
    }

    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

impl<R: OnTime> Timer<R> {
    fn has_rung(&self) -> bool {
        self.alarm.rang.load(Ordering::Acquire)
    }

    fn poll_over(&mut self) -> Poll<()> {
        let alarm = Waker::from(self.alarm.clone());
        self.sleep.as_mut().poll(&mut Context::from_waker(&alarm))
    }
}

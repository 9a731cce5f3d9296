//! Watches arms that are away, so that their return is noticed without a call that has to try.

use std::sync::Arc;

use tokio::{runtime::Handle, time::Instant};
use tower::Service;

use super::{Arm, shared::Shared};
use crate::watcher::Watcher;

/// Owned by the services, and not by handles: the last of the clones ends the tasks.
pub(super) struct Watch {
    /// Here, so that a clone of a service is one reference less.
    pub(super) shared: Arc<Shared>,
}

impl Watch {
    /// An arm is not ready: a task waits for it from now on. Without a runtime there is none, and those who call look for themselves.
    pub(super) fn not_ready<S, Req>(&self, arm: Arm, now: Instant, service: &S)
    where
        S: Service<Req> + Clone + Send + 'static,
        Req: 'static,
    {
        let core = &self.shared.core;
        let runtime = Handle::try_current();
        let number = core.arms.not_ready(arm, now, runtime.is_ok());
        if let (Ok(runtime), Some(number)) = (runtime, number) {
            let shared = core.clone();
            let task = Watcher::start(&runtime, service, move |was_ready| {
                shared.arms.watch_ended(arm, number, was_ready);
            });
            core.arms.watch_began(arm, number, task);
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.shared.core.arms.unwatch();
    }
}

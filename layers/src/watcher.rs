//! A task that waits for a service, so that its readiness is noticed without a call that has to try.

use std::future::poll_fn;

use tokio::{runtime::Handle, task::AbortHandle};
use tower::Service;

/// Owns the task: dropping it ends the task.
pub(crate) struct Watcher(AbortHandle);

impl Watcher {
    /// Waits for a clone of `service` on `runtime`. `ended` is called however that ends, also where the clone panics: with true if the service was ready, or failed to become so, which
    /// the next caller finds out; with false if the task panicked, or ended with its runtime or its owner. Must not be called under a lock that
    /// `ended` takes: a runtime that shuts down drops the task at once.
    pub(crate) fn start<S, Req>(
        runtime: &Handle,
        service: &S,
        ended: impl FnOnce(bool) + Send + 'static,
    ) -> Self
    where
        S: Service<Req> + Clone + Send + 'static,
        Req: 'static,
    {
        let mut end = End(Some(ended));
        let mut service = service.clone();
        let task = runtime.spawn(async move {
            let _ = poll_fn(|cx| service.poll_ready(cx)).await;
            // First, so that the capacity it reserved by being ready is free for the next caller.
            drop(service);
            end.tell(true);
        });
        Self(task.abort_handle())
    }
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct End<F: FnOnce(bool)>(Option<F>);

impl<F: FnOnce(bool)> End<F> {
    fn tell(&mut self, was_ready: bool) {
        if let Some(ended) = self.0.take() {
            ended(was_ready);
        }
    }
}

impl<F: FnOnce(bool)> Drop for End<F> {
    fn drop(&mut self) {
        self.tell(false);
    }
}

//! The task that sends batches, one at a time. It belongs to those who wait: it begins with the first item and ends with the last.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::Arc,
    task::{Poll, ready},
};

use tokio::{runtime::Handle, sync::oneshot, time::sleep_until};
use tower::Service;

use super::{
    error::BatchError,
    shared::{Answer, Shared, Step, Waiting},
};
use crate::BoxError;

/// Starts the worker on the runtime of the task that asks for it. Where there is none, all that wait are told so.
pub(super) fn start<S, T, R>(shared: &Arc<Shared<T, R>>, template: &S)
where
    S: Service<Vec<T>, Response = Vec<R>> + Clone + Send + 'static,
    S::Future: Send,
    S::Error: Into<BoxError>,
    T: Send + 'static,
    R: Send + 'static,
{
    let worker = Worker {
        alive: Alive(Some(shared.clone())),
        shared: shared.clone(),
        template: template.clone(),
    };
    match Handle::try_current() {
        Ok(runtime) => drop(runtime.spawn(worker.run())),
        // The worker says so itself.
        Err(_) => drop(worker),
    }
}

struct Worker<S, T, R> {
    alive: Alive<T, R>,
    shared: Arc<Shared<T, R>>,
    template: S,
}

/// Tells those who wait if the worker ends before its time, with its runtime or in a panic of the service below, perhaps before it was
/// first polled.
struct Alive<T, R>(Option<Arc<Shared<T, R>>>);

impl<T, R> Drop for Alive<T, R> {
    fn drop(&mut self) {
        if let Some(shared) = &self.0 {
            shared.stopped();
        }
    }
}

type Callers<R> = Vec<oneshot::Sender<Answer<R>>>;

impl<S, T, R> Worker<S, T, R>
where
    S: Service<Vec<T>, Response = Vec<R>> + Clone,
    S::Error: Into<BoxError>,
{
    async fn run(mut self) {
        let mut service = self.template.clone();
        loop {
            let gather = match self.shared.step() {
                Step::Done => break,
                Step::Gather(until) => Some(until),
                Step::Send => None,
            };
            let ready = wait(&self.shared, gather, &mut service).await;
            match ready {
                None => {}
                Some(Ok(())) => {
                    let (items, callers) = take(&self.shared);
                    if items.is_empty() {
                        // Readiness may be somebody's permit: it is not kept for later.
                        service = self.template.clone();
                        continue;
                    }
                    send(&self.shared, &mut service, items, callers).await;
                }
                Some(Err(error)) => {
                    service = self.template.clone();
                    let (_, callers) = take(&self.shared);
                    fail(&self.shared, error, callers);
                }
            }
            tokio::task::coop::consume_budget().await;
        }
        self.alive.0 = None;
    }
}

/// Waits for company, or for the service to be ready. `None` when there is reason to look at the items again.
async fn wait<S, T, R>(
    shared: &Shared<T, R>,
    gather: Option<tokio::time::Instant>,
    service: &mut S,
) -> Option<Result<(), BoxError>>
where
    S: Service<Vec<T>, Response = Vec<R>>,
    S::Error: Into<BoxError>,
{
    let mut changed = pin!(shared.changed.notified());
    // No timer where there is no window.
    let mut company = pin!(gather.map(sleep_until));
    poll_fn(|cx| {
        if changed.as_mut().poll(cx).is_ready() {
            return Poll::Ready(None);
        }
        match company.as_mut().as_pin_mut() {
            Some(time) => time.poll(cx).map(|()| None),
            None => service.poll_ready(cx).map_err(Into::into).map(Some),
        }
    })
    .await
}

fn take<T, R>(shared: &Shared<T, R>) -> (Vec<T>, Callers<R>) {
    let parts = |waiting: Waiting<T, R>| {
        // Those who wait for readiness come next.
        drop(waiting.permit);
        (waiting.item, waiting.caller)
    };
    shared.take().into_iter().map(parts).unzip()
}

/// Sends one batch and tells its callers; gives up when the last of them has left.
async fn send<S, T, R>(
    shared: &Shared<T, R>,
    service: &mut S,
    items: Vec<T>,
    mut callers: Callers<R>,
) where
    S: Service<Vec<T>, Response = Vec<R>>,
    S::Error: Into<BoxError>,
{
    let count = items.len();
    #[allow(clippy::cast_precision_loss, reason = "a batch is small")]
    shared.meter.items.record(count as f64);
    let mut call = pin!(service.call(items));
    // So many of the callers, from the first on, are known to have left.
    let mut gone = 0;
    let result = poll_fn(|cx| {
        if let Poll::Ready(result) = call.as_mut().poll(cx) {
            return Poll::Ready(Some(result));
        }
        while let Some(caller) = callers.get_mut(gone) {
            ready!(caller.poll_closed(cx));
            gone += 1;
        }
        Poll::Ready(None)
    });
    match result.await {
        None => {}
        Some(Ok(results)) if results.len() == count => {
            for (caller, result) in callers.into_iter().zip(results) {
                let _ = caller.send(Ok(result));
            }
        }
        Some(Ok(results)) => tell(shared, &BatchError::mismatch(count, results.len()), callers),
        Some(Err(error)) => fail(shared, error.into(), callers),
    }
}

fn fail<T, R>(shared: &Shared<T, R>, error: BoxError, callers: Callers<R>) {
    tell(shared, &BatchError::Failed(Arc::new(error)), callers);
}

fn tell<T, R>(shared: &Shared<T, R>, error: &BatchError, callers: Callers<R>) {
    shared.meter.failed.increment(1);
    for caller in callers {
        let _ = caller.send(Err(error.clone()));
    }
}

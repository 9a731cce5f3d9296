//! The task that waits for arms that are away, so that their return is noticed without a call that has to try.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    task::{Context, Poll},
};

use tokio::{runtime::Handle, task::AbortHandle, time::Instant};
use tower::Service;

use super::{Arm, arms::Arms, core::Core, shared::Shared};

/// Owned by the services, and not by handles: the last of the clones ends the task.
pub(super) struct Watch {
    /// Here, so that a clone of a service is one reference less.
    pub(super) shared: Arc<Shared>,
    task: Mutex<Task>,
}

enum Task {
    None,
    /// About to begin.
    Begins,
    Runs(AbortHandle),
}

impl Watch {
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        Self {
            shared,
            task: Mutex::new(Task::None),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Task> {
        self.task.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// An arm is not ready: the task waits for it from now on. Without a runtime there is none, and those who call look for themselves.
    pub(super) fn not_ready<I, T, Req>(
        self: &Arc<Self>,
        arm: Arm,
        now: Instant,
        first: &I,
        second: &T,
    ) where
        I: Service<Req> + Clone + Send + 'static,
        T: Service<Req> + Clone + Send + 'static,
        Req: 'static,
    {
        self.shared.core.arms.not_ready(arm, now);
        let Ok(runtime) = Handle::try_current() else {
            return;
        };
        {
            let mut task = self.lock();
            // It ends under this lock, and only if it finds none that is away.
            self.shared.core.arms.watch();
            match *task {
                Task::None => *task = Task::Begins,
                Task::Begins | Task::Runs(_) => {
                    self.shared.core.arms.more.notify_one();
                    return;
                }
            }
        }
        // Not under the lock: a runtime that shuts down drops the task at once, and its end needs it.
        let end = End(Some(Arc::downgrade(self)));
        let task = watch(first.clone(), second.clone(), self.shared.core.clone(), end);
        let task = runtime.spawn(task).abort_handle();
        let mut place = self.lock();
        if let Task::Begins = *place {
            *place = Task::Runs(task);
        }
    }

    /// Whether the task may end: no arm is away.
    fn is_done(&self) -> bool {
        let mut task = self.lock();
        let done = !self.shared.core.arms.watch();
        if done {
            *task = Task::None;
        }
        done
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        let task = self.task.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Task::Runs(task) = task {
            task.abort();
        }
        self.shared.core.arms.unwatch();
    }
}

/// However the task ends, by a panic too, no arm is away for ever. It does not keep the services.
struct End(Option<Weak<Watch>>);

impl End {
    fn watch(&self) -> Option<Arc<Watch>> {
        self.0.as_ref()?.upgrade()
    }
}

impl Drop for End {
    fn drop(&mut self) {
        if let Some(watch) = self.watch() {
            *watch.lock() = Task::None;
            watch.shared.core.arms.unwatch();
        }
    }
}

/// What is waited for, made when it is needed: as long as it waits it may hold a place in somebody's queue.
struct Waits<S> {
    template: S,
    waits: Option<S>,
}

impl<S: Clone> Waits<S> {
    fn new(template: S) -> Self {
        Self {
            template,
            waits: None,
        }
    }

    fn poll<Req>(&mut self, arm: Arm, arms: &Arms, cx: &mut Context<'_>)
    where
        S: Service<Req>,
    {
        if !arms.word().is_watched(arm) {
            self.waits = None;
            return;
        }
        let service = self.waits.get_or_insert_with(|| self.template.clone());
        // An error too: what it has to say is for the next call.
        if service.poll_ready(cx).is_ready() {
            // First, so that what it holds by being ready is there for who comes next.
            self.waits = None;
            arms.ready(arm, Instant::now());
        }
    }
}

async fn watch<I, T, Req>(first: I, second: T, core: Arc<Core>, mut end: End)
where
    I: Service<Req> + Clone,
    T: Service<Req> + Clone,
{
    let (mut first, mut second) = (Waits::new(first), Waits::new(second));
    let arms = &core.arms;
    loop {
        {
            let mut more = pin!(arms.more.notified());
            poll_fn(|cx| {
                let changed = more.as_mut().poll(cx).is_ready();
                first.poll(Arm::First, arms, cx);
                second.poll(Arm::Second, arms, cx);
                match changed || !arms.word().is_any_watched() {
                    true => Poll::Ready(()),
                    false => Poll::Pending,
                }
            })
            .await;
        }
        let Some(watch) = end.watch() else {
            return;
        };
        if watch.is_done() {
            end.0 = None;
            return;
        }
    }
}

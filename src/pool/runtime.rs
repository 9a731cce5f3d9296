//! The runtime that connections live on.

use std::sync::{Arc, Mutex};

use tokio::runtime::Handle;
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

use crate::{
    error::{Error, ErrorKind},
    lock::lock,
};

/// Spawns the tasks that dials, connections and lanes own: always on one runtime, whichever runtime a call is polled on. Clones share.
///
/// When that runtime ends, all of its tasks end with it, and the runtime of the next caller takes its place.
#[derive(Clone, Debug)]
pub(crate) struct Runtime {
    home: Arc<Mutex<Option<Home>>>,
}

#[derive(Debug)]
struct Home {
    handle: Handle,
    /// Cancelled when the runtime ends: a task of it holds the guard.
    ended: CancellationToken,
    _sentinel: AbortOnDropHandle<()>,
}

impl Runtime {
    /// The given runtime; without one, the current one; without that, the one that the first task is spawned from.
    pub(crate) fn new(given: Option<Handle>) -> Self {
        let handle = given.or_else(|| Handle::try_current().ok());
        Self {
            home: Arc::new(Mutex::new(handle.map(Home::new))),
        }
    }

    /// Spawns a task that is aborted when the returned handle is dropped.
    ///
    /// # Errors
    /// [`ErrorKind::Internal`], where there is no runtime to spawn it on.
    pub(crate) fn spawn<F>(&self, task: F) -> Result<AbortOnDropHandle<F::Output>, Error>
    where
        F: Future<Output: Send + 'static> + Send + 'static,
    {
        let mut home = lock(&self.home);
        if home.as_ref().is_none_or(Home::has_ended) {
            let current = Handle::try_current().map_err(|error| {
                let message = "there is no tokio runtime to dial on; call from within one, or name one with `runtime`";
                Error::new(ErrorKind::Internal, message).caused_by(error)
            })?;
            *home = Some(Home::new(current));
        }
        // Just set where it was not.
        let handle = home.as_ref().map(|home| home.handle.clone());
        drop(home);
        let handle = handle.unwrap_or_else(Handle::current);
        Ok(AbortOnDropHandle::new(handle.spawn(task)))
    }
}

impl Home {
    fn new(handle: Handle) -> Self {
        let ended = CancellationToken::new();
        let guard = ended.clone().drop_guard();
        // A runtime that has ended drops it at once.
        let sentinel = handle.spawn(async move {
            let _guard = guard;
            std::future::pending().await
        });
        Self {
            handle,
            ended,
            _sentinel: AbortOnDropHandle::new(sentinel),
        }
    }

    fn has_ended(&self) -> bool {
        // A runtime that is ending may have many tasks to drop before the sentinel, and takes no new one.
        let probe = AbortOnDropHandle::new(self.handle.spawn(std::future::pending::<()>()));
        self.ended.is_cancelled() || probe.is_finished()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn other() -> tokio::runtime::Runtime {
        let runtime = tokio::runtime::Builder::new_multi_thread();
        { runtime }.worker_threads(1).build().expect("a runtime")
    }

    /// Ends a runtime, and waits until all of its tasks are gone.
    fn end(runtime: tokio::runtime::Runtime) {
        std::thread::spawn(move || drop(runtime))
            .join()
            .expect("no panic");
    }

    async fn id_of_runtime(runtime: &Runtime) -> tokio::runtime::Id {
        let task = runtime.spawn(async { Handle::current().id() });
        task.expect("a runtime").await.expect("no panic")
    }

    #[tokio::test]
    async fn tasks_stay_on_the_first_runtime_and_move_when_it_ends() {
        let first = other();
        let runtime = Runtime::new(Some(first.handle().clone()));
        let here = Handle::current().id();
        assert_eq!(id_of_runtime(&runtime).await, first.handle().id());
        let task = runtime
            .spawn(std::future::pending::<()>())
            .expect("a runtime");
        end(first);
        assert!(
            task.await
                .expect_err("ended with its runtime")
                .is_cancelled()
        );
        assert_eq!(id_of_runtime(&runtime).await, here);
    }

    #[tokio::test]
    async fn a_runtime_that_has_ended_already_is_not_used() {
        let ended = other();
        let handle = ended.handle().clone();
        end(ended);
        let runtime = Runtime::new(Some(handle));
        assert_eq!(id_of_runtime(&runtime).await, Handle::current().id());
    }

    #[test]
    fn without_any_runtime_there_is_an_error_and_no_panic() {
        let runtime = Runtime::new(None);
        let error = runtime.spawn(async {}).expect_err("nowhere to run");
        assert_eq!(error.kind(), ErrorKind::Internal);
        // The first caller's is taken.
        let first = other();
        first.block_on(async {
            assert_eq!(id_of_runtime(&runtime).await, first.handle().id());
        });
    }
}

//! One stream of a lane: opened by a task of its own, shared by the calls on it, replaced when it has ended.

use std::{
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::{FutureExt, future::BoxFuture};
use tokio::{
    sync::watch,
    time::{Instant, sleep},
};
use tokio_util::task::AbortOnDropHandle;

use super::{Http2, permits::Pause};
use crate::{
    error::{Error, ErrorKind},
    lock::lock,
    pool::{Backoff, Bounds, Runtime},
};

/// How long the next opening waits after one that failed. A server at its limit is not asked again by every call.
pub(crate) const REOPENING: Bounds = Bounds {
    min: Duration::from_millis(100),
    max: Duration::from_secs(10),
};

/// The place of a stream in its lane.
#[derive(Debug)]
pub(super) struct Slot {
    inner: Mutex<Inner>,
}

#[derive(Debug)]
struct Inner {
    open: Option<Arc<Http2>>,
    opening: Option<Opening>,
    backoff: Backoff,
    last_error: Option<Error>,
    /// Keeps further calls away until the next opening is due.
    pause: Option<AbortOnDropHandle<()>>,
}

/// An opening under way. The task ends when this is dropped.
#[derive(Debug)]
struct Opening {
    outcome: watch::Receiver<Option<Outcome>>,
    _task: AbortOnDropHandle<()>,
}

/// How an opening ended, and when.
pub(super) type Outcome = (Result<Arc<Http2>, Error>, Instant);

/// What there is of a stream.
pub(super) enum Stream {
    Open(Arc<Http2>),
    /// The sender is dropped without an outcome when the runtime of the opening ends.
    Opening(watch::Receiver<Option<Outcome>>),
}

impl Slot {
    pub(super) fn new() -> Self {
        Self {
            inner: Mutex::new(Inner {
                open: None,
                opening: None,
                backoff: Backoff::new(REOPENING),
                last_error: None,
                pause: None,
            }),
        }
    }

    /// The stream, where it is open already.
    pub(super) fn open(&self) -> Option<Arc<Http2>> {
        lock(&self.inner).open.clone()
    }

    /// Whether the stream is open and takes calls.
    pub(super) fn is_open(&self) -> bool {
        let mut inner = lock(&self.inner);
        inner.settle();
        inner.open.as_ref().is_some_and(|open| open.ready().is_ok())
    }

    /// The stream, or what is to be waited for. `open` is asked where nobody opens it yet.
    ///
    /// # Errors
    /// The last opening's, while the next is not due; and where there is no runtime to open it on.
    pub(super) fn get(
        &self,
        runtime: &Runtime,
        open: impl FnOnce() -> BoxFuture<'static, Result<Http2, Error>>,
    ) -> Result<Stream, Error> {
        let mut inner = lock(&self.inner);
        inner.settle();
        if let Some(open) = &inner.open {
            return Ok(Stream::Open(open.clone()));
        }
        if let Some(opening) = &inner.opening {
            return Ok(Stream::Opening(opening.outcome.clone()));
        }
        if let (Some(wait), Some(last)) = (inner.backoff.wait(Instant::now()), &inner.last_error) {
            return Err(Error::backoff(wait, last));
        }
        let (ended, outcome) = watch::channel(None);
        let opened = AssertUnwindSafe(open()).catch_unwind();
        let task = runtime.spawn(async move {
            let result = opened.await.unwrap_or_else(|_| {
                let message = "the opening of a stream panicked";
                Err(Error::new(ErrorKind::Internal, message))
            });
            ended.send_replace(Some((result.map(Arc::new), Instant::now())));
        })?;
        inner.opening = Some(Opening {
            outcome: outcome.clone(),
            _task: task,
        });
        Ok(Stream::Opening(outcome))
    }

    /// Keeps further calls away while the next opening is not due; whether they are kept away.
    pub(super) fn pause(&self, runtime: &Runtime, pause: impl FnOnce() -> Pause) -> bool {
        let mut inner = lock(&self.inner);
        inner.settle();
        let Some(wait) = inner.backoff.wait(Instant::now()) else {
            return false;
        };
        if inner.pause.as_ref().is_none_or(|it| it.is_finished()) {
            let pause = pause();
            let ends = async move {
                sleep(wait).await;
                drop(pause);
            };
            // Where there is no runtime, the pause is over already.
            inner.pause = runtime.spawn(ends).ok();
        }
        inner.pause.is_some()
    }

    /// Takes out a stream that takes no more calls, so that the next call opens another; at once, or in a while where the peer refused this one,
    /// which it says.
    pub(super) fn replace(&self, ended: &Arc<Http2>) -> bool {
        let mut inner = lock(&self.inner);
        inner.settle();
        if !inner
            .open
            .as_ref()
            .is_some_and(|open| Arc::ptr_eq(open, ended))
        {
            return false;
        }
        inner.open = None;
        let refusal = ended.refusal();
        let was_refused = refusal.is_some();
        match refusal {
            Some((error, at)) => inner.failed(error, at),
            None => inner.backoff.reset(),
        }
        was_refused
    }

    /// Forgets the stream.
    pub(super) fn renew(&self) {
        let mut inner = lock(&self.inner);
        (inner.open, inner.opening) = (None, None);
    }
}

impl Inner {
    /// Draws the conclusion from an opening that has ended.
    fn settle(&mut self) {
        let Some(opening) = &self.opening else { return };
        let outcome = opening.outcome.borrow().clone();
        match outcome {
            Some((Ok(http2), _)) => self.open = Some(http2),
            Some((Err(error), at)) => self.failed(error, at),
            // Its runtime has ended.
            None if opening.outcome.has_changed().is_err() => {}
            None => return,
        }
        self.opening = None;
    }

    fn failed(&mut self, error: Error, at: Instant) {
        self.backoff.failed(at, rand::random());
        self.last_error = Some(error);
    }
}

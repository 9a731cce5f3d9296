//! An arm that is ready when its connection is there: for whoever chooses between arms.

use std::{
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio_util::task::AbortOnDropHandle;

use super::{Arm, Inner};
use crate::{
    State,
    links::{Carries, Dialer},
    lock::lock,
};

/// One wait for readiness.
pub(super) type Readying = Pin<Box<dyn Future<Output = ()> + Send + Sync>>;

impl<D: Dialer<Connection: Carries>> Arm<D> {
    /// The same arm, but that its readiness is the connection's: asked for it, it dials, and is `Pending` until the connection is there or the dial
    /// has failed. Then it is ready, and while the next dial is not due, so that the call has the error at once.
    ///
    /// Whoever polls it drives the dial together with a task, so that it goes on where the caller has chosen another arm meanwhile: it ends with the
    /// dial time, or with the last clone of the arm. The dial wakes whoever polls. A clone carries no readiness, and a dropped one leaves
    /// nothing behind but that dial.
    #[cfg_attr(
        not(test),
        expect(dead_code, reason = "for whoever selects between arms")
    )]
    pub(in crate::channel) fn waiting(mut self) -> Self {
        self.waits = true;
        self
    }

    pub(super) fn poll_connection(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.waits {
            return Poll::Ready(());
        }
        if self.readying.is_none() && *self.inner.state.borrow() == State::Ready {
            return Poll::Ready(());
        }
        let inner = &self.inner;
        let readying = self
            .readying
            .get_or_insert_with(|| Box::pin(reach(inner.clone())));
        ready!(readying.as_mut().poll(cx));
        self.readying = None;
        Poll::Ready(())
    }
}

async fn reach<D: Dialer<Connection: Carries>>(inner: Arc<Inner<D>>) {
    let mut getting = pin!(inner.get());
    // What is there, or has failed a moment ago, needs no task.
    let at_once =
        std::future::poll_fn(|cx| Poll::Ready(Pin::as_mut(&mut getting).poll(cx).is_ready()));
    if !at_once.await {
        inner.keep_dialling();
        let _ = getting.await;
    }
}

impl<D: Dialer<Connection: Carries>> Inner<D> {
    fn keep_dialling(self: &Arc<Self>) {
        let mut dial = lock(&self.dial);
        if dial.as_ref().is_some_and(|dial| !dial.is_finished()) {
            return;
        }
        let (links, peer) = (self.links.clone(), self.peer);
        let dialling = tokio::spawn(async move {
            // Whoever calls is told what became of it.
            let _ = links.get(peer).await;
        });
        *dial = Some(AbortOnDropHandle::new(dialling));
    }
}

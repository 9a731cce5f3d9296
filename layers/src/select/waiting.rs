//! A call that waits for an arm.

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use http::Request;
use tokio::time::{Instant, Sleep, sleep_until};
use tonic::body::Body;
use tower::Service;

use super::{SelectReason, flight::One, group::Group, kept::Templates};
use crate::BoxError;

/// Waits for the first arm, or for either, and no longer than the arms may be not ready.
pub(super) struct Waiting<I, T> {
    pub(super) group: Arc<Group>,
    pub(super) request: Request<Body>,
    pub(super) first: One<I, T>,
    pub(super) reason: SelectReason,
    /// The arm that will do as well.
    pub(super) second: Option<One<I, T>>,
    pub(super) templates: Arc<Templates<I, T>>,
    /// Until then the first one alone is asked.
    pub(super) head_start: Option<Instant>,
    pub(super) until: Option<Instant>,
    pub(super) timer: Option<Pin<Box<Sleep>>>,
    /// What the caller is told if it waits in vain: how the attempt before failed, if there was one.
    pub(super) otherwise: Option<BoxError>,
}

/// What became of the wait.
pub(super) enum Waited {
    First,
    Second,
    Failed(BoxError),
}

impl<I, T> Waiting<I, T>
where
    I: Service<Request<Body>>,
    T: Service<Request<Body>>,
    I::Error: Into<BoxError>,
    T::Error: Into<BoxError>,
{
    pub(super) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Waited> {
        match self.first.poll_ready(cx) {
            Poll::Ready(Ok(())) => {
                self.found(true);
                return Poll::Ready(Waited::First);
            }
            Poll::Ready(Err(error)) if self.second.is_none() => {
                return Poll::Ready(Waited::Failed(self.otherwise.take().unwrap_or(error)));
            }
            Poll::Ready(Err(_)) => self.head_start = None,
            Poll::Pending => {}
        }
        loop {
            if self.head_start.is_none()
                && let Some(second) = &mut self.second
            {
                match second.poll_ready(cx) {
                    Poll::Ready(Ok(())) => {
                        self.found(false);
                        return Poll::Ready(Waited::Second);
                    }
                    Poll::Ready(Err(error)) => return Poll::Ready(Waited::Failed(error)),
                    Poll::Pending => {}
                }
            }
            let Some(until) = self.head_start.or(self.until) else {
                return Poll::Pending;
            };
            let now = Instant::now();
            if now < until {
                let timer = self
                    .timer
                    .get_or_insert_with(|| Box::pin(sleep_until(until)));
                if timer.deadline() != until {
                    timer.as_mut().reset(until);
                }
                if timer.as_mut().poll(cx).is_pending() {
                    return Poll::Pending;
                }
            }
            if self.head_start.take().is_none() {
                let either = self.second.is_some();
                let error = self.otherwise.take().unwrap_or_else(|| {
                    let arm = self.first.arm();
                    self.group
                        .core
                        .not_ready(arm, either, Instant::now())
                        .into()
                });
                return Poll::Ready(Waited::Failed(error));
            }
        }
    }

    /// Somebody has seen that an arm is ready.
    fn found(&self, first: bool) {
        let arms = &self.group.core.arms;
        let arm = self.first.arm();
        let now = Instant::now();
        if first && arms.word().is_troubled(arm) {
            arms.ready(arm, now);
        }
        if !first {
            arms.divert(arm);
            self.group.window(arm).diverted(now);
        }
    }
}

//! One arm as a service, and how it was found when it was looked at last.

use std::{
    mem,
    task::{Context, Poll},
};

use http::Request;
use tonic::body::Body;
use tower::Service;

use crate::BoxError;

/// An arm, and what the last look at it found.
pub(super) struct ArmSlot<S> {
    pub(super) service: S,
    pub(super) look: Readiness,
    /// It has been asked to wake this task, and may hold a place in a queue for it.
    waits: bool,
}

pub(super) enum Readiness {
    None,
    Ready,
    /// Its readiness failed, which the call that needs it is told.
    Failed(BoxError),
    Pending,
}

impl Readiness {
    /// An error of an arm's readiness.
    pub(super) fn take_failure(&mut self) -> Option<BoxError> {
        match mem::replace(self, Self::None) {
            Self::Failed(error) => Some(error),
            look => {
                *self = look;
                None
            }
        }
    }
}

impl<S> ArmSlot<S> {
    pub(super) fn new(service: S) -> Self {
        Self {
            service,
            look: Readiness::None,
            waits: false,
        }
    }
}

impl<S: Clone> ArmSlot<S> {
    pub(super) fn poll(&mut self, cx: &mut Context<'_>)
    where
        S: Service<Request<Body>>,
        S::Error: Into<BoxError>,
    {
        self.look = match self.service.poll_ready(cx) {
            Poll::Ready(Ok(())) => Readiness::Ready,
            Poll::Ready(Err(error)) => Readiness::Failed(error.into()),
            Poll::Pending => Readiness::Pending,
        };
        self.waits = self.is_pending();
    }

    /// Lets go of what waits, since nobody will come for it.
    pub(super) fn let_go(&mut self) {
        if mem::take(&mut self.waits) {
            self.service = self.service.clone();
        }
    }

    pub(super) fn is_ready(&self) -> bool {
        matches!(self.look, Readiness::Ready)
    }

    pub(super) fn is_pending(&self) -> bool {
        matches!(self.look, Readiness::Pending)
    }

    /// Whether there is something to tell a call: it can go, or has failed.
    pub(super) fn answers(&self) -> bool {
        matches!(self.look, Readiness::Ready | Readiness::Failed(_))
    }
}

//! What it takes to send a request over the other arm, if its arm fails before anything was sent.

use std::{mem, sync::Arc};

use http::Request;
use tonic::{Code, body::Body};

use super::{Arm, SelectHandle, flight::One, group::Group};
use crate::{
    BoxError, Fault, Origin,
    mutex::Mutex,
    unsent::{Kept, Unsent},
};

impl SelectHandle {
    /// How much of a request is kept: see [`SelectConfigBuilder::max_buffered`](super::SelectConfigBuilder::max_buffered).
    pub fn max_buffered(&self) -> usize {
        self.shared.core.config.max_buffered
    }
}

/// The services that a call over an arm is made with: clones carry no readiness.
pub(super) struct Templates<I, T>(Mutex<(I, T)>);

impl<I: Clone, T: Clone> Templates<I, T> {
    pub(super) fn new(first: &I, second: &T) -> Arc<Self> {
        Arc::new(Self(Mutex::new((first.clone(), second.clone()))))
    }

    pub(super) fn one(&self, arm: Arm) -> One<I, T> {
        let (first, second) = &*self.0.lock();
        match arm {
            Arm::First => One::First(first.clone()),
            Arm::Second => One::Second(second.clone()),
        }
    }
}

/// A call that may go over the other arm.
pub(super) struct Spare<I, T> {
    pub(super) group: Arc<Group>,
    pub(super) templates: Arc<Templates<I, T>>,
    /// `None` where the arms return the request themselves.
    kept: Option<Box<Kept>>,
}

impl<I, T> Spare<I, T> {
    /// Keeps `request`, unless the arms return it in their errors: a copy takes its place.
    #[inline]
    pub(super) fn new(
        group: &Arc<Group>,
        templates: &Arc<Templates<I, T>>,
        returned: bool,
        request: &mut Request<Body>,
    ) -> Self {
        let kept = (!returned).then(|| {
            let original = mem::replace(request, Request::new(Body::empty()));
            let (kept, first) = Kept::copy(original, group.core.config.max_buffered);
            *request = first;
            Box::new(kept)
        });
        Self {
            group: group.clone(),
            templates: templates.clone(),
            kept,
        }
    }

    /// The answer has begun: nothing is kept from now on.
    #[inline]
    pub(super) fn commit(self) {
        if let Some(kept) = self.kept {
            kept.commit();
        }
    }

    /// The error, and the request that has failed with it, if it may go over the other arm.
    pub(super) fn take_back(
        &mut self,
        error: BoxError,
    ) -> Result<(BoxError, Request<Body>), BoxError> {
        if !failed_unsent(&error) {
            if let Some(kept) = self.kept.take() {
                kept.commit();
            }
            return Err(error);
        }
        match self.kept.take() {
            Some(kept) => match kept.take_back() {
                Some(request) => Ok((error, request)),
                None => Err(error),
            },
            None => match Unsent::take(error) {
                (error, Some(request)) => Ok((error, request)),
                (error, None) => Err(error),
            },
        }
    }
}

/// Whether an attempt failed before anything was sent, through no fault of the call: the link was down, or the peer refused the call. A rejection by this
/// side, such as a full lane, says nothing about the arm. A peer without capacity, or one that admits nobody, is the same peer over the other arm.
pub(super) fn failed_unsent(error: &BoxError) -> bool {
    Fault::find(&**error).is_some_and(|fault| {
        fault.not_processed()
            && match fault.origin() {
                Origin::Refused => fault.status().code() != Code::ResourceExhausted,
                Origin::Link(_) => fault.status().code() == Code::Unavailable,
                Origin::Peer | Origin::Ours => false,
            }
    })
}

#[cfg(test)]
mod tests {
    use tonic::Status;

    use super::*;
    use crate::Incident;

    #[test]
    fn only_what_never_left_and_is_the_way_s_fault() {
        let link = || Origin::Link(Incident::new());
        let unsent = |fault: Fault| failed_unsent(&(Box::new(fault) as BoxError));
        assert!(unsent(Fault::unsent(link(), Status::unavailable(""))));
        assert!(unsent(Fault::unsent(
            Origin::Refused,
            Status::unavailable("")
        )));
        assert!(!unsent(Fault::perhaps_sent(
            link(),
            Status::unavailable("")
        )));
        assert!(!unsent(Fault::unsent(
            link(),
            Status::permission_denied("")
        )));
        assert!(!unsent(Fault::unsent(
            Origin::Ours,
            Status::resource_exhausted("a full lane")
        )));
        assert!(!unsent(Fault::unsent(
            Origin::Refused,
            Status::resource_exhausted("")
        )));
        assert!(!unsent(Fault::unsent(
            Origin::Peer,
            Status::unavailable("")
        )));
        assert!(!failed_unsent(&Status::unavailable("only a code").into()));
        let dial = tonic::ConnectError("no route".into());
        assert!(failed_unsent(&(Box::new(dial) as BoxError)));
    }
}

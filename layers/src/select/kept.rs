//! What is kept of a request, in case its arm fails before anything was sent.

use std::sync::Arc;

use http::{Request, request};
use tonic::{Code, Status, body::Body};

use super::{flight::One, group::Group};
use crate::{BoxError, Deadline, Fault, Origin, replay::Held};

/// A call that may go over the other arm.
pub(super) struct Spare<I, T> {
    pub(super) group: Arc<Group>,
    pub(super) other: One<I, T>,
    pub(super) kept: Kept,
}

/// A request that can be sent again.
pub(super) struct Kept {
    head: request::Parts,
    body: Held,
}

impl Kept {
    /// Keeps `request` and gives back one to be sent.
    pub(super) fn new(request: Request<Body>, limit: usize) -> (Self, Request<Body>) {
        let (head, body) = request.into_parts();
        let body = Held::new(body, limit, superseded);
        let first = Request::from_parts(head.clone(), body.attempt());
        (Self { head, body }, first)
    }

    /// Takes the request back from the arm that has failed, if all of it is there.
    pub(super) fn take_back(&self) -> bool {
        self.body.take_back()
    }

    /// The answer has begun, or there is no other arm: nothing is kept from now on.
    pub(super) fn commit(&self) {
        self.body.commit();
    }

    /// The request once more, with what is left of its time. `None` where that is nothing.
    pub(super) fn again(self) -> Option<Request<Body>> {
        let Self { mut head, body } = self;
        if let Some(deadline) = Deadline::of_parts(&head.extensions, &head.headers) {
            if deadline.is_over() {
                return None;
            }
            // Only where it came with the call: without it, `of` has just counted the header from now.
            if head.extensions.get::<Deadline>().is_some() {
                deadline.stamp(&mut head.headers);
            }
        }
        Some(Request::from_parts(head, body.attempt()))
    }
}

/// What the body of an attempt yields whose request was taken back: its transport failed, and reads on all the same.
fn superseded() -> BoxError {
    let status = Status::cancelled("the request went over the other transport");
    Box::new(Fault::perhaps_sent(Origin::Ours, status))
}

/// Whether an attempt failed before anything was sent, through no fault of the call: the way to the peer was not there, or the peer refused to take it. What
/// this side rejected, such as a full lane, says nothing of the arm, and a peer that is out of room or lets nobody in is the same peer over the other arm.
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

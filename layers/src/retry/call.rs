//! A call: what its attempts are made of.

use std::{sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue, Request, request};
use tonic::{Code, body::Body};

use super::{
    RetryBudget, RetryError, RetryPolicy, meter,
    tally::{Circumstances, End, Failure, Tally},
};
use crate::{
    BoxError, Deadline, Idempotent, Methods, deadline::header::NAME as GRPC_TIMEOUT, replay::Held,
};

const PREVIOUS_ATTEMPTS: &str = "grpc-previous-rpc-attempts";

/// What all calls of a layer share.
#[derive(Clone, Debug)]
pub(super) struct Shared {
    pub(super) policy: RetryPolicy,
    pub(super) budget: RetryBudget,
    pub(super) methods: Methods,
}

impl Shared {
    /// The policy for the methods of an entry.
    pub(super) fn policy(&self, entry: usize) -> &RetryPolicy {
        match self.methods.at(entry).retry() {
            Some(own) if !self.policy.is_disabled => own,
            _ => &self.policy,
        }
    }
}

pub(super) struct Call {
    shared: Arc<Shared>,
    /// The method's entry in the table.
    entry: usize,
    request: Again,
    tally: Tally,
    last: Code,
}

/// What the next attempt is made of.
enum Again {
    /// Kept from the beginning, because it may be sent again even if the peer has seen it.
    Kept(Box<Kept>),
    /// Returned in the error of the attempt that never left. Absent while an attempt is under way.
    Returned(Option<Box<Request<Body>>>),
}

struct Kept {
    head: request::Parts,
    body: Held,
    deadline: Option<Deadline>,
    idempotent: bool,
}

impl RetryPolicy {
    /// How much of a request is kept for a retry: see [`RetryPolicyBuilder::max_buffered`](super::RetryPolicyBuilder::max_buffered). `None` if nothing is
    /// sent again.
    pub fn max_buffered(&self) -> Option<usize> {
        (self.max_attempts > 1).then_some(self.max_buffered)
    }
}

fn superseded() -> BoxError {
    Box::new(RetryError::superseded())
}

impl Call {
    /// The call of a method with this entry in the table, and its first attempt. `returned`: the service below returns a request that never left.
    pub(super) fn new(
        request: Request<Body>,
        shared: Arc<Shared>,
        entry: usize,
        returned: bool,
    ) -> (Self, Request<Body>) {
        let said = request.extensions().get::<Idempotent>().is_some();
        let idempotent = said || shared.methods.at(entry).is_idempotent();
        let mut call = Self {
            entry,
            shared,
            request: Again::Returned(None),
            tally: Tally::default(),
            last: Code::Ok,
        };
        if returned && !idempotent {
            return (call, request);
        }
        let (head, body) = request.into_parts();
        let kept = Box::new(Kept {
            body: Held::new(body, call.shared.policy(entry).max_buffered, superseded),
            deadline: Deadline::of_parts(&head.extensions, &head.headers),
            head,
            idempotent,
        });
        let first = kept.attempt(&call.tally);
        call.request = Again::Kept(kept);
        (call, first)
    }

    /// The next attempt.
    pub(super) fn request(&mut self) -> Option<Request<Body>> {
        match &mut self.request {
            Again::Kept(kept) => Some(kept.attempt(&self.tally)),
            Again::Returned(request) => {
                let mut request = *request.take()?;
                if let Some(deadline) = request.extensions().get::<Deadline>().copied() {
                    deadline.stamp(request.headers_mut());
                }
                Some(request)
            }
        }
    }

    /// An attempt succeeded, as far as its head tells.
    #[inline]
    pub(super) fn succeeded(&self) {
        self.shared.budget.succeeded();
        if let Again::Kept(kept) = &self.request {
            kept.body.commit();
        }
    }

    /// An attempt failed. Returns how long to wait before the next one, if there is one. The error is the attempt's, without the request that it may have
    /// had.
    pub(super) fn failed(
        &mut self,
        failure: &Failure,
        request: Option<Request<Body>>,
    ) -> Option<Duration> {
        self.last = failure.code;
        if let (Again::Returned(returned), Some(request)) = (&mut self.request, request) {
            *returned = Some(Box::new(request));
        }
        let deadline = self.deadline();
        let at = Circumstances {
            idempotent: matches!(&self.request, Again::Kept(kept) if kept.idempotent),
            policy: self.shared.policy(self.entry),
            budget: &self.shared.budget,
            left: deadline.map(Deadline::left),
            random: rand::random(),
        };
        // The body last: from then on the failed attempt can't have it.
        let next = self.tally.failed(failure, &at).and_then(|next| {
            let taken = match &self.request {
                Again::Kept(kept) => kept.body.take_back(),
                Again::Returned(request) => request.is_some(),
            };
            taken.then_some(next).ok_or(End::Body)
        });
        match next {
            Ok((reason, wait)) => {
                meter::retried(reason);
                Some(wait)
            }
            Err(end) => {
                meter::ended(end);
                if let Again::Kept(kept) = &self.request {
                    kept.body.commit();
                }
                None
            }
        }
    }

    fn deadline(&self) -> Option<Deadline> {
        match &self.request {
            Again::Kept(kept) => kept.deadline,
            Again::Returned(request) => Deadline::of(request.as_ref()?),
        }
    }

    /// Whether there is no time left for an attempt.
    pub(super) fn too_late(&self) -> Option<RetryError> {
        let over = self.deadline().is_some_and(Deadline::is_over);
        over.then(|| RetryError::too_late(self.last, self.tally.seen > 0))
    }
}

impl Kept {
    fn attempt(&self, tally: &Tally) -> Request<Body> {
        let mut head = self.head.clone();
        if let Some(deadline) = self.deadline
            // The first attempt follows a deadline layer at once, which has just written it.
            && !(tally.is_first() && head.headers.contains_key(const { HeaderName::from_static(GRPC_TIMEOUT) }))
        {
            deadline.stamp(&mut head.headers);
        }
        if tally.seen > 0 {
            let seen = HeaderValue::from(tally.seen);
            head.headers
                .insert(const { HeaderName::from_static(PREVIOUS_ATTEMPTS) }, seen);
        }
        Request::from_parts(head, self.body.attempt())
    }
}

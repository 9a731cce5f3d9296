//! A call: what its attempts are made of.

use std::{sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue, Request, request};
use tonic::{Code, body::Body};

use super::{
    RetryBudget, RetryError, RetryPolicy, meter,
    tally::{Circumstances, End, Failure, Tally},
};
use crate::{BoxError, Deadline, Idempotent, deadline::header::NAME as GRPC_TIMEOUT, replay::Held};

const PREVIOUS_ATTEMPTS: &str = "grpc-previous-rpc-attempts";

/// What all calls of a layer share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) policy: RetryPolicy,
    pub(super) budget: RetryBudget,
}

pub(super) struct Call {
    shared: Arc<Shared>,
    head: request::Parts,
    body: Held,
    deadline: Option<Deadline>,
    tally: Tally,
    last: Code,
}

fn superseded() -> BoxError {
    Box::new(RetryError::superseded())
}

impl Call {
    pub(super) fn new(request: Request<Body>, shared: Arc<Shared>) -> Self {
        let (head, body) = request.into_parts();
        Self {
            body: Held::new(body, shared.policy.max_buffered, superseded),
            deadline: Deadline::of_parts(&head.extensions, &head.headers),
            head,
            shared,
            tally: Tally::default(),
            last: Code::Ok,
        }
    }

    /// The next attempt.
    pub(super) fn request(&self) -> Request<Body> {
        let mut head = self.head.clone();
        let first = self.tally.is_first();
        if let Some(deadline) = self.deadline
            // The first attempt follows a deadline layer at once, which has just written it.
            && !(first && head.headers.contains_key(const { HeaderName::from_static(GRPC_TIMEOUT) }))
        {
            deadline.stamp(&mut head.headers);
        }
        if self.tally.seen > 0 {
            let seen = HeaderValue::from(self.tally.seen);
            head.headers
                .insert(const { HeaderName::from_static(PREVIOUS_ATTEMPTS) }, seen);
        }
        Request::from_parts(head, self.body.attempt())
    }

    /// An attempt succeeded, as far as its head tells.
    pub(super) fn succeeded(&self) {
        self.shared.budget.succeeded();
        self.body.commit();
    }

    /// An attempt failed; how long to wait before the next one, if there is one.
    pub(super) fn failed(&mut self, failure: &Failure) -> Option<Duration> {
        self.last = failure.code;
        let Shared { policy, budget } = &*self.shared;
        let said = self.head.extensions.get::<Idempotent>().is_some();
        let at = Circumstances {
            idempotent: said || policy.is_idempotent(self.head.uri.path()),
            policy,
            budget,
            left: self.deadline.map(Deadline::left),
            random: rand::random(),
        };
        // The body last: from then on the failed attempt can't have it.
        let next = self.tally.failed(failure, &at).and_then(|next| {
            let taken = self.body.take_back();
            taken.then_some(next).ok_or(End::Body)
        });
        match next {
            Ok((reason, wait)) => {
                meter::retried(reason);
                Some(wait)
            }
            Err(end) => {
                meter::ended(end);
                self.body.commit();
                None
            }
        }
    }

    /// Whether there is no time left for an attempt.
    pub(super) fn too_late(&self) -> Option<RetryError> {
        let over = self.deadline.is_some_and(Deadline::is_over);
        over.then(|| RetryError::too_late(self.last, self.tally.seen > 0))
    }
}

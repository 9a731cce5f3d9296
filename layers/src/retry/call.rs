//! A call: what its attempts are made of.

use std::{sync::Arc, time::Duration};

use http::{HeaderName, HeaderValue, Request, request};
use tonic::{Code, body::Body};

use super::{
    RetryBudget, RetryError, RetryPolicy, meter,
    tally::{Circumstances, End, Failure, Tally},
};
#[cfg(feature = "select")]
use crate::elsewhere::{Avoids, Elsewhere, Keeps};
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
    #[cfg(feature = "select")]
    moves: Moves,
}

/// Whether the attempt went over another arm at the word of a selection below.
#[cfg(feature = "select")]
#[derive(Clone, Copy)]
enum Moves {
    No,
    /// The next one does.
    Next(Avoids),
    Moved,
}

fn superseded() -> BoxError {
    Box::new(RetryError::superseded())
}

impl Call {
    pub(super) fn new(request: Request<Body>, shared: Arc<Shared>) -> Self {
        #[cfg_attr(not(feature = "select"), expect(unused_mut, reason = "nobody asks"))]
        let (mut head, body) = request.into_parts();
        #[cfg(feature = "select")]
        head.extensions.insert(Keeps);
        Self {
            body: Held::new(body, shared.policy.max_buffered, superseded),
            deadline: Deadline::of_parts(&head.extensions, &head.headers),
            head,
            shared,
            tally: Tally::default(),
            last: Code::Ok,
            #[cfg(feature = "select")]
            moves: Moves::No,
        }
    }

    /// The next attempt.
    pub(super) fn request(&mut self) -> Request<Body> {
        let mut head = self.head.clone();
        #[cfg(feature = "select")]
        if let Moves::Next(avoids) = self.moves {
            head.extensions.insert(avoids);
            self.moves = Moves::Moved;
        }
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

    /// An attempt failed, and a selection below has another arm for it: whether the call is sent again at once, else what its failure was. Nothing was sent, so this
    /// is the same attempt for the tally.
    #[cfg(feature = "select")]
    pub(super) fn moves(&mut self, error: BoxError) -> Result<(), BoxError> {
        let elsewhere = error.downcast::<Elsewhere>()?;
        match self.moves {
            Moves::No if self.body.take_back() => {
                self.moves = Moves::Next(elsewhere.avoid);
                Ok(())
            }
            _ => Err(elsewhere.error),
        }
    }

    /// An attempt failed; how long to wait before the next one, if there is one.
    pub(super) fn failed(&mut self, failure: &Failure) -> Option<Duration> {
        self.last = failure.code;
        #[cfg(feature = "select")]
        {
            self.moves = Moves::No;
        }
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

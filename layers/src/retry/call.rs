//! A call: what its attempts are made of.

#[cfg(feature = "select")]
use std::mem;
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
#[cfg(feature = "select")]
use crate::{
    Fault, Origin,
    elsewhere::{Avoids, Elsewhere, Keeps},
};

const PREVIOUS_ATTEMPTS: &str = "grpc-previous-rpc-attempts";

/// What all calls of a layer share.
#[derive(Debug)]
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
#[derive(Default)]
enum Moves {
    #[default]
    No,
    /// The next one does. With it, how it failed over the first arm.
    Next(Avoids, BoxError),
    Moved(BoxError),
}

/// Whether an attempt ended on this side, for want of a transport.
#[cfg(feature = "select")]
fn is_not_there(error: &BoxError) -> bool {
    Fault::find(&**error)
        .is_some_and(|fault| fault.origin() == Origin::Ours && fault.is_temporary())
}

fn superseded() -> BoxError {
    Box::new(RetryError::superseded())
}

impl Call {
    pub(super) fn new(request: Request<Body>, shared: Arc<Shared>, entry: usize) -> Self {
        #[cfg_attr(not(feature = "select"), expect(unused_mut, reason = "nobody asks"))]
        let (mut head, body) = request.into_parts();
        #[cfg(feature = "select")]
        head.extensions.insert(Keeps);
        Self {
            body: Held::new(body, shared.policy(entry).max_buffered, superseded),
            entry,
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
        if let Moves::Next(avoids, failed) = mem::take(&mut self.moves) {
            head.extensions.insert(avoids);
            self.moves = Moves::Moved(failed);
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

    /// An attempt failed. Where a selection below has another arm for it the call is sent again at once; nothing was sent, so this is the same attempt for the tally.
    /// Else what its failure was: where the other arm is not there either, how it failed over the first one, which may be there soon.
    #[cfg(feature = "select")]
    pub(super) fn moves(&mut self, error: BoxError) -> Result<(), BoxError> {
        let moves = mem::take(&mut self.moves);
        match (error.downcast::<Elsewhere>(), moves) {
            (Ok(elsewhere), Moves::No) if self.body.take_back() => {
                let Elsewhere { error, avoid } = *elsewhere;
                self.moves = Moves::Next(avoid, error);
                Ok(())
            }
            (Ok(elsewhere), _) => Err(elsewhere.error),
            (Err(error), Moves::Moved(first)) if is_not_there(&error) => Err(first),
            (Err(error), _) => Err(error),
        }
    }

    /// An attempt failed; how long to wait before the next one, if there is one.
    pub(super) fn failed(&mut self, failure: &Failure) -> Option<Duration> {
        self.last = failure.code;
        #[cfg(feature = "select")]
        {
            self.moves = Moves::No;
        }
        let Shared {
            budget, methods, ..
        } = &*self.shared;
        let said = self.head.extensions.get::<Idempotent>().is_some();
        let at = Circumstances {
            idempotent: said || methods.at(self.entry).is_idempotent(),
            policy: self.shared.policy(self.entry),
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

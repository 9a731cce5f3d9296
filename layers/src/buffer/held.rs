//! A call that can be made more than once.

use std::time::Duration;

use bytes::Bytes;
use http::{Request, Response, StatusCode, request};
use http_body_util::Full;
use tokio::sync::oneshot;
use tokio::time::Instant;
use tonic::{Code, Status, body::Body};

use super::{
    BufferError, BufferReason,
    entry::{End, Late, Ticket},
    error::History,
};
use crate::{BoxError, Deadline, Fault, Origin, Urgency, fault};

/// A call whose whole body is here.
pub(super) struct Held {
    pub(super) message: Message,
    pub(super) story: Story,
}

/// What is sent.
pub(super) struct Message {
    parts: request::Parts,
    body: Bytes,
}

/// What is known of a call beside its message.
pub(super) struct Story {
    pub(super) deadline: Option<Deadline>,
    /// The method's own time to live.
    pub(super) ttl: Option<Duration>,
    idempotent: bool,
    perhaps_processed: bool,
    /// How many more attempts may reach the peer.
    attempts_left: u32,
    /// The message of the last attempt.
    last: Option<String>,
}

/// A smaller message is copied when it begins to wait: generated clients encode into buffers of 8 KiB, and a message keeps its whole
/// buffer.
const COPIED: usize = 4096;

impl Held {
    pub(super) fn new(
        parts: request::Parts,
        body: Bytes,
        deadline: Option<Deadline>,
        idempotent: bool,
        max_attempts: u32,
    ) -> Self {
        Self {
            message: Message { parts, body },
            story: Story {
                deadline,
                ttl: None,
                idempotent,
                perhaps_processed: false,
                attempts_left: max_attempts,
                last: None,
            },
        }
    }

    pub(super) fn len(&self) -> usize {
        self.message.body.len()
    }

    /// As [`Urgency::of`].
    pub(super) fn urgency(&self) -> Urgency {
        let said = self.message.parts.extensions.get::<Urgency>().copied();
        said.or_else(|| Urgency::from_headers(&self.message.parts.headers))
            .unwrap_or_default()
    }

    /// Shrinks the kept bytes to the counted bytes.
    pub(super) fn compact(&mut self) {
        if self.message.body.len() < COPIED {
            self.message.body = Bytes::copy_from_slice(&self.message.body);
        }
    }

    /// As [`Message::request`], after a wait: the peer is told how much of the time is left.
    pub(super) fn request_after_wait(&self) -> Request<Body> {
        let mut request = self.message.request();
        if let Some(deadline) = self.story.deadline {
            deadline.stamp(request.headers_mut());
        }
        request
    }
}

impl Message {
    /// The call as it is sent now.
    pub(super) fn request(&self) -> Request<Body> {
        let Self { parts, body } = self;
        Self::into_request(Self {
            parts: parts.clone(),
            body: body.clone(),
        })
    }

    /// The same, without keeping anything to send it again.
    pub(super) fn into_request(self) -> Request<Body> {
        Request::from_parts(self.parts, Body::new(Full::new(self.body)))
    }
}

/// What happens to a call that came back with an error.
pub(super) enum Verdict {
    /// It is sent again when the peer may be back.
    Again,
    /// This side rejected it for the moment, which says nothing of the peer or of other calls.
    Rejected,
    /// Its caller gets the error.
    Final,
    /// The allowed number of attempts may have arrived.
    Spent,
}

impl Story {
    /// Until when a call that arrives now may wait: its deadline or its method's time to live, whichever is earlier.
    pub(super) fn ends(&self, now: Instant) -> Option<Instant> {
        let ttl = self.ttl.map(|ttl| now + ttl);
        let ends = self.deadline.map(|at| at.instant()).into_iter().chain(ttl);
        ends.min()
    }

    /// Which time was over. The queue knows a deadline and its own `ttl`; that deadline may be the method's time to live.
    pub(super) fn late(&self, late: Late, ttl: Duration) -> (Late, Duration) {
        match (late, self.ttl) {
            (Late::Deadline, Some(own)) if !self.deadline.is_some_and(Deadline::is_over) => {
                (Late::Ttl, own)
            }
            _ => (late, ttl),
        }
    }

    /// Whether a call that came back with `error` may be sent again; notes what a later error has to report. `sent` says whether it was
    /// handed over: if not, the service below did not become ready.
    pub(super) fn verdict(&mut self, error: &BoxError, sent: bool) -> Verdict {
        let found = Fault::find(&**error);
        let unsent = found.as_ref().is_some_and(Fault::not_processed);
        let code = fault::code_of(&**error);
        // A transport may give only a code, or not even that: tonic's own lost connection is UNKNOWN.
        let lost = matches!(code, Code::Unavailable | Code::Unknown);
        let again = match &found {
            Some(fault) => match fault.origin() {
                Origin::Refused => unsent || self.idempotent,
                // A dial that policy refused is an answer: waiting does not change it.
                Origin::Link(_) => {
                    (unsent && code == Code::Unavailable) || (self.idempotent && lost)
                }
                Origin::Ours => unsent && fault.is_temporary(),
                _ => false,
            },
            None => self.idempotent && lost,
        };
        if again {
            if sent && !unsent {
                self.perhaps_processed = true;
                self.attempts_left = self.attempts_left.saturating_sub(1);
            }
            let said = fault::chain(&**error)
                .find_map(|error| error.downcast_ref::<Status>())
                .map(|status| status.message().to_owned());
            self.last = Some(said.unwrap_or_else(|| error.to_string()));
        }
        let ours = found.is_some_and(|fault| fault.origin() == Origin::Ours);
        match (again, ours) {
            (false, _) => Verdict::Final,
            (true, true) => Verdict::Rejected,
            (true, false) if self.attempts_left == 0 => Verdict::Spent,
            (true, false) => Verdict::Again,
        }
    }

    pub(super) fn history(&mut self, attempts: u32) -> History {
        History {
            attempts,
            perhaps_processed: self.perhaps_processed,
            last: self.last.take(),
        }
    }
}

/// How an answer counts: it is delivered in any case, and failed if its head reports a failure. The layers above handle a failure in the
/// body.
pub(super) fn judge<R>(response: &Response<R>) -> End {
    let status = response.headers().get("grpc-status");
    let ok = response.status() == StatusCode::OK && status.is_none_or(|status| status == "0");
    if ok { End::Delivered } else { End::Failed }
}

/// The result for a waiting caller.
pub(super) type Answer<R> = Result<Response<R>, BoxError>;

/// A call and the way to its caller.
pub(super) struct Waiter<R> {
    pub(super) held: Held,
    pub(super) caller: oneshot::Sender<Answer<R>>,
}

impl<R> Waiter<R> {
    /// Ends the wait with an error of ours. Never under a lock: it wakes the caller.
    pub(super) fn refuse(
        mut self,
        ticket: &Ticket,
        why: impl FnOnce(std::time::Duration) -> BufferReason,
    ) {
        let waited = Instant::now().saturating_duration_since(ticket.arrived);
        let error = BufferError::new(why(waited), &self.held.story.history(ticket.attempts));
        // A caller that left needs no answer.
        let _ = self.caller.send(Err(Box::new(error)));
    }
}

use std::{fmt, sync::LazyLock};

use tokio::time::Instant;
use tonic::{Status, metadata::MetadataValue};

use super::{Identity, bucket::Bucket, limiter::Exhausted};
use crate::{
    meter::{Counter, counter, describe_counter},
    mutex::Mutex,
    named::named,
};

named! {
    /// Why a call was refused or ended.
    #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
    #[non_exhaustive]
    pub enum DenialReason (pub(self) ALL) {
        /// The caller has no identity, and the policy gives such callers no such permission.
        Unauthenticated = "unauthenticated",
        /// The policy does not give this caller this permission.
        NotPermitted = "not_permitted",
        /// A reload took the permission while the call was open.
        Revoked = "revoked",
        /// Too many calls in too short a time.
        Rate = "rate",
        /// Too many calls open at a time.
        Concurrent = "concurrent",
        /// Too many callers that the policy does not list, at a time.
        Callers = "callers",
        /// A message of the request is too large.
        MessageSize = "message_size",
    }
}

/// A call that was refused, or ended by a reload.
#[derive(Clone, Copy, Debug)]
pub struct Denial<'a> {
    pub(super) identity: Option<&'a Identity>,
    pub(super) method: &'a str,
    pub(super) reason: DenialReason,
    pub(super) generation: u64,
}

impl Denial<'_> {
    /// Who called.
    pub fn identity(&self) -> Option<&Identity> {
        self.identity
    }

    /// The path that was called. The caller chose it: it may be any text.
    pub fn method(&self) -> &str {
        self.method
    }

    /// Why not.
    pub fn reason(&self) -> DenialReason {
        self.reason
    }

    /// By which policy: see [`PolicyHandle::generation`](super::PolicyHandle::generation).
    pub fn generation(&self) -> u64 {
        self.generation
    }
}

/// So many events in a second, and so many at once, for callers of each kind: who is refused must not fill the disk.
const EVENTS: (f64, f64) = (100.0, 1000.0);

/// So much of a path that a stranger chose goes into an event.
const METHOD_MAX: usize = 200;

/// Whose denial it is. The events of each kind are counted by themselves: who needs nothing to make as many as they like must not
/// keep what happens to others out of the log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Anonymous,
    /// An identity that the policy does not list: with some transports anybody makes as many as they like.
    Stranger,
    /// One that it lists, or that had the permission until now.
    Known,
}

/// Writes denials down.
pub(super) struct Audit {
    /// By [`Kind`], with the number of events that were left out since the last.
    events: Mutex<[(Bucket, u64); 3]>,
    denied: LazyLock<[Counter; DenialReason::ALL.len()]>,
}

impl Audit {
    pub(super) fn new() -> Self {
        Self {
            events: Mutex::new([(Bucket::new(Instant::now()), 0); 3]),
            denied: LazyLock::new(|| {
                let name = "tower_iroh_authorize_denied_total";
                describe_counter(name, "Calls refused or ended, by reason.");
                DenialReason::ALL.map(|reason| counter(name, &[("reason", reason.as_str())]))
            }),
        }
    }

    pub(super) fn denied(&self, denial: &Denial<'_>, kind: Kind) {
        self.count(denial.reason);
        let Some(left_out) = self.next_event(kind) else {
            return;
        };
        let method = denial.method;
        let method = &method[..method.floor_char_boundary(METHOD_MAX)];
        tracing::warn!(
            target: "tower_iroh::audit",
            identity = denial.identity.map(Identity::as_str),
            method,
            reason = denial.reason.as_str(),
            generation = denial.generation,
            left_out,
            "call denied"
        );
    }

    fn next_event(&self, kind: Kind) -> Option<u64> {
        let mut events = self.events.lock();
        let (bucket, left_out) = &mut events[kind as usize];
        if bucket.take(Instant::now(), EVENTS.0, EVENTS.1).is_err() {
            *left_out += 1;
            return None;
        }
        Some(std::mem::take(left_out))
    }

    fn count(&self, reason: DenialReason) {
        let index = DenialReason::ALL.iter().position(|it| *it == reason);
        if let Some(counter) = index.and_then(|index| self.denied.get(index)) {
            counter.increment(1);
        }
    }
}

impl fmt::Debug for Audit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Audit").finish_non_exhaustive()
    }
}

/// What a caller is told whom the policy refuses. It names no role and no other peer.
pub(super) fn status(reason: DenialReason, identity: Option<&Identity>, method: &str) -> Status {
    let method = &method[..method.floor_char_boundary(METHOD_MAX)];
    let message = match reason {
        DenialReason::Unauthenticated => format!("{method} needs a caller with an identity"),
        DenialReason::Revoked => format!("the permission to call {method} was withdrawn"),
        _ => format!("this peer may not call {method}"),
    };
    match identity {
        None => Status::unauthenticated(message),
        Some(_) => Status::permission_denied(message),
    }
}

/// What a caller above a limit is told: with the time to wait, where there is one.
pub(super) fn exhausted(why: Exhausted) -> (DenialReason, Status) {
    let (reason, message) = match why {
        Exhausted::Rate(_) => (
            DenialReason::Rate,
            "this caller makes more calls per second than it may; try again later",
        ),
        Exhausted::Concurrent => (
            DenialReason::Concurrent,
            "this caller has as many calls open as it may; let one end first",
        ),
        Exhausted::Callers => (
            DenialReason::Callers,
            "the server keeps account of as many callers as it can; try again later",
        ),
    };
    let mut status = Status::resource_exhausted(message);
    if let Exhausted::Rate(wait) = why {
        // Rounded up: a millisecond early would be refused again. The proposal has 32 bits for it.
        let millis = wait.as_nanos().div_ceil(1_000_000);
        let millis = i32::try_from(millis).unwrap_or(i32::MAX);
        status
            .metadata_mut()
            .insert("grpc-retry-pushback-ms", MetadataValue::from(millis));
    }
    (reason, status)
}

//! What the queue is told and what it tells.

use std::time::Duration;

use tokio::time::Instant;

use super::probe_backoff;
use crate::Urgency;

/// What a queue may hold, and for how long.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Limits {
    pub(super) calls: usize,
    pub(super) bytes: usize,
    pub(super) ttl: Duration,
    pub(super) overflow: Overflow,
}

/// Which call is dropped when an arriving call has to wait and there is no capacity. Calls in flight stay.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Overflow {
    /// The call that arrives: it is refused.
    #[default]
    RejectNewest,
    /// The calls that have waited longest, however urgent they are.
    DropOldest,
    /// The least urgent calls, the newest of those first. A call that arrives and is itself the least urgent is refused.
    DropLowest,
}

/// A call's position in the order: by urgency, then by arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    pub(super) urgency: Urgency,
    pub(super) seq: u64,
}

/// What the queue knows of a call that it has accepted.
#[derive(Clone, Copy, Debug)]
pub(super) struct Ticket {
    pub(super) key: Key,
    pub(super) bytes: usize,
    pub(super) arrived: Instant,
    pub(super) deadline: Option<Instant>,
    pub(super) attempts: u32,
    /// How often in a row this side rejected it for the moment.
    pub(super) rejections: u32,
    /// When it may be tried again after such a rejection; other calls go first until then.
    pub(super) not_before: Option<Instant>,
    /// Why its message could not be kept while it goes straight through. It then cannot come back, and takes no capacity.
    pub(super) unheld: Option<Full>,
}

/// Why there was no capacity for a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Full {
    Calls,
    Bytes,
    /// The call is larger than the whole queue may hold.
    TooLarge,
}

/// Which time limit was over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Late {
    Ttl,
    Deadline,
}

/// How a call in flight ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum End {
    Delivered,
    Failed,
    Cancelled,
}

impl Key {
    pub(super) fn level(self) -> usize {
        usize::from(self.urgency.get())
    }
}

impl Ticket {
    /// This side rejected the call for the moment. It is tried again later, and by itself, since another call may have a path.
    pub(super) fn rejected(&mut self, now: Instant) {
        self.not_before = Some(now + probe_backoff::after(self.rejections));
        self.rejections = self.rejections.saturating_add(1);
    }

    /// The call got past this side and came back: it is tried again when the pace says so.
    pub(super) fn failed(&mut self) {
        self.rejections = 0;
        self.not_before = None;
    }

    pub(super) fn is_past(&self, ttl: Duration, now: Instant) -> bool {
        now.saturating_duration_since(self.arrived) >= ttl
    }
}

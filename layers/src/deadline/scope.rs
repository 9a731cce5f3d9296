//! From an incoming call to the calls that its handler makes.

use crate::Deadline;

tokio::task_local! {
    static INCOMING: Deadline;
}

impl Deadline {
    /// The deadline of the incoming call whose handler, or whose response body, is being polled.
    /// [`ServerDeadline`](super::ServerDeadline) keeps it for outgoing calls on the same task.
    ///
    /// A spawned task is another task. Take [`Deadline::of`] of the request, or this, before spawning, and put it into the outgoing
    /// request's extensions.
    pub fn inherited() -> Option<Self> {
        INCOMING.try_with(|deadline| *deadline).ok()
    }
}

/// Runs `poll` so that [`Deadline::inherited`] finds `deadline`, or else what it would have found.
pub(super) fn within<T>(deadline: Option<Deadline>, poll: impl FnOnce() -> T) -> T {
    match deadline {
        Some(deadline) => INCOMING.sync_scope(deadline, poll),
        None => poll(),
    }
}

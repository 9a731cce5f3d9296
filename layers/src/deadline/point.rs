//! The point in time.

use std::time::Duration;

use http::{Extensions, HeaderMap, Request};
use tokio::time::Instant;

use super::header;

/// The time at which a call expires.
///
/// The deadline layer puts it into the extensions of each request that has one; the layers below and the transport read it with
/// [`Deadline::of`]. Code that sends the request onwards calls [`Deadline::stamp`], so that the peer is told the time left, not the
/// original time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Deadline(Instant);

impl Deadline {
    /// A deadline at `at`.
    pub fn at(at: Instant) -> Self {
        Self(at)
    }

    /// A deadline `limit` from now. A limit that no clock can represent becomes thirty years, as in tokio.
    pub fn after(limit: Duration) -> Self {
        Self::after_from(Instant::now(), limit)
    }

    pub(super) fn after_from(now: Instant, limit: Duration) -> Self {
        let far = Duration::from_secs(86400 * 365 * 30);
        Self(now.checked_add(limit).unwrap_or(now + far))
    }

    /// The point in time.
    pub fn instant(self) -> Instant {
        self.0
    }

    /// The time left; zero once it has passed.
    pub fn left(self) -> Duration {
        self.left_at(Instant::now())
    }

    /// What is left at `now`.
    #[inline]
    pub(crate) fn left_at(self, now: Instant) -> Duration {
        self.0.saturating_duration_since(now)
    }

    /// Whether it has passed.
    pub fn is_over(self) -> bool {
        self.left().is_zero()
    }

    /// The deadline of a request: from its extensions, else its `grpc-timeout` counted from now, else none.
    #[inline]
    pub fn of<B>(request: &Request<B>) -> Option<Self> {
        Self::of_parts(request.extensions(), request.headers())
    }

    /// [`of`](Self::of), for a request in parts.
    pub fn of_parts(extensions: &Extensions, headers: &HeaderMap) -> Option<Self> {
        match extensions.get::<Self>() {
            Some(deadline) => Some(*deadline),
            None => header::read(headers).map(Self::after),
        }
    }

    /// Writes the time left into `grpc-timeout`.
    pub fn stamp(self, headers: &mut HeaderMap) {
        header::write(headers, self.left());
    }
}

//! The bound on the receive windows of all accepted connections together.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use iroh::EndpointId;

use super::FIRST_WINDOW;
use crate::pool::Refusals;

/// A connection has at most this part of what the others leave. So none takes it all, and a later one always gets something.
const PART: u64 = 8;
/// Windows grow in steps of this size.
const STEP: u64 = 64 * 1024;

/// What all windows together may have beyond [`FIRST_WINDOW`] each.
#[derive(Debug)]
pub(crate) struct WindowBudget {
    left: AtomicU64,
    refusals: Arc<Refusals>,
}

impl WindowBudget {
    pub(crate) fn new(bytes: u64, refusals: Arc<Refusals>) -> Arc<Self> {
        Arc::new(Self {
            left: AtomicU64::new(bytes),
            refusals,
        })
    }

    /// The share of one more connection: nothing yet.
    pub(crate) fn share(self: &Arc<Self>) -> WindowShare {
        WindowShare {
            budget: self.clone(),
            held: 0,
            outstanding: FIRST_WINDOW,
            is_short: false,
        }
    }

    /// Takes up to `more` for a connection that has `held`.
    fn take(&self, held: u64, more: u64) -> u64 {
        let mut taken = 0;
        let _ = self.left.fetch_update(Relaxed, Relaxed, |left| {
            let most = ((left + held) / PART).saturating_sub(held);
            taken = match more <= most {
                true => more,
                false => most / STEP * STEP,
            };
            Some(left - taken)
        });
        taken
    }
}

/// What one connection has of the budget. Dropping it gives it back.
#[derive(Debug)]
pub(crate) struct WindowShare {
    budget: Arc<WindowBudget>,
    held: u64,
    /// What the peer may send before more is read. A window that shrinks takes nothing back: QUIC lets the peer use up what it was granted.
    outstanding: u64,
    is_short: bool,
}

impl WindowShare {
    /// The window that the connection may have now: `wanted`, or less. `read` bytes were read since the last call.
    pub(crate) fn fit(&mut self, wanted: u64, read: u64, peer: EndpointId) -> u64 {
        let beyond = wanted.saturating_sub(FIRST_WINDOW);
        if beyond > self.held {
            self.held += self.budget.take(self.held, beyond - self.held);
        }
        let window = wanted.min(FIRST_WINDOW + self.held);
        self.outstanding = window.max(self.outstanding.saturating_sub(read));
        let needed = self.outstanding.saturating_sub(FIRST_WINDOW);
        if needed < self.held {
            self.budget.left.fetch_add(self.held - needed, Relaxed);
            self.held = needed;
        }
        let was_short = std::mem::replace(&mut self.is_short, window < wanted);
        if self.is_short && !was_short {
            self.budget.refusals.add("windows", |suppressed| {
                tracing::warn!(
                    peer = %peer.fmt_short(), wanted, window, suppressed,
                    "a connection has a smaller window than its path needs: raise AcceptorBuilder::window_budget, or accept fewer connections"
                );
            });
        }
        window
    }
}

impl Drop for WindowShare {
    fn drop(&mut self) {
        self.budget.left.fetch_add(self.held, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const TOTAL: u64 = 100 << 20;
    const LARGE: u64 = 20_000_000;

    fn budget(bytes: u64) -> Arc<WindowBudget> {
        WindowBudget::new(bytes, Arc::new(Refusals::new("test")))
    }

    fn peer() -> EndpointId {
        iroh::SecretKey::from_bytes(&[1; 32]).public()
    }

    #[test]
    fn a_window_that_shrinks_gives_back_what_has_been_read() {
        let budget = budget(1 << 30);
        let mut share = budget.share();
        assert_eq!(share.fit(LARGE, 0, peer()), LARGE);
        assert_eq!(share.fit(1000, 0, peer()), 1000);
        let left = || budget.left.load(Relaxed);
        assert_eq!(
            left(),
            (1 << 30) - (LARGE - FIRST_WINDOW),
            "the peer may still send it"
        );
        share.fit(1000, 1_000_000, peer());
        assert_eq!(left(), (1 << 30) - (LARGE - 1_000_000 - FIRST_WINDOW));
        share.fit(1000, LARGE, peer());
        assert_eq!(left(), 1 << 30);
    }

    #[test]
    fn none_takes_all_and_every_one_keeps_what_each_has() {
        let budget = budget(TOTAL);
        let mut shares: Vec<_> = (0..100).map(|_| budget.share()).collect();
        let windows: Vec<_> = shares
            .iter_mut()
            .map(|it| it.fit(LARGE, 0, peer()))
            .collect();
        assert!(windows.iter().all(|window| *window >= FIRST_WINDOW));
        assert!(
            windows[0] < TOTAL / 7 && windows[0] > TOTAL / 9,
            "{windows:?}"
        );
        assert!(windows.is_sorted_by(|a, b| a >= b), "{windows:?}");
        let held: u64 = windows.iter().map(|window| window - FIRST_WINDOW).sum();
        assert!(held <= TOTAL);
        let again = shares[0].fit(LARGE, 0, peer());
        assert_eq!(again, windows[0], "asked again it takes no more");
    }

    proptest! {
        #[test]
        fn what_is_held_and_what_is_left_is_the_budget(
            steps in proptest::collection::vec((0..8usize, 0..LARGE, 0..LARGE, proptest::bool::weighted(0.1)), 1..200),
        ) {
            let budget = budget(TOTAL);
            let mut shares: Vec<_> = (0..8).map(|_| budget.share()).collect();
            for (which, wanted, read, closes) in steps {
                if closes {
                    shares[which] = budget.share();
                } else {
                    let window = shares[which].fit(wanted, read, peer());
                    prop_assert!(window <= wanted);
                    prop_assert!(window >= wanted.min(FIRST_WINDOW));
                }
                let held: u64 = shares.iter().map(|share| share.held).sum();
                prop_assert_eq!(held + budget.left.load(Relaxed), TOTAL);
                for share in &shares {
                    prop_assert!(share.outstanding <= FIRST_WINDOW + share.held);
                }
            }
        }
    }
}

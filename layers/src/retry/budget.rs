//! A6's retry throttling.

use std::sync::{
    Arc,
    atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
};

use super::{RetryPolicy, meter};

/// How many retries a channel may afford, so that they do not overwhelm a peer under load.
///
/// It begins full. A failure takes one token, a success returns a share of one. While at most half of the tokens are left, nothing that the
/// peer may have seen is sent again. All clones share one budget.
#[derive(Clone, Debug)]
pub struct RetryBudget(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// In thousandths.
    tokens: AtomicU32,
    max: u32,
    ratio: u32,
    withheld: AtomicU64,
}

const TOKEN: u32 = 1000;

impl RetryBudget {
    /// A full budget of the size that `policy` says.
    pub fn new(policy: &RetryPolicy) -> Self {
        Self::of(policy.max_tokens, policy.token_ratio)
    }

    pub(super) fn of(tokens: u32, ratio: f64) -> Self {
        let max = tokens * TOKEN;
        Self(Arc::new(Inner {
            tokens: AtomicU32::new(max),
            max,
            ratio: (ratio * f64::from(TOKEN)).round() as u32,
            withheld: AtomicU64::new(0),
        }))
    }

    /// How many tokens are left.
    pub fn tokens(&self) -> f64 {
        f64::from(self.0.tokens.load(Relaxed)) / f64::from(TOKEN)
    }

    /// How many tokens it holds at most.
    pub fn max_tokens(&self) -> f64 {
        f64::from(self.0.max) / f64::from(TOKEN)
    }

    /// Whether a retry may be sent now.
    pub fn allows(&self) -> bool {
        self.0.allows(self.0.tokens.load(Relaxed))
    }

    /// How many retries it has withheld.
    pub fn withheld(&self) -> u64 {
        self.0.withheld.load(Relaxed)
    }

    /// Whether a retry may be sent; counts it as withheld if not.
    pub(super) fn admits(&self) -> bool {
        let admits = self.allows();
        if !admits {
            self.0.withheld.fetch_add(1, Relaxed);
        }
        admits
    }

    pub(super) fn failed(&self) {
        self.0.change(|tokens| tokens.saturating_sub(TOKEN));
    }

    pub(super) fn succeeded(&self) {
        // A full budget, the usual one, is only read, so that calls on several cores do not fight for it.
        if self.0.tokens.load(Relaxed) < self.0.max {
            let Inner { max, ratio, .. } = *self.0;
            self.0
                .change(|tokens| tokens.saturating_add(ratio).min(max));
        }
    }
}

impl Inner {
    fn allows(&self, tokens: u32) -> bool {
        tokens > self.max / 2
    }

    fn change(&self, new: impl Fn(u32) -> u32) {
        let change = |tokens| Some(new(tokens));
        if let Ok(before) = self.tokens.fetch_update(Relaxed, Relaxed, change) {
            // Of all concurrent changes exactly one passes the threshold each time.
            match (self.allows(before), self.allows(new(before))) {
                (true, false) => meter::exhausted(1.0),
                (false, true) => meter::exhausted(-1.0),
                _ => {}
            }
        }
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        let left = self.tokens.load(Relaxed);
        if !self.allows(left) {
            meter::exhausted(-1.0);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn budget() -> RetryBudget {
        RetryBudget::new(&RetryPolicy::default())
    }

    #[test]
    fn half_of_it_may_be_spent() {
        let budget = budget();
        for left in [9.0, 8.0, 7.0, 6.0] {
            budget.failed();
            assert!(budget.admits() && budget.tokens() == left);
        }
        budget.failed();
        assert!(!budget.admits(), "five of ten are not above the half");
        assert_eq!(budget.withheld(), 1);
        budget.clone().succeeded();
        assert!(budget.admits(), "clones share it");
    }

    proptest! {
        /// Retries stay a share of the calls, whatever the order of successes and failures.
        #[test]
        fn retries_are_bounded_by_successes(calls in proptest::collection::vec(any::<bool>(), 0..500)) {
            let budget = budget();
            let (mut admitted, mut successes) = (0.0, 0.0);
            for success in calls {
                if success {
                    budget.succeeded();
                    successes += 1.0;
                } else {
                    budget.failed();
                    admitted += f64::from(u8::from(budget.admits()));
                }
                prop_assert!((0.0..=10.0).contains(&budget.tokens()));
            }
            prop_assert!(admitted < 5.0 + 0.1 * successes + 1e-9);
        }
    }

    #[test]
    fn threads_lose_no_token() {
        let policy = RetryPolicy::builder().max_tokens(1000).build();
        let budget = RetryBudget::new(&policy.expect("valid"));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..100).for_each(|_| budget.failed()));
            }
        });
        assert_eq!(budget.tokens(), 600.0);
    }
}

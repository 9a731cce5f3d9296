use std::sync::Arc;

use tower::Layer;

use super::{Retry, RetryBudget, RetryPolicy};

/// Makes a call again when that is safe: see the [module](crate::retry).
#[derive(Clone, Debug)]
pub struct RetryLayer {
    policy: Arc<RetryPolicy>,
    budget: RetryBudget,
}

impl RetryLayer {
    /// A layer with a budget of its own, which all services share that it and its clones make. Use a layer per channel.
    pub fn new(policy: RetryPolicy) -> Self {
        Self {
            budget: RetryBudget::new(&policy),
            policy: Arc::new(policy),
        }
    }

    /// Takes `budget` in place of its own: several channels to one peer may share it.
    pub fn with_budget(mut self, budget: RetryBudget) -> Self {
        self.budget = budget;
        self
    }

    /// The budget, to look at.
    pub fn budget(&self) -> RetryBudget {
        self.budget.clone()
    }
}

impl Default for RetryLayer {
    fn default() -> Self {
        Self::new(RetryPolicy::default())
    }
}

impl<S> Layer<S> for RetryLayer {
    type Service = Retry<S>;

    fn layer(&self, inner: S) -> Retry<S> {
        Retry::new(inner, self.policy.clone(), self.budget.clone())
    }
}

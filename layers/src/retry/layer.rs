use std::sync::Arc;

use http::{Request, Response};
use tonic::body::Body;
use tower::{Layer, Service};

use super::{Retry, RetryBudget, RetryFuture, RetryPolicy, call::Shared};
use crate::{BoxError, Methods};

/// Retries a call when that is safe: see the [module](crate::retry).
#[derive(Clone, Debug)]
pub struct RetryLayer {
    shared: Arc<Shared>,
    returned: bool,
}

impl RetryLayer {
    /// A layer with its own budget, which all services of it and its clones share. Use one layer per channel.
    pub fn new(policy: RetryPolicy) -> Self {
        Self {
            shared: Arc::new(Shared {
                budget: RetryBudget::new(&policy),
                policy,
                methods: Methods::default(),
            }),
            returned: false,
        }
    }

    /// Takes each method's settings from the table: whether it is idempotent, and its own policy in place of the layer's. A service config's `retryThrottling`
    /// gives the layer a new budget of that size; call [`with_budget`](Self::with_budget) after this to replace it.
    pub fn methods(mut self, methods: Methods) -> Self {
        let shared = Arc::make_mut(&mut self.shared);
        if let Some((tokens, ratio)) = methods.throttling() {
            shared.budget = RetryBudget::of(tokens, ratio);
        }
        shared.methods = methods;
        self
    }

    /// Uses `budget` in place of its own. Several channels to one peer may share it.
    pub fn with_budget(mut self, budget: RetryBudget) -> Self {
        Arc::make_mut(&mut self.shared).budget = budget;
        self
    }

    /// Says that the service beneath returns the request of a call that never left, in an [`Unsent`](crate::unsent::Unsent) error. Then the layer copies only
    /// requests of idempotent calls; any other call is sent again if it comes back.
    pub fn returned(mut self) -> Self {
        self.returned = true;
        self
    }

    /// Makes one call over `service`, as the layer's service does. `service` must be ready.
    pub fn call<S, R>(&self, mut service: S, request: Request<Body>) -> RetryFuture<S>
    where
        S: Service<Request<Body>, Response = Response<R>> + Clone,
        S::Error: Into<BoxError>,
    {
        self.shared.call(&mut service, request, self.returned)
    }

    /// The budget, for reading.
    pub fn budget(&self) -> RetryBudget {
        self.shared.budget.clone()
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
        Retry::new(inner, self.shared.clone(), self.returned)
    }
}

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use tower::Service;

/// A service that is cloned when it is first used, not when its handle is cloned.
///
/// For each call the layers above clone everything below them, in case the call is retried. A clone of this costs one reference count.
/// The response future is boxed because the layers above move it between their states.
pub struct LazyClone<S> {
    template: Arc<S>,
    /// The clone, made at the first `poll_ready`.
    used: Option<S>,
}

impl<S> LazyClone<S> {
    pub(super) fn new(service: S) -> Self {
        Self {
            template: Arc::new(service),
            used: None,
        }
    }
}

impl<S> Clone for LazyClone<S> {
    /// A clone carries no readiness.
    fn clone(&self) -> Self {
        Self {
            template: self.template.clone(),
            used: None,
        }
    }
}

impl<S: Service<R> + Clone, R> Service<R> for LazyClone<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = Pin<Box<S::Future>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        let template = &self.template;
        let used = self.used.get_or_insert_with(|| S::clone(template));
        used.poll_ready(cx)
    }

    fn call(&mut self, request: R) -> Self::Future {
        let template = &self.template;
        let used = self.used.get_or_insert_with(|| S::clone(template));
        Box::pin(used.call(request))
    }
}

impl<S: fmt::Debug> fmt::Debug for LazyClone<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("LazyClone").field(&self.template).finish()
    }
}

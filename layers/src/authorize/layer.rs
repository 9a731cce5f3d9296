use std::{fmt, sync::Arc};

use tower::Layer;

use super::{Authorize, Denial, Identify, PolicyHandle};
use crate::setters::setters;

pub(super) type Hook = Arc<dyn Fn(&Denial<'_>) + Send + Sync>;

/// Lets pass what the policy permits: see the [module's page](super).
#[derive(Clone)]
pub struct AuthorizeLayer<I> {
    pub(super) handle: PolicyHandle,
    pub(super) identify: I,
    pub(super) hook: Option<Hook>,
    pub(super) max_message_bytes: Option<u32>,
}

impl<I: Identify> AuthorizeLayer<I> {
    /// A layer that asks `identify` who calls and `handle` what they may.
    pub fn new(handle: PolicyHandle, identify: I) -> Self {
        Self {
            handle,
            identify,
            hook: None,
            max_message_bytes: None,
        }
    }

    setters! {
        /// Bounds each message of every caller's requests to this many bytes as they come over the wire. A larger message fails the request with
        /// RESOURCE_EXHAUSTED before its bytes are taken in. The policy may allow single callers less, not more. Default: no bound.
        pub fn max_message_bytes(bytes: u32) => max_message_bytes = Some(bytes);

        /// Calls `hook` for each denial, on the task of the call: it must not block or panic. Unlike events, no denial is left out.
        pub fn on_denial(hook: impl Fn(&Denial<'_>) + Send + Sync + 'static) => hook = Some(Arc::new(hook));
    }
}

impl<S, I: Identify> Layer<S> for AuthorizeLayer<I> {
    type Service = Authorize<S, I>;

    fn layer(&self, inner: S) -> Authorize<S, I> {
        Authorize::new(inner, self.clone())
    }
}

impl<I> fmt::Debug for AuthorizeLayer<I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuthorizeLayer")
            .field("handle", &self.handle)
            .finish_non_exhaustive()
    }
}

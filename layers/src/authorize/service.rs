use std::{
    fmt,
    sync::{Arc, atomic::AtomicBool},
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use tonic::{Status, body::Body};
use tower::Service;

use super::{
    AuthorizeFuture, AuthorizeLayer, Decision, DenialReason, Identify,
    audit::exhausted,
    limiter::Permit,
    request::GuardedBody,
    watch::{Call, Watch},
};
use crate::{BoxError, message_size::is_grpc};

/// The service that [`AuthorizeLayer`] makes.
///
/// A clone carries the inner service's readiness no further than its own clone does.
#[derive(Clone)]
pub struct Authorize<S, I> {
    inner: S,
    layer: AuthorizeLayer<I>,
}

impl<S, I: Identify> Authorize<S, I> {
    pub(super) fn new(inner: S, layer: AuthorizeLayer<I>) -> Self {
        Self { inner, layer }
    }

    /// Decides; what is permitted has its permit and the limit of its messages.
    fn admit(&self, call: &Call) -> Result<(u64, Option<Permit>, Option<u32>), Status> {
        let current = call.shared.current();
        let generation = current.generation;
        let (identity, path) = (call.identity.as_ref(), call.uri.path());
        let refused = match current.policy.decide(identity, path) {
            Decision::Allowed => None,
            Decision::Unauthenticated => Some(DenialReason::Unauthenticated),
            Decision::Denied => Some(DenialReason::NotPermitted),
        };
        let entry = current.policy.entry(identity);
        let (None, Some(entry)) = (refused, entry) else {
            return Err(call.deny(refused.unwrap_or(DenialReason::NotPermitted), generation));
        };
        // Anonymous callers are one.
        let listed = identity.is_none_or(|identity| current.policy.lists(identity));
        let permit = call.shared.limiter.admit(identity, &entry.limits, listed);
        match permit {
            Ok(permit) => Ok((generation, permit, entry.limits.max_message_bytes)),
            Err(why) => {
                let (reason, status) = exhausted(why);
                call.note(reason, generation);
                Err(status)
            }
        }
    }
}

impl<S, I, R> Service<Request<Body>> for Authorize<S, I>
where
    S: Service<Request<Body>, Response = Response<R>>,
    S::Error: Into<BoxError>,
    R: http_body::Body<Data = Bytes>,
    R::Error: Into<BoxError>,
    I: Identify,
{
    type Response = Response<super::AuthorizedBody<R>>;
    type Error = BoxError;
    type Future = AuthorizeFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let identity = self.layer.identify.identify(request.extensions());
        let identity = identity.filter(|it| !it.is_empty());
        let call = Arc::new(Call {
            shared: self.layer.handle.shared.clone(),
            hook: self.layer.hook.clone(),
            identity,
            uri: request.uri().clone(),
            revoked: AtomicBool::new(false),
        });
        let (generation, permit, max) = match self.admit(&call) {
            Ok(admitted) => admitted,
            // The body is dropped unread.
            Err(status) => return AuthorizeFuture::denied(status),
        };
        if let Some(identity) = &call.identity {
            request.extensions_mut().insert(identity.clone());
        }
        if !http_body::Body::is_end_stream(request.body()) {
            let watch = Watch::new(call.clone(), generation);
            // A body that is not gRPC has no messages.
            let of_all = self.layer.max_message_bytes;
            let of_all = of_all
                .filter(|_| is_grpc(request.headers()))
                .unwrap_or(u32::MAX);
            request = request.map(|body| Body::new(GuardedBody::new(body, watch, max, of_all)));
        }
        let watch = Watch::new(call, generation);
        AuthorizeFuture::admitted(self.inner.call(request), watch, permit)
    }
}

impl<S: fmt::Debug, I> fmt::Debug for Authorize<S, I> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Authorize")
            .field("inner", &self.inner)
            .field("layer", &self.layer)
            .finish()
    }
}

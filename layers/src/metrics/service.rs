use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, Response};
use http_body::Body;
use tokio::time::Instant;
use tower::Service;

use super::registry::{Method, Registry};
use crate::{
    BoxError, Deadline,
    classify::{Observe, Outcome, Tracked, TrackedBody, track_at, untracked},
};

/// The service that [`MetricsLayer`](super::MetricsLayer) makes.
#[derive(Clone)]
pub struct Metrics<S> {
    inner: S,
    /// `None` records nothing.
    registry: Option<Arc<Registry>>,
    peer: Option<Arc<str>>,
}

impl<S> Metrics<S> {
    pub(super) fn new(inner: S, registry: Option<Arc<Registry>>, peer: Option<Arc<str>>) -> Self {
        Self {
            inner,
            registry,
            peer,
        }
    }
}

impl<S, B, R> Service<Request<B>> for Metrics<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Error: Into<BoxError>,
    R: Body,
    R::Error: Into<BoxError>,
{
    type Response = Response<TrackedBody<R, Record>>;
    type Error = BoxError;
    type Future = Tracked<S::Future, Record>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        let Some(registry) = &self.registry else {
            return untracked(self.inner.call(request));
        };
        let started = Instant::now();
        let deadline = Deadline::of(&request);
        let path = request.uri().path();
        let method = registry.method(self.peer.as_ref(), request.extensions(), path);
        let future = self.inner.call(request);
        // Only now: had the call panicked, nobody would take it off again.
        method.peer().in_flight.increment(1.0);
        track_at(future, Record { started, method }, deadline, started)
    }
}

/// Waits for a call's end to record it.
pub struct Record {
    started: Instant,
    method: Method,
}

impl Observe for Record {
    fn ended(self, outcome: &Outcome) {
        let code = outcome.code();
        let peer = self.method.peer();
        peer.in_flight.decrement(1.0);
        peer.count_error(outcome);
        let series = self.method.ended(code);
        series.duration(code).record(self.started.elapsed());
    }
}

impl<S: fmt::Debug> fmt::Debug for Metrics<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics")
            .field("inner", &self.inner)
            .field("peer", &self.peer)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record")
            .field("started", &self.started)
            .finish_non_exhaustive()
    }
}

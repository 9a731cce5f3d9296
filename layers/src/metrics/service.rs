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
    classify::{Observe, Outcome, Recorder, Tracked, TrackedBody, Tracking},
    clock,
};

/// Records as a [`MetricsLayer`](super::MetricsLayer) does, for a layer that follows the calls itself: see `BreakerLayer::recording`.
#[derive(Clone)]
pub struct MetricsRecorder {
    /// `None` records nothing.
    pub(super) registry: Option<Arc<Registry>>,
    pub(super) peer: Option<Arc<str>>,
}

impl Recorder for MetricsRecorder {
    type Observer = Option<Record>;

    #[inline]
    fn records(&self) -> bool {
        self.registry.is_some()
    }

    #[inline]
    fn begin<B>(&self, request: &Request<B>) -> Option<Record> {
        let registry = self.registry.as_ref()?;
        let path = request.uri().path();
        let method = registry.method(self.peer.as_ref(), request.extensions(), path);
        method.peer().in_flight.increment(1.0);
        Some(Record {
            started: clock::now(),
            method,
        })
    }
}

/// The service that [`MetricsLayer`](super::MetricsLayer) makes.
#[derive(Clone)]
pub struct Metrics<S> {
    inner: S,
    recorder: MetricsRecorder,
}

impl<S> Metrics<S> {
    pub(super) fn new(inner: S, recorder: MetricsRecorder) -> Self {
        Self { inner, recorder }
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
        let tracking = clock::frozen(|| match self.recorder.begin(&request) {
            Some(record) => Tracking::new(record, Deadline::of(&request)),
            None => Tracking::off(),
        });
        tracking.follow(self.inner.call(request))
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
        let took = clock::now().saturating_duration_since(self.started);
        series.duration(code).record(took);
    }
}

impl<S: fmt::Debug> fmt::Debug for Metrics<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Metrics")
            .field("inner", &self.inner)
            .field("recorder", &self.recorder)
            .finish()
    }
}

impl fmt::Debug for MetricsRecorder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MetricsRecorder")
            .field("is_disabled", &self.registry.is_none())
            .field("peer", &self.peer)
            .finish()
    }
}

impl fmt::Debug for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Record")
            .field("started", &self.started)
            .finish_non_exhaustive()
    }
}

use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use http::Response;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;
use tonic::Code;
use tracing::Span;

use super::{context::TraceContext, layer::Side};
use crate::{
    BoxError,
    classify::{Observe, Outcome, Tracked, TrackedBody, head::is_server_error, name_of},
};

/// What a call is polled in. Shared by what follows it, so that a future is no larger for it where there is none.
#[derive(Debug)]
pub(super) struct Within {
    pub(super) span: Span,
    pub(super) side: Side,
    pub(super) context: TraceContext,
}

impl Within {
    fn enter<T>(&self, f: impl FnOnce() -> T) -> T {
        let _entered = self.span.enter();
        self.context.sync_scope(f)
    }
}

/// Polls within the call's span and trace, where there is one.
pub(super) fn enter<T>(within: &Option<Arc<Within>>, f: impl FnOnce() -> T) -> T {
    match within {
        Some(within) => within.enter(f),
        None => f(),
    }
}

/// Writes the code into the span when the call ends.
#[derive(Debug)]
pub struct SpanEnd(pub(super) Arc<Within>);

impl Observe for SpanEnd {
    fn ended(self, outcome: &Outcome) {
        let within = self.0;
        let code = outcome.code();
        let failed = match within.side {
            Side::Client => code != Code::Ok,
            Side::Server => is_server_error(code),
        };
        let span = &within.span;
        span.record("rpc.response.status_code", name_of(code));
        if failed {
            span.record("otel.status_code", "ERROR");
        }
    }
}

/// The observers of a call's end: the recorder, then the span.
pub(super) type CallObservers<O> = (O, Option<SpanEnd>);

pin_project! {
    /// The future of a [`Trace`](super::Trace).
    #[must_use = "futures do nothing unless polled"]
    pub struct Traced<F, O = ()>
    where
        O: Observe,
    {
        #[pin]
        inner: Tracked<F, CallObservers<O>>,
        within: Option<Arc<Within>>,
    }
}

impl<F, O: Observe> Traced<F, O> {
    pub(super) fn new(inner: Tracked<F, CallObservers<O>>, within: Option<Arc<Within>>) -> Self {
        Self { inner, within }
    }
}

impl<F, R, E, O> Future for Traced<F, O>
where
    F: Future<Output = Result<Response<R>, E>>,
    E: Into<BoxError>,
    R: Body,
    O: Observe,
{
    type Output = Result<Response<TracedBody<R, O>>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        let response = ready!(enter(this.within, || this.inner.poll(cx)))?;
        let within = this.within.take();
        Poll::Ready(Ok(response.map(|inner| TracedBody { inner, within })))
    }
}

pin_project! {
    /// The response's body of a [`Trace`](super::Trace). Its size and its end are the inner body's.
    pub struct TracedBody<B, O = ()>
    where
        O: Observe,
    {
        #[pin]
        inner: TrackedBody<B, CallObservers<O>>,
        within: Option<Arc<Within>>,
    }
}

impl<B, O> Body for TracedBody<B, O>
where
    B: Body,
    B::Error: Into<BoxError>,
    O: Observe,
{
    type Data = B::Data;
    type Error = BoxError;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, BoxError>>> {
        let this = self.project();
        enter(this.within, || this.inner.poll_frame(cx))
    }

    fn is_end_stream(&self) -> bool {
        self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

use std::{
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, Response};
use http_body::Body;
use tower::Service;
use tracing::{Span, field};

use super::{
    context::TraceContext,
    future::{SpanEnd, Traced, TracedBody, Within, enter},
    layer::{Config, Side},
};
use crate::{
    BoxError, Deadline,
    classify::{Recorder, Tracking},
    clock,
};

/// The service that [`TraceLayer`](super::TraceLayer) makes.
#[derive(Clone, Copy, Debug)]
pub struct Trace<S, M = ()> {
    inner: S,
    config: Config,
    /// Records each call beside the span.
    recorder: M,
}

/// At most this much of an incoming call's path goes into its span.
const METHOD_MAX: usize = 200;

impl<S, M> Trace<S, M> {
    pub(super) fn new(inner: S, config: Config, recorder: M) -> Self {
        Self {
            inner,
            config,
            recorder,
        }
    }
}

impl Config {
    /// The call's span and trace; if no subscriber wants the span, the trace is the caller's.
    fn within<B>(&self, request: &Request<B>) -> Option<Arc<Within>> {
        let side = self.side?;
        let method = request.uri().path();
        let mut method = method.strip_prefix('/').unwrap_or(method);
        if side == Side::Server {
            // A stranger may have chosen it.
            method = &method[..method.floor_char_boundary(METHOD_MAX)];
        }
        let (span, given) = match side {
            Side::Client => (span!("client", method), TraceContext::of(request)),
            Side::Server => (span!("server", method), {
                TraceContext::from_headers(request.headers())
            }),
        };
        // A span that encloses this one in the same task is nearer than the task's context, and a propagator knows it.
        let propagator = self.propagator;
        let enclosed = propagator.is_some() && given.is_none() && !Span::current().is_none();
        let parent = match side {
            Side::Client => given.or_else(TraceContext::current),
            Side::Server => given,
        };
        let share = |span, context| {
            Arc::new(Within {
                span,
                side,
                context,
            })
        };
        if span.is_disabled() {
            return parent.map(|context| share(span, context));
        }
        let joined =
            propagator.and_then(|it| it.join(&span, parent.as_ref().filter(|_| !enclosed)));
        let nearest = !(enclosed && joined.is_some());
        let context = match (joined, &parent) {
            (Some(joined), Some(parent)) => joined.with_state_of(parent),
            (Some(joined), None) => joined,
            (None, Some(parent)) => parent.child(),
            (None, None) => TraceContext::root(),
        };
        span.record(
            "trace_id",
            field::display(format_args!("{:032x}", context.trace_id())),
        );
        span.record(
            "span_id",
            field::display(format_args!("{:016x}", context.span_id())),
        );
        if let Some(parent) = parent.filter(|_| nearest) {
            span.record(
                "parent_id",
                field::display(format_args!("{:016x}", parent.span_id())),
            );
        }
        Some(share(span, context))
    }
}

/// A macro, since a span's kind has to be known where it is declared.
macro_rules! span {
    ($kind:literal, $method:expr) => {
        tracing::info_span!(
            target: "tower_iroh::rpc",
            "rpc",
            otel.kind = $kind,
            otel.name = $method,
            otel.status_code = field::Empty,
            rpc.system.name = "grpc",
            rpc.method = $method,
            rpc.response.status_code = field::Empty,
            trace_id = field::Empty,
            span_id = field::Empty,
            parent_id = field::Empty,
            tower_iroh.arm = field::Empty,
            tower_iroh.select.reason = field::Empty,
        )
    };
}
use span;

impl<S, B, R, M> Service<Request<B>> for Trace<S, M>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Error: Into<BoxError>,
    R: Body,
    R::Error: Into<BoxError>,
    M: Recorder,
{
    type Response = Response<TracedBody<R, M::Observer>>;
    type Error = BoxError;
    type Future = Traced<S::Future, M::Observer>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let within = self.config.within(&request);
        if let Some(within) = &within {
            let context = &within.context;
            match within.side {
                Side::Client => context.write(request.headers_mut()),
                Side::Server => {
                    request.extensions_mut().insert(context.clone());
                }
            }
        }
        let tracked = enter(&within, || {
            let tracking = match &within {
                None if !self.recorder.records() => Tracking::off(),
                within => clock::frozen(|| {
                    let observers = (self.recorder.begin(&request), within.clone().map(SpanEnd));
                    Tracking::new(observers, Deadline::of(&request))
                }),
            };
            tracking.follow(self.inner.call(request))
        });
        Traced::new(tracked, within)
    }
}

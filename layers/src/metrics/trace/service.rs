use std::{
    sync::Arc,
    task::{Context, Poll},
};

use http::{Request, Response};
use http_body::Body;
use tower::Service;
use tracing::field;

use super::{
    context::TraceContext,
    future::{Traced, TracedBody, Within, enter},
    layer::Side,
};
use crate::{BoxError, Deadline};

/// The service that [`TraceLayer`](super::TraceLayer) makes.
#[derive(Clone, Copy, Debug)]
pub struct Trace<S> {
    inner: S,
    side: Option<Side>,
}

/// So much of an incoming call's path goes into its span.
const METHOD_MAX: usize = 200;

impl<S> Trace<S> {
    pub(super) fn new(inner: S, side: Option<Side>) -> Self {
        Self { inner, side }
    }

    /// The call's span and trace; where nobody listens to the span, the trace is the caller's.
    fn within<B>(side: Side, request: &Request<B>) -> Option<Arc<Within>> {
        let method = request.uri().path();
        let mut method = method.strip_prefix('/').unwrap_or(method);
        if side == Side::Server {
            // A stranger may have chosen it.
            method = &method[..method.floor_char_boundary(METHOD_MAX)];
        }
        let (span, parent) = match side {
            Side::Client => (span!("client", method), {
                TraceContext::of(request).or_else(TraceContext::current)
            }),
            Side::Server => (span!("server", method), {
                TraceContext::from_headers(request.headers())
            }),
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
        let context = match &parent {
            Some(parent) => parent.child(),
            None => TraceContext::root(),
        };
        span.record(
            "trace_id",
            field::display(format_args!("{:032x}", context.trace_id())),
        );
        span.record(
            "span_id",
            field::display(format_args!("{:016x}", context.span_id())),
        );
        if let Some(parent) = parent {
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

impl<S, B, R> Service<Request<B>> for Trace<S>
where
    S: Service<Request<B>, Response = Response<R>>,
    S::Error: Into<BoxError>,
    R: Body,
    R::Error: Into<BoxError>,
{
    type Response = Response<TracedBody<R>>;
    type Error = BoxError;
    type Future = Traced<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.inner.poll_ready(cx).map_err(Into::into)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        let within = self.side.and_then(|side| Self::within(side, &request));
        let mut deadline = None;
        if let Some(within) = &within {
            let context = &within.context;
            match within.side {
                Side::Client => context.write(request.headers_mut()),
                Side::Server => {
                    request.extensions_mut().insert(context.clone());
                }
            }
            deadline = Deadline::of(&request);
        }
        let future = enter(&within, || self.inner.call(request));
        Traced::new(future, within, deadline)
    }
}

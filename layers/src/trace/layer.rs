use tower::Layer;

use super::{propagator::Propagator, service::Trace};

/// Opens a span for each call and carries its trace: see the [module's page](super).
#[derive(Clone, Copy, Debug)]
pub struct TraceLayer {
    /// `None` opens no span and carries nothing.
    pub(super) side: Option<Side>,
    pub(super) propagator: Option<&'static dyn Propagator>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Client,
    Server,
}

impl TraceLayer {
    /// For a client: writes `traceparent` into each request that belongs to a trace.
    pub fn client() -> Self {
        Self {
            side: Some(Side::Client),
            propagator: None,
        }
    }

    /// For a server: reads `traceparent`, and gives handlers their [`TraceContext`](super::TraceContext).
    pub fn server() -> Self {
        Self {
            side: Some(Side::Server),
            propagator: None,
        }
    }

    /// Opens no span and carries no trace, in the place of one that would.
    pub fn disabled() -> Self {
        Self {
            side: None,
            propagator: None,
        }
    }

    /// Takes the ids of its spans from another tracing system. Default: they are the layer's own.
    pub fn propagator(self, propagator: &'static dyn Propagator) -> Self {
        Self {
            propagator: Some(propagator),
            ..self
        }
    }
}

impl<S> Layer<S> for TraceLayer {
    type Service = Trace<S>;

    fn layer(&self, inner: S) -> Trace<S> {
        Trace::new(inner, *self)
    }
}

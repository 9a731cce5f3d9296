use tower::Layer;

use super::service::Trace;

/// Opens a span for each call and carries its trace: see the [module's page](super).
#[derive(Clone, Copy, Debug)]
pub struct TraceLayer {
    /// `None` opens no span and carries nothing.
    side: Option<Side>,
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
        }
    }

    /// For a server: reads `traceparent`, and gives handlers their [`TraceContext`](super::TraceContext).
    pub fn server() -> Self {
        Self {
            side: Some(Side::Server),
        }
    }

    /// Opens no span and carries no trace, in the place of one that would.
    pub fn disabled() -> Self {
        Self { side: None }
    }
}

impl<S> Layer<S> for TraceLayer {
    type Service = Trace<S>;

    fn layer(&self, inner: S) -> Trace<S> {
        Trace::new(inner, self.side)
    }
}

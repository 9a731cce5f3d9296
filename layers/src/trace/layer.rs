use tower::Layer;

use super::{propagator::Propagator, service::Trace};
use crate::{classify::Recorder, setters::setters};

/// Opens a span for each call and carries its trace: see the [module's page](super).
#[derive(Clone, Copy, Debug)]
pub struct TraceLayer<M = ()> {
    pub(super) config: Config,
    recorder: M,
}

#[derive(Clone, Copy, Debug)]
pub(super) struct Config {
    /// `None` opens no span and carries no trace.
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
        Self::of(Some(Side::Client))
    }

    /// For a server: reads `traceparent`, and gives handlers their [`TraceContext`](super::TraceContext).
    pub fn server() -> Self {
        Self::of(Some(Side::Server))
    }

    /// Opens no span and carries no trace; takes the place of a layer that would.
    pub fn disabled() -> Self {
        Self::of(None)
    }

    fn of(side: Option<Side>) -> Self {
        let config = Config {
            side,
            propagator: None,
        };
        Self {
            config,
            recorder: (),
        }
    }
}

impl<M> TraceLayer<M> {
    setters! {
        /// Takes the ids of its spans from another tracing system. Default: they are the layer's own.
        pub fn propagator(propagator: &'static dyn Propagator) => config.propagator = Some(propagator);
    }

    /// Lets `recorder` record each call too, as a layer below would. Each call is followed once for both, which costs less.
    pub fn recording<R: Recorder>(self, recorder: R) -> TraceLayer<R> {
        TraceLayer {
            config: self.config,
            recorder,
        }
    }
}

impl<S, M: Clone> Layer<S> for TraceLayer<M> {
    type Service = Trace<S, M>;

    fn layer(&self, inner: S) -> Trace<S, M> {
        Trace::new(inner, self.config, self.recorder.clone())
    }
}

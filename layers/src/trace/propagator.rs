use std::fmt;

use tracing::Span;

use super::TraceContext;

/// Gives the layer's spans the ids that another tracing system has for them, such as OpenTelemetry by way of tracing-opentelemetry: see the
/// [module's page](super).
pub trait Propagator: fmt::Debug + Send + Sync {
    /// The ids that `span` has in that system. They are what the wire, the handler and the span's own fields get. `None` if the system does
    /// not know the span: then its ids are the layer's.
    ///
    /// The span was just opened, and nobody has entered it. If there is a `parent`, it is the caller's span, which another process or task
    /// opened: make it the span's parent first. Without one the parent is the span's parent in `tracing`, if it has any.
    fn join(&self, span: &Span, parent: Option<&TraceContext>) -> Option<TraceContext>;
}

use std::fmt;

use tracing::Span;

use super::TraceContext;

/// Gives the layer's spans the ids of another tracing system, such as OpenTelemetry through tracing-opentelemetry: see the [module's
/// page](super).
pub trait Propagator: fmt::Debug + Send + Sync {
    /// Returns the ids that `span` has in that system. The wire, the handler and the span's own fields get them. `None` if the system does
    /// not know the span: then the layer uses its own ids.
    ///
    /// The span was just opened and not yet entered. A `parent` is the caller's span, which another process or task opened: first make it
    /// the span's parent. Without one the parent is the span's parent in `tracing`, if it has any.
    fn join(&self, span: &Span, parent: Option<&TraceContext>) -> Option<TraceContext>;
}

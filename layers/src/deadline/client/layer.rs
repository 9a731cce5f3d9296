use std::time::Duration;

use tower::Layer;

use super::{ClientDeadline, Stamp, StampLayer};
use crate::{ConfigError, Methods, setters::setters};

/// Gives each outgoing call one deadline: see the [module](crate::deadline).
#[derive(Clone, Debug, Default)]
pub struct DeadlineLayer {
    default_timeout: Option<Duration>,
    methods: Methods,
}

impl DeadlineLayer {
    /// A layer that enforces existing deadlines, and gives none to calls without.
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts the deadline above layers that end with a [`StampLayer`], and tells the peer nothing itself.
    pub fn above<S>(&self, inner: S) -> ClientDeadline<S> {
        ClientDeadline::new(inner, self.default_timeout, self.methods.clone())
    }

    /// Builds a layer with settings.
    pub fn builder() -> DeadlineBuilder {
        DeadlineBuilder::default()
    }
}

/// Settings of a [`DeadlineLayer`].
#[derive(Clone, Debug, Default)]
pub struct DeadlineBuilder {
    default_timeout: Option<Duration>,
    methods: Methods,
}

impl DeadlineBuilder {
    setters! {
        /// The most time that a call may take, from its start to the end of its response, whatever its own deadline; none by default.
        ///
        /// As in gRPC's service configuration, the shorter one of this and the caller's wins. A stream that should last for days does not
        /// belong under such a layer.
        pub fn default_timeout(limit: Duration) => default_timeout = Some(limit);

        /// Takes each method's timeout from the table, in place of the default one.
        pub fn methods(methods: Methods) => methods = methods;
    }

    /// The layer.
    ///
    /// # Errors
    /// When the default time-out is zero: no call could be made.
    pub fn build(self) -> Result<DeadlineLayer, ConfigError> {
        if let Some(limit) = self.default_timeout {
            ConfigError::lasting("deadline.default_timeout", limit)?;
        }
        Ok(DeadlineLayer {
            default_timeout: self.default_timeout,
            methods: self.methods,
        })
    }
}

impl<S> Layer<S> for DeadlineLayer {
    type Service = ClientDeadline<Stamp<S>>;

    fn layer(&self, inner: S) -> Self::Service {
        self.above(StampLayer.layer(inner))
    }
}

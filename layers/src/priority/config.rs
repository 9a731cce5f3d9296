use crate::{ConfigError, Urgency, setters::setters};

/// From this many bytes on a message is large.
const LARGE: usize = 64 * 1024;

/// The urgency of calls that set none.
#[derive(Clone, Debug)]
pub struct PriorityConfig {
    pub(super) fallback: Urgency,
    size: Option<(usize, Urgency)>,
}

impl PriorityConfig {
    /// A builder with the defaults.
    pub fn builder() -> PriorityConfigBuilder {
        PriorityConfigBuilder::default()
    }

    /// Ignores size: a call's own urgency counts, then its method's, else the fallback.
    pub fn disabled() -> Self {
        Self {
            size: None,
            ..Self::default()
        }
    }

    setters! {
        /// The same with another urgency for calls whose method is not listed.
        pub fn with_fallback(urgency: Urgency) => fallback = urgency;
    }

    /// The size at which a call of `urgency` becomes less urgent, and its urgency then; `None` if no size does.
    pub(super) fn lowered_from(&self, urgency: Urgency) -> Option<(usize, Urgency)> {
        self.size.filter(|(_, lowered)| *lowered > urgency)
    }
}

impl Default for PriorityConfig {
    /// [`Urgency::INTERACTIVE`], and [`Urgency::BULK`] from 64 KiB on.
    fn default() -> Self {
        Self {
            fallback: Urgency::INTERACTIVE,
            size: Some((LARGE, Urgency::BULK)),
        }
    }
}

/// Makes a [`PriorityConfig`].
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct PriorityConfigBuilder {
    config: PriorityConfig,
}

impl PriorityConfigBuilder {
    setters! {
        /// The urgency of calls that set none and whose method has none in the table. [`Urgency::INTERACTIVE`] unless set.
        pub fn fallback(urgency: Urgency) => config.fallback = urgency;
    }

    /// Calls whose first message has at least `bytes`, at its size on the wire, are at most as urgent as `urgency`. 64 KiB and
    /// [`Urgency::BULK`] unless set.
    pub fn large(mut self, bytes: usize, urgency: Urgency) -> Self {
        self.config.size = Some((bytes, urgency));
        self
    }

    /// Ignores size: no body is read.
    pub fn ignore_size(mut self) -> Self {
        self.config.size = None;
        self
    }

    /// The configuration.
    ///
    /// # Errors
    /// When the size is 0 or longer than any gRPC message.
    pub fn build(self) -> Result<PriorityConfig, ConfigError> {
        let config = self.config;
        if let Some((bytes, _)) = config.size {
            ConfigError::nonzero("priority.large", bytes)?;
            let accepted = "at most 4294967295, the length of the longest message";
            ConfigError::require(
                u32::try_from(bytes).is_ok(),
                "priority.large",
                bytes,
                accepted,
            )?;
        }
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn edges_are_refused_and_named() {
        let field = |builder: PriorityConfigBuilder| {
            let error = builder.build().expect_err("refused");
            error.field()
        };
        let builder = PriorityConfig::builder;
        assert!(builder().build().is_ok());
        assert_eq!(field(builder().large(0, Urgency::BULK)), "priority.large");
        let endless = builder().large(usize::MAX, Urgency::BULK);
        assert_eq!(field(endless), "priority.large");
    }

    #[test]
    fn size_lowers_and_never_raises() {
        let config = PriorityConfig::default();
        let lowered = Some((LARGE, Urgency::BULK));
        assert_eq!(config.lowered_from(Urgency::CONTROL), lowered);
        assert_eq!(config.lowered_from(Urgency::BULK), None);
        assert_eq!(config.lowered_from(Urgency::LOWEST), None);
    }
}

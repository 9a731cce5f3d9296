use std::time::Duration;

use http::Request;

use super::{
    WaitForReady,
    entry::{Limits, Overflow},
};
use crate::{ConfigError, Methods, setters::setters};

/// How much a buffer may hold, and for how long.
#[derive(Clone, Debug)]
pub struct BufferConfig {
    pub(super) limits: Limits,
    pub(super) sweep: Duration,
    pub(super) max_attempts: u32,
    pub(super) disabled: bool,
}

impl BufferConfig {
    /// Serves no call, not even those with [`WaitForReady`](super::WaitForReady): all pass by.
    pub fn disabled() -> Self {
        Self {
            disabled: true,
            ..Self::default()
        }
    }

    /// Whether a call waits for the peer: its method [waits](crate::MethodConfig::wait_for_ready), or it carries [`WaitForReady`](super::WaitForReady).
    pub fn serves<B>(&self, request: &Request<B>, methods: &Methods) -> bool {
        !self.disabled
            && (request.extensions().get::<WaitForReady>().is_some()
                || methods.get(request.uri().path()).waits_for_ready())
    }

    /// A builder with the defaults.
    pub fn builder() -> BufferConfigBuilder {
        BufferConfigBuilder::default()
    }
}

impl Default for BufferConfig {
    /// 1,000 calls, 16 MiB, 300 s, swept every
    /// 5 s, [`Overflow::RejectNewest`], five attempts that may have arrived.
    fn default() -> Self {
        Self {
            limits: Limits {
                calls: 1_000,
                bytes: 16 << 20,
                ttl: Duration::from_secs(300),
                overflow: Overflow::default(),
            },
            sweep: Duration::from_secs(5),
            max_attempts: 5,
            disabled: false,
        }
    }
}

/// Makes a [`BufferConfig`].
#[derive(Clone, Debug, Default)]
#[must_use]
pub struct BufferConfigBuilder {
    config: BufferConfig,
    sweep: Option<Duration>,
}

/// A more frequent sweep would keep a processor busy.
const SHORTEST_SWEEP: Duration = Duration::from_millis(1);

impl BufferConfigBuilder {
    setters! {
        /// How many calls the buffer may hold. 1,000 unless set. Calls that wait count, and calls in flight that can still come back.
        ///
        /// A ready peer's calls are never refused: beyond this limit they go straight through and are not held, so they cannot come back.
        pub fn max_calls(calls: usize) => config.limits.calls = calls;

        /// How many bytes of messages the buffer may hold, for the calls that [`max_calls`](Self::max_calls) counts. 16 MiB unless set. Metadata is not
        /// counted: `max_calls` bounds it.
        pub fn max_bytes(bytes: usize) => config.limits.bytes = bytes;

        /// How long a call may wait, its attempts included. 300 s unless set. A call's deadline may end it earlier, and so may its method's
        /// [`buffer_ttl`](crate::MethodConfig::buffer_ttl).
        pub fn ttl(ttl: Duration) => config.limits.ttl = ttl;

        /// How often the buffer looks for calls whose time to live is over, while any call waits. 5 s unless set, or the time to live if that is shorter.
        /// Deadlines are kept exactly.
        pub fn sweep(every: Duration) => sweep = Some(every);

        /// Which call is dropped when a call has to wait and there is no capacity. [`Overflow::RejectNewest`] unless set.
        pub fn overflow(overflow: Overflow) => config.limits.overflow = overflow;

        /// How many attempts of an idempotent call may reach the peer, the first one included. 5 unless set. If none of them was answered, the call ends
        /// with [`BufferReason::Attempts`](super::BufferReason::Attempts). Attempts that provably did not arrive are not counted; the time to live bounds
        /// those.
        ///
        /// This protects the peer from a call that crashes it each time.
        pub fn max_attempts(attempts: u32) => config.max_attempts = attempts;
    }

    /// The configuration.
    ///
    /// # Errors
    /// A limit of zero, a time to live of zero or above 365 days, or a sweep below 1 ms or above the time to live.
    pub fn build(self) -> Result<BufferConfig, ConfigError> {
        let mut config = self.config;
        let Limits {
            calls, bytes, ttl, ..
        } = config.limits;
        ConfigError::nonzero("buffer.max_calls", calls)?;
        ConfigError::nonzero("buffer.max_bytes", bytes)?;
        ConfigError::lasting("buffer.ttl", ttl)?;
        ConfigError::nonzero("buffer.max_attempts", config.max_attempts)?;
        config.sweep = match self.sweep {
            Some(sweep) => {
                ConfigError::within("buffer.sweep", sweep, SHORTEST_SWEEP..=ttl)?;
                sweep
            }
            None => config.sweep.min(ttl).max(SHORTEST_SWEEP),
        };
        Ok(config)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn field(builder: BufferConfigBuilder) -> &'static str {
        builder.build().expect_err("refused").field()
    }

    #[test]
    fn edges_are_refused_and_named() {
        let builder = BufferConfig::builder;
        assert!(builder().build().is_ok());
        assert_eq!(field(builder().max_calls(0)), "buffer.max_calls");
        assert_eq!(field(builder().max_bytes(0)), "buffer.max_bytes");
        assert_eq!(field(builder().max_attempts(0)), "buffer.max_attempts");
        assert_eq!(field(builder().ttl(Duration::ZERO)), "buffer.ttl");
        assert_eq!(field(builder().ttl(Duration::MAX)), "buffer.ttl");
        assert_eq!(field(builder().sweep(Duration::ZERO)), "buffer.sweep");
        let second = Duration::from_secs(1);
        assert!(builder().ttl(second).build().is_ok());
        let contradiction = builder().ttl(second).sweep(second * 2);
        assert_eq!(field(contradiction), "buffer.sweep");
    }
}

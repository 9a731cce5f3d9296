use std::time::Duration;

use tonic::Code;

use crate::{ConfigError, setters::setters};

/// What is sent again, how often, and how soon. Which methods may be executed twice is in the [table of methods](crate::methods).
#[derive(Clone, Debug, PartialEq)]
pub struct RetryPolicy {
    pub(super) max_attempts: u32,
    pub(super) backoff: Backoff,
    /// A bit per code.
    codes: u32,
    pub(super) is_disabled: bool,
    pub(super) max_buffered: usize,
    pub(super) max_tokens: u32,
    pub(super) token_ratio: f64,
}

/// How long to wait before an attempt: A6, "Exponential Backoff".
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Backoff {
    pub(super) initial: Duration,
    pub(super) max: Duration,
    pub(super) multiplier: f64,
    pub(super) jitter: f64,
}

impl Backoff {
    /// The `n`th wait, counted from 0. `random` is within 0 to 1.
    pub(super) fn wait(&self, n: u32, random: f64) -> Duration {
        let exponent = i32::try_from(n).unwrap_or(i32::MAX);
        let grown = self.initial.as_secs_f64() * self.multiplier.powi(exponent);
        // `min` takes the other one where the growth has left the numbers.
        let capped = grown.min(self.max.as_secs_f64());
        let factor = 1.0 + self.jitter * (2.0 * random - 1.0);
        Duration::try_from_secs_f64(capped * factor).unwrap_or(self.max)
    }
}

const fn bit(code: Code) -> u32 {
    1 << (code as u32)
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self {
            max_attempts: 3,
            backoff: Backoff {
                initial: Duration::from_millis(100),
                max: Duration::from_secs(1),
                multiplier: 2.0,
                jitter: 0.2,
            },
            codes: bit(Code::Unavailable),
            is_disabled: false,
            max_buffered: 256 << 10,
            max_tokens: 10,
            token_ratio: 0.1,
        }
    }
}

impl RetryPolicy {
    /// Sends nothing again, not even a call that the peer provably has not begun, whatever policy a method has. Keeps nothing of a call and charges no
    /// budget.
    pub fn disabled() -> Self {
        Self {
            max_attempts: 1,
            is_disabled: true,
            ..Self::default()
        }
    }

    /// Builds a policy, from the defaults.
    pub fn builder() -> RetryPolicyBuilder {
        RetryPolicyBuilder::default()
    }

    /// How often a call may reach the peer, the first attempt included.
    pub fn max_attempts(&self) -> u32 {
        self.max_attempts
    }

    /// The wait before the first retry.
    pub fn initial_backoff(&self) -> Duration {
        self.backoff.initial
    }

    /// The longest wait, before jitter.
    pub fn max_backoff(&self) -> Duration {
        self.backoff.max
    }

    /// The factor of each further wait.
    pub fn multiplier(&self) -> f64 {
        self.backoff.multiplier
    }

    /// The codes that are retried, by their number.
    pub fn codes(&self) -> impl Iterator<Item = Code> {
        let all = (0..=16).map(Code::from_i32);
        all.filter(|code| self.retries(*code))
    }

    pub(super) fn retries(&self, code: Code) -> bool {
        self.codes & bit(code) != 0
    }
}

/// Settings of a [`RetryPolicy`]. Each method names its default.
#[derive(Clone, Debug, Default)]
pub struct RetryPolicyBuilder {
    policy: RetryPolicy,
    codes: Option<Vec<Code>>,
}

impl RetryPolicyBuilder {
    setters! {
        /// How often a call may reach the peer, the first attempt included: 3. The same limit applies separately to attempts that never reached the peer. 1
        /// sends nothing again.
        pub fn max_attempts(attempts: u32) => policy.max_attempts = attempts;

        /// The wait before the first retry: 100 ms.
        pub fn initial_backoff(wait: Duration) => policy.backoff.initial = wait;

        /// The longest wait, before jitter: 1 s.
        pub fn max_backoff(wait: Duration) => policy.backoff.max = wait;

        /// The factor of each further wait: 2.0.
        pub fn multiplier(multiplier: f64) => policy.backoff.multiplier = multiplier;

        /// How far a wait is moved at random, up or down, as a share of it: 0.2.
        pub fn jitter(share: f64) => policy.backoff.jitter = share;
    }

    /// The codes that are retried: UNAVAILABLE. This replaces the list.
    pub fn codes(mut self, codes: impl IntoIterator<Item = Code>) -> Self {
        self.codes = Some(codes.into_iter().collect());
        self
    }

    setters! {
        /// How much of one request is kept for a retry, in bytes: 256 KiB. Each frame counts 32 bytes beside its data.
        ///
        /// A larger request is sent unchanged, and not again once more than this has left. This times the calls in flight bounds the memory. A unary request is
        /// held anyway until it is sent, and costs no copy. gRPC's Go client has the same limit, Java's 1 MiB.
        pub fn max_buffered(bytes: usize) => policy.max_buffered = bytes;

        /// The budget's size, A6's `maxTokens`: 10. Each failure takes one token; at half of them or fewer nothing is retried.
        pub fn max_tokens(tokens: u32) => policy.max_tokens = tokens;

        /// What each success returns to the budget, A6's `tokenRatio`: 0.1, so one retry in ten calls in the long run. Three decimals count.
        pub fn token_ratio(ratio: f64) => policy.token_ratio = ratio;
    }

    /// Builds the policy.
    ///
    /// # Errors
    /// When a number that must not be is zero, a number is NaN or out of its range, the initial backoff is above the maximum, or the codes include OK.
    pub fn build(self) -> Result<RetryPolicy, ConfigError> {
        let mut policy = self.policy;
        ConfigError::nonzero("retry.max_attempts", policy.max_attempts)?;
        let Backoff {
            initial,
            max,
            multiplier,
            jitter,
        } = policy.backoff;
        ConfigError::lasting("retry.initial_backoff", initial)?;
        ConfigError::lasting("retry.max_backoff", max)?;
        ConfigError::require(
            initial <= max,
            "retry.initial_backoff",
            initial,
            format!("must be at most retry.max_backoff, {max:?}"),
        )?;
        ConfigError::within("retry.multiplier", multiplier, 1.0..=1000.0)?;
        ConfigError::share("retry.jitter", jitter)?;
        ConfigError::within("retry.max_tokens", policy.max_tokens, 1..=1000)?;
        ConfigError::within("retry.token_ratio", policy.token_ratio, 0.001..=1000.0)?;
        if let Some(codes) = self.codes {
            if codes.contains(&Code::Ok) {
                let accepted = "what has succeeded is not sent again";
                return Err(ConfigError::new("retry.codes", "OK", accepted));
            }
            policy.codes = codes.into_iter().fold(0, |all, code| all | bit(code));
        }
        Ok(policy)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn waits_grow_to_their_cap() {
        let backoff = RetryPolicy::default().backoff;
        let middle: Vec<_> = (0..6).map(|n| backoff.wait(n, 0.5).as_millis()).collect();
        assert_eq!(middle, [100, 200, 400, 800, 1000, 1000]);
        assert_eq!(backoff.wait(0, 0.0), Duration::from_millis(80));
        assert_eq!(backoff.wait(9, 1.0), Duration::from_millis(1200));
    }

    proptest! {
        #[test]
        fn a_wait_is_within_its_jitter(n in any::<u32>(), random in 0.0..=1.0) {
            let backoff = RetryPolicy::default().backoff;
            let (wait, middle) = (backoff.wait(n, random), backoff.wait(n, 0.5));
            prop_assert!(wait >= middle.mul_f64(0.7999) && wait <= middle.mul_f64(1.2001));
        }

        #[test]
        fn no_setting_that_is_accepted_panics(
            initial in 1..u64::MAX, max in 1..u64::MAX, multiplier in 1.0..1000.0, jitter in 0.0..=1.0, n in any::<u32>(),
        ) {
            let backoff = Backoff { initial: Duration::from_secs(initial), max: Duration::from_secs(max), multiplier, jitter };
            backoff.wait(n, 1.0);
        }
    }

    #[test]
    fn settings_that_cannot_be_are_refused() {
        let field = |builder: RetryPolicyBuilder| builder.build().expect_err("refused").field();
        let new = RetryPolicy::builder;
        assert_eq!(field(new().max_attempts(0)), "retry.max_attempts");
        assert_eq!(
            field(new().initial_backoff(Duration::ZERO)),
            "retry.initial_backoff"
        );
        assert_eq!(
            field(new().max_backoff(Duration::ZERO)),
            "retry.max_backoff"
        );
        assert_eq!(
            field(new().initial_backoff(Duration::from_secs(2))),
            "retry.initial_backoff"
        );
        for bad in [0.0, 0.9, f64::NAN, f64::INFINITY] {
            assert_eq!(field(new().multiplier(bad)), "retry.multiplier");
        }
        for bad in [-0.1, 1.1, f64::NAN] {
            assert_eq!(field(new().jitter(bad)), "retry.jitter");
        }
        for bad in [0.0, -1.0, 0.0001, f64::NAN] {
            assert_eq!(field(new().token_ratio(bad)), "retry.token_ratio");
        }
        assert_eq!(field(new().max_tokens(0)), "retry.max_tokens");
        assert_eq!(field(new().codes([Code::Ok])), "retry.codes");
        assert!(new().codes([]).max_buffered(0).build().is_ok());
    }
}

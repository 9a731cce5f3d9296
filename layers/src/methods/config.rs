use std::time::Duration;

#[cfg(feature = "retry")]
use crate::retry::RetryPolicy;
#[cfg(feature = "select")]
use crate::select::Choice;
use crate::{ConfigError, Urgency, setters::setters};

/// What a [table](crate::methods) says of a method, of a service, or of everything else. What is not set is inherited.
#[derive(Clone, Debug, Default, PartialEq)]
#[must_use]
pub struct MethodConfig {
    timeout: Option<Duration>,
    wait_for_ready: Option<bool>,
    idempotent: Option<bool>,
    buffer_ttl: Option<Duration>,
    urgency: Option<Urgency>,
    #[cfg(feature = "retry")]
    retry: Option<RetryPolicy>,
    #[cfg(feature = "select")]
    transport: Option<Choice>,
    /// It is an entry of gRPC's service config, whose settings are not inherited.
    is_grpcs: bool,
}

impl MethodConfig {
    /// Sets nothing.
    pub fn new() -> Self {
        Self::default()
    }

    setters! {
        /// The longest time that a call may take, to the end of its response. The shortest of this, the call's own `grpc-timeout` and an inherited deadline counts. It takes
        /// the place of the deadline layer's default timeout, and may be longer.
        pub fn timeout(timeout: Duration) => timeout = Some(timeout);

        /// Whether calls wait for the peer instead of failing fast, as gRPC's `wait_for_ready`. The buffer holds them.
        pub fn wait_for_ready(waits: bool) => wait_for_ready = Some(waits);

        /// Whether a call may be executed twice: retry and buffer send it again although it may have arrived, and a transport with early data may send it early. Default false.
        pub fn idempotent(is_idempotent: bool) => idempotent = Some(is_idempotent);

        /// The longest time that the buffer holds a call that waits for the peer.
        pub fn buffer_ttl(ttl: Duration) => buffer_ttl = Some(ttl);

        /// The urgency of calls that set none.
        pub fn urgency(urgency: Urgency) => urgency = Some(urgency);

        /// Which calls are sent again, how often, and how soon. The policy's `max_tokens` and `token_ratio` have no effect here: the budget is the channel's.
        #[cfg(feature = "retry")]
        pub fn retry(policy: RetryPolicy) => retry = Some(policy);

        /// Over which arm calls go. Methods with equal choices are one rule, whose calls are measured together. The pattern `*` cannot have one: the selection's policy has
        /// the default.
        #[cfg(feature = "select")]
        pub fn transport(choice: Choice) => transport = Some(choice);
    }

    #[cfg(feature = "service-config")]
    pub(super) fn of_service_config() -> Self {
        Self {
            is_grpcs: true,
            ..Self::default()
        }
    }

    /// Whether it says that calls wait for the peer, or that they do not.
    pub fn waits(&self) -> Option<bool> {
        self.wait_for_ready
    }

    /// Whether it says that a call may be executed twice, or that it may not.
    pub fn may_repeat(&self) -> Option<bool> {
        self.idempotent
    }

    /// Takes the settings of `other` for the same methods; the name of a setting that both have with different values.
    pub(super) fn merge(&mut self, other: Self) -> Result<(), &'static str> {
        join(&mut self.timeout, other.timeout, "timeout")?;
        let waits = (&mut self.wait_for_ready, other.wait_for_ready);
        join(waits.0, waits.1, "wait_for_ready")?;
        join(&mut self.idempotent, other.idempotent, "idempotent")?;
        join(&mut self.buffer_ttl, other.buffer_ttl, "buffer_ttl")?;
        join(&mut self.urgency, other.urgency, "urgency")?;
        #[cfg(feature = "retry")]
        join(&mut self.retry, other.retry, "retry")?;
        #[cfg(feature = "select")]
        join(&mut self.transport, other.transport, "transport")?;
        self.is_grpcs |= other.is_grpcs;
        Ok(())
    }

    /// Takes what it leaves out from the next less specific entry.
    pub(super) fn inherit(&mut self, from: &Self) {
        if !self.is_grpcs {
            self.timeout = self.timeout.or(from.timeout);
            self.wait_for_ready = self.wait_for_ready.or(from.wait_for_ready);
            self.idempotent = self.idempotent.or(from.idempotent);
            #[cfg(feature = "retry")]
            if self.retry.is_none() {
                self.retry.clone_from(&from.retry);
            }
        }
        self.buffer_ttl = self.buffer_ttl.or(from.buffer_ttl);
        self.urgency = self.urgency.or(from.urgency);
        #[cfg(feature = "select")]
        if self.transport.is_none() {
            self.transport.clone_from(&from.transport);
        }
    }

    /// Refuses values that are out of range; `name` is the pattern.
    pub(super) fn check(&self, name: &str) -> Result<(), ConfigError> {
        let place = |setting| place(name, setting);
        if let Some(timeout) = self.timeout {
            let check = ConfigError::lasting("methods.timeout", timeout);
            check.map_err(|error| error.at(place("timeout")))?;
        }
        if let Some(ttl) = self.buffer_ttl {
            let check = ConfigError::lasting("methods.buffer_ttl", ttl);
            check.map_err(|error| error.at(place("buffer_ttl")))?;
        }
        #[cfg(feature = "select")]
        if let (Some(choice), "*") = (&self.transport, name) {
            let accepted =
                "a method or a service is accepted; the selection's policy has the default";
            let error = ConfigError::new("methods.transport", format_args!("{choice:?}"), accepted);
            return Err(error.at(place("transport")));
        }
        Ok(())
    }
}

/// The name of a setting of an entry.
pub(super) fn place(pattern: &str, setting: &str) -> String {
    format!("methods.{pattern:?}.{setting}")
}

fn join<T: PartialEq>(
    mine: &mut Option<T>,
    theirs: Option<T>,
    name: &'static str,
) -> Result<(), &'static str> {
    match (&mine, &theirs) {
        (Some(mine), Some(theirs)) if mine != theirs => return Err(name),
        (None, Some(_)) => *mine = theirs,
        _ => {}
    }
    Ok(())
}

/// What a [table](crate::methods) says of one method, with all that it inherits.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct MethodEntry(pub(super) MethodConfig);

impl From<MethodConfig> for MethodEntry {
    /// What an entry says by itself, without what it inherits in a table.
    fn from(config: MethodConfig) -> Self {
        Self(config)
    }
}

impl MethodEntry {
    /// The longest time that a call may take.
    pub fn timeout(&self) -> Option<Duration> {
        self.0.timeout
    }

    /// Whether calls wait for the peer.
    pub fn waits_for_ready(&self) -> bool {
        self.0.wait_for_ready.unwrap_or(false)
    }

    /// Whether a call may be executed twice.
    pub fn is_idempotent(&self) -> bool {
        self.0.idempotent.unwrap_or(false)
    }

    /// The longest time that the buffer holds a call.
    pub fn buffer_ttl(&self) -> Option<Duration> {
        self.0.buffer_ttl
    }

    /// The urgency of calls that set none.
    pub fn urgency(&self) -> Option<Urgency> {
        self.0.urgency
    }

    /// Which calls are sent again, how often, and how soon.
    #[cfg(feature = "retry")]
    pub fn retry(&self) -> Option<&RetryPolicy> {
        self.0.retry.as_ref()
    }

    /// Over which arm calls go.
    #[cfg(feature = "select")]
    pub fn transport(&self) -> Option<&Choice> {
        self.0.transport.as_ref()
    }
}

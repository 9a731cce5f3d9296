use std::{sync::Arc, time::Duration};

use tokio::sync::watch;
use tower_iroh_layers::{
    ConfigError, Urgency,
    breaker::{BreakerConfig, Circuit},
    buffer::BufferConfig,
    deadline::DeadlineLayer,
    fail_fast::FailFastConfig,
    metrics::{MetricsLayer, trace::TraceLayer},
    priority::{PriorityConfig, PriorityLayer},
    retry::{RetryBudget, RetryPolicy},
};

use super::{NewCircuit, Stack};
use crate::{peer::TransportKind, pool::State};

/// Settings of a [`Stack`]: each layer to be configured or left out.
///
/// What is left out stays in its place and does nothing, so that the type is the same.
#[derive(Clone, Debug)]
#[must_use]
pub struct StackBuilder {
    timeout: Option<Duration>,
    urgency: Option<Urgency>,
    transport: Option<&'static str>,
    metrics: Option<MetricsLayer>,
    trace: TraceLayer,
    priority: PriorityConfig,
    retry: RetryPolicy,
    budget: Option<RetryBudget>,
    buffer: BufferConfig,
    fail_fast: FailFastConfig,
    breaker: NewCircuit,
    /// Whether the breaker was configured here.
    configures_breaker: bool,
    circuit: Option<Circuit>,
    circuits_of: [Option<Circuit>; 2],
    connection: Option<watch::Receiver<State>>,
    only: Option<TransportKind>,
    is_channels: bool,
}

impl Default for StackBuilder {
    fn default() -> Self {
        Self {
            timeout: None,
            urgency: None,
            transport: None,
            metrics: Some(MetricsLayer::client()),
            trace: TraceLayer::client(),
            priority: PriorityConfig::default(),
            retry: RetryPolicy::default(),
            budget: None,
            buffer: BufferConfig::default(),
            fail_fast: FailFastConfig::default(),
            breaker: NewCircuit {
                config: Some(BreakerConfig::default()),
                transport: "any",
                rtt: None,
            },
            configures_breaker: false,
            circuit: None,
            circuits_of: [None, None],
            connection: None,
            only: None,
            is_channels: false,
        }
    }
}

impl StackBuilder {
    /// The longest that a call may take, from the call to the end of its response. Default: as long as the call itself says.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// The urgency of calls that say nothing of their own and whose method is not listed. Default [`Urgency::INTERACTIVE`].
    pub fn urgency(mut self, urgency: Urgency) -> Self {
        self.urgency = Some(urgency);
        self
    }

    /// What metrics call the transport beneath. Default "any". A [`Channel`](crate::Channel) says "iroh" or "tcp" itself, and refuses another name.
    pub fn transport(mut self, name: &'static str) -> Self {
        self.transport = Some(name);
        self
    }

    /// How calls are recorded: a [`MetricsLayer::client`] with other settings.
    pub fn metrics(mut self, metrics: MetricsLayer) -> Self {
        self.metrics = Some(metrics);
        self
    }

    /// Records no call and no attempt.
    pub fn without_metrics(mut self) -> Self {
        self.metrics = None;
        self
    }

    /// Opens no span, and carries no trace onwards.
    pub fn without_trace(mut self) -> Self {
        self.trace = TraceLayer::disabled();
        self
    }

    /// How a call's urgency is decided. Default: a message of 64 KiB or more is bulk.
    pub fn priority(mut self, priority: PriorityConfig) -> Self {
        self.priority = priority;
        self
    }

    /// Goes by what a call itself says, and by [`urgency`](Self::urgency) else.
    pub fn without_priority(mut self) -> Self {
        self.priority = PriorityConfig::disabled();
        self
    }

    /// What is made again. Default: what provably never reached the peer, and no method by its code, as none is listed.
    pub fn retry(mut self, retry: RetryPolicy) -> Self {
        self.retry = retry;
        self
    }

    /// A budget that others share: for several channels to one peer. By default each service has one of its own.
    pub fn retry_budget(mut self, budget: RetryBudget) -> Self {
        self.budget = Some(budget);
        self
    }

    /// Makes nothing again, not even what never left.
    pub fn without_retry(mut self) -> Self {
        self.retry = RetryPolicy::disabled();
        self
    }

    /// What waits for the peer, and how much of it. Default: calls with [`WaitForReady`](tower_iroh_layers::buffer::WaitForReady).
    pub fn buffer(mut self, buffer: BufferConfig) -> Self {
        self.buffer = buffer;
        self
    }

    /// Holds no call back, even if it asks for that.
    pub fn without_buffer(mut self) -> Self {
        self.buffer = BufferConfig::disabled();
        self
    }

    /// How long calls that are not buffered wait for a peer that is not ready. Default 2 s. Without a reason of its own it gives the breaker's.
    pub fn fail_fast(mut self, fail_fast: FailFastConfig) -> Self {
        self.fail_fast = fail_fast;
        self
    }

    /// Lets calls wait for the peer until their deadline.
    pub fn without_fail_fast(mut self) -> Self {
        self.fail_fast = FailFastConfig::disabled();
        self
    }

    /// When the breaker opens, and for how long. Each service that the stack is put on has a circuit of its own.
    ///
    /// A circuit that is [given](Self::circuit) has its own settings: both together are refused.
    pub fn breaker(mut self, breaker: BreakerConfig) -> Self {
        self.breaker.config = Some(breaker);
        self.configures_breaker = true;
        self
    }

    /// A circuit that others share: one of a [`Registry`](tower_iroh_layers::breaker::Registry), for several channels to one peer. It keeps the
    /// round-trip time and the transport's name that it was built with.
    ///
    /// A channel that chooses between two transports has a circuit for each: see [`circuit_of`](Self::circuit_of).
    pub fn circuit(mut self, circuit: Circuit) -> Self {
        self.circuit = Some(circuit);
        self
    }

    /// The same for one of the transports of a [`Channel`](crate::Channel).
    pub fn circuit_of(mut self, transport: TransportKind, circuit: Circuit) -> Self {
        self.circuits_of[transport as usize] = Some(circuit);
        self
    }

    /// Calls the peer however often it fails, and takes back any breaker or circuit that was set before. The circuit is forced closed; releasing or
    /// resetting it turns the breaker on.
    pub fn without_breaker(mut self) -> Self {
        self.breaker.config = None;
        self.configures_breaker = false;
        self.circuit = None;
        self.circuits_of = [None, None];
        self
    }

    /// Leaves out all of them, but for the deadline: what a call brings with it is kept to.
    pub fn without_layers(self) -> Self {
        self.without_metrics()
            .without_trace()
            .without_priority()
            .without_retry()
            .without_buffer()
            .without_fail_fast()
            .without_breaker()
    }

    /// Where the smoothed round-trip time to the peer is known: a missed deadline of less than four of them is no failure of the peer's. A
    /// [`Channel`](crate::Channel) knows its own, and refuses another.
    pub fn rtt(mut self, rtt: impl Fn() -> Option<Duration> + Send + Sync + 'static) -> Self {
        self.breaker.rtt = Some(Arc::new(rtt));
        self
    }

    /// What is made again, and which methods may be.
    pub(in crate::channel) fn declared(&self) -> &RetryPolicy {
        &self.retry
    }

    /// Takes what a channel knows of itself, which a stack is not to be told by anybody else.
    pub(in crate::channel) fn of_channel(
        mut self,
        transports: &[TransportKind],
    ) -> Result<Self, ConfigError> {
        if let Some(name) = self.transport {
            let accepted = "a channel names its own transport: leave it out";
            return Err(ConfigError::new("stack.transport", name, accepted));
        }
        if self.breaker.rtt.is_some() {
            let accepted = "a channel knows its own round trip: leave it out";
            return Err(ConfigError::new("stack.rtt", "set on a channel", accepted));
        }
        for transport in TransportKind::ALL {
            let circuit = &self.circuits_of[transport as usize];
            if circuit.is_some() && !transports.contains(&transport) {
                let value =
                    format_args!("set for {transport}, over which the channel does not lead");
                let accepted = "a circuit for each transport of the channel, or none";
                return Err(ConfigError::new("stack.circuit_of", value, accepted));
            }
        }
        self.is_channels = true;
        match transports {
            [only] => {
                let own = self.circuits_of[*only as usize].take();
                if own.is_some() && self.circuit.is_some() {
                    let accepted = "one of circuit and circuit_of";
                    return Err(ConfigError::new("stack.circuit", "set twice", accepted));
                }
                self.circuit = self.circuit.or(own);
                self.transport = Some(only.as_str());
                self.only = Some(*only);
            }
            _ if self.circuit.is_some() => {
                let value = "set on a channel over two transports";
                let accepted = "circuit_of, which sets the circuit of one transport";
                return Err(ConfigError::new("stack.circuit", value, accepted));
            }
            _ => {}
        }
        Ok(self)
    }

    /// The connection beneath of a channel over one transport: that it comes to be is a sign of life, and it knows its round trip.
    pub(in crate::channel) fn over(mut self, connection: super::ArmContext) -> Self {
        self.connection = Some(connection.state);
        self.breaker.rtt = Some(connection.rtt);
        self
    }

    /// Checks the settings.
    ///
    /// # Errors
    /// [`ConfigError`], naming the setting, its value, and what is accepted.
    pub fn build(self) -> Result<Stack, ConfigError> {
        let shares = self.circuit.is_some() || self.circuits_of.iter().any(Option::is_some);
        if shares && self.configures_breaker {
            let value = "set beside a circuit that is shared";
            let accepted = "the circuit's own settings, where it is built; or no shared circuit";
            return Err(ConfigError::new("stack.breaker", value, accepted));
        }
        if !self.is_channels && self.circuits_of.iter().any(Option::is_some) {
            let value = "set on a stack over one service";
            let accepted = "circuit, which sets the only circuit";
            return Err(ConfigError::new("stack.circuit_of", value, accepted));
        }
        let deadline = match self.timeout {
            Some(timeout) => {
                ConfigError::lasting("stack.timeout", timeout)?;
                DeadlineLayer::builder().default_timeout(timeout).build()?
            }
            None => DeadlineLayer::new(),
        };
        let priority = match self.urgency {
            Some(urgency) => self.priority.with_fallback(urgency),
            None => self.priority,
        };
        Ok(Stack {
            records: self.metrics.is_some(),
            calls: self.metrics.unwrap_or_else(MetricsLayer::disabled),
            trace: self.trace,
            deadline,
            priority: PriorityLayer::new(priority),
            retry: self.retry,
            budget: self.budget,
            buffer: self.buffer,
            fail_fast: self.fail_fast,
            circuit: self.circuit,
            circuits_of: self.circuits_of,
            new_circuit: NewCircuit {
                transport: self.transport.unwrap_or("any"),
                ..self.breaker
            },
            connection: self.connection,
            only: self.only,
        })
    }
}

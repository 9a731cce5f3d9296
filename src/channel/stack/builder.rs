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
    select::Arm,
};

use super::{NewCircuit, Stack};
use crate::pool::State;

/// Settings of a [`Stack`]: each layer to be configured or left out.
///
/// What is left out stays in its place and does nothing, so that the type is the same.
#[derive(Clone, Debug)]
#[must_use]
pub struct StackBuilder {
    timeout: Option<Duration>,
    urgency: Option<Urgency>,
    transport: &'static str,
    metrics: Option<MetricsLayer>,
    trace: TraceLayer,
    priority: PriorityConfig,
    retry: RetryPolicy,
    budget: Option<RetryBudget>,
    buffer: BufferConfig,
    fail_fast: FailFastConfig,
    breaker: NewCircuit,
    circuit: Option<Circuit>,
    arm_circuits: [Option<Circuit>; 2],
    connection: Option<watch::Receiver<State>>,
}

impl Default for StackBuilder {
    fn default() -> Self {
        Self {
            timeout: None,
            urgency: None,
            transport: "any",
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
            circuit: None,
            arm_circuits: [None, None],
            connection: None,
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

    /// What metrics call the transport beneath. Default "any"; a [`Channel`](crate::Channel) says "iroh".
    pub fn transport(mut self, name: &'static str) -> Self {
        self.transport = name;
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
    pub fn breaker(mut self, breaker: BreakerConfig) -> Self {
        self.breaker.config = Some(breaker);
        self.circuit = None;
        self.arm_circuits = [None, None];
        self
    }

    /// A circuit that others share: one of a [`Registry`](tower_iroh_layers::breaker::Registry), for several channels to one peer. It keeps the
    /// round-trip time and the transport's name that it was built with.
    pub fn circuit(mut self, circuit: Circuit) -> Self {
        self.circuit = Some(circuit);
        self
    }

    /// The same for one of two transports, of a channel that chooses between them.
    pub fn circuit_of(mut self, arm: Arm, circuit: Circuit) -> Self {
        self.arm_circuits[arm as usize] = Some(circuit);
        self
    }

    /// Calls the peer however often it fails: the circuit is forced closed, and to release or reset it is to put it in force after all.
    pub fn without_breaker(mut self) -> Self {
        self.breaker.config = None;
        self.circuit = None;
        self.arm_circuits = [None, None];
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

    /// Where the smoothed round-trip time to the peer is known: a missed deadline of less than four of them is no failure of the peer's.
    pub fn rtt(mut self, rtt: impl Fn() -> Option<Duration> + Send + Sync + 'static) -> Self {
        self.breaker.rtt = Some(Arc::new(rtt));
        self
    }

    /// What is made again, and which methods may be.
    pub(in crate::channel) fn declared(&self) -> &RetryPolicy {
        &self.retry
    }

    /// The state of the connection beneath: that it comes to be is a sign of life.
    pub(in crate::channel) fn connection(mut self, state: watch::Receiver<State>) -> Self {
        self.connection = Some(state);
        self
    }

    /// Checks the settings.
    ///
    /// # Errors
    /// [`ConfigError`], naming the setting, its value, and what is accepted.
    pub fn build(self) -> Result<Stack, ConfigError> {
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
            arm_circuits: self.arm_circuits,
            new_circuit: NewCircuit {
                transport: self.transport,
                ..self.breaker
            },
            connection: self.connection,
        })
    }
}

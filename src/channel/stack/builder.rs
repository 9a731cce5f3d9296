use std::{sync::Arc, time::Duration};

use tower_iroh_layers::{
    ConfigError, MethodEntry, Methods, Urgency,
    breaker::{BreakerConfig, Circuit},
    buffer::BufferConfig,
    deadline::DeadlineLayer,
    fail_fast::FailFastConfig,
    metrics::MetricsLayer,
    priority::{PriorityConfig, PriorityLayer},
    retry::{RetryBudget, RetryPolicy},
    trace::TraceLayer,
};

use super::{super::wake_on_reconnect::Connection, NewCircuit, Stack};
use crate::{channel::arm::Patience, peer::TransportKind};

/// Settings of a [`Stack`]: each layer can be configured or left out.
///
/// A layer that is left out stays in its place and does nothing, so the type of the stack does not change. Where every layer but the deadline is left
/// out, a call passes none of them.
#[derive(Clone, Debug)]
#[must_use]
pub struct StackBuilder {
    timeout: Option<Duration>,
    urgency: Option<Urgency>,
    methods: Methods,
    transport: Option<&'static str>,
    metrics: Option<MetricsLayer>,
    trace: Option<TraceLayer>,
    priority: Option<PriorityConfig>,
    retry: Option<RetryPolicy>,
    budget: Option<RetryBudget>,
    buffer: Option<BufferConfig>,
    fail_fast: Option<FailFastConfig>,
    returned: bool,
    breaker: NewCircuit,
    /// Whether the breaker was configured here.
    configures_breaker: bool,
    circuit: Option<Circuit>,
    circuits_of: [Option<Circuit>; 2],
    connection: Option<Connection>,
    only: Option<TransportKind>,
    is_channels: bool,
}

impl Default for StackBuilder {
    fn default() -> Self {
        Self {
            timeout: None,
            urgency: None,
            methods: Methods::default(),
            transport: None,
            metrics: Some(MetricsLayer::client()),
            trace: Some(TraceLayer::client()),
            priority: Some(PriorityConfig::default()),
            retry: Some(RetryPolicy::default()),
            budget: None,
            buffer: Some(BufferConfig::default()),
            fail_fast: Some(FailFastConfig::default()),
            returned: false,
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
    /// What is configured per method: see [`methods`](tower_iroh_layers::methods). Each layer takes its part of the table. A layer that is left out takes nothing.
    ///
    /// ```
    /// # fn main() -> Result<(), tower_iroh::ConfigError> {
    /// use tower_iroh::{Stack, layers::{MethodConfig, Methods}};
    ///
    /// let methods = Methods::builder()
    ///     .method("/shop.v1.Stock/*", MethodConfig::new().idempotent(true))
    ///     .method("/shop.v1.Orders/Place", MethodConfig::new().wait_for_ready(true))
    ///     .build()?;
    /// let stack = Stack::builder().methods(methods).build()?;
    /// # drop(stack);
    /// # Ok(())
    /// # }
    /// ```
    pub fn methods(mut self, methods: Methods) -> Self {
        self.methods = methods;
        self
    }

    /// The longest time that a call may take, to the end of its response, where its method has no timeout. Default: the call's own deadline, if it has one.
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    /// The urgency of calls that set none and whose method has none in the [table](Self::methods). Default [`Urgency::INTERACTIVE`].
    pub fn urgency(mut self, urgency: Urgency) -> Self {
        self.urgency = Some(urgency);
        self
    }

    /// The transport's name in metrics. Default "any". A [`Channel`](crate::Channel) sets "iroh" or "tcp" itself and refuses any other name.
    pub fn transport(mut self, name: &'static str) -> Self {
        self.transport = Some(name);
        self
    }

    /// How calls are recorded: a [`MetricsLayer::client`] with other settings.
    pub fn metrics(mut self, metrics: MetricsLayer) -> Self {
        self.metrics = Some(metrics);
        self
    }

    /// Records no calls and no attempts.
    pub fn without_metrics(mut self) -> Self {
        self.metrics = None;
        self
    }

    /// Opens spans as `trace` does, which is [`TraceLayer::client`] with other settings, such as a
    /// [`Propagator`](tower_iroh_layers::trace::Propagator). Default: `TraceLayer::client()`.
    pub fn trace(mut self, trace: TraceLayer) -> Self {
        self.trace = Some(trace);
        self
    }

    /// Opens no spans and propagates no trace context.
    pub fn without_trace(mut self) -> Self {
        self.trace = None;
        self
    }

    /// How a call's urgency is decided. Default: a message of 64 KiB or more is bulk.
    pub fn priority(mut self, priority: PriorityConfig) -> Self {
        self.priority = Some(priority);
        self
    }

    /// Uses the call's own urgency, or [`urgency`](Self::urgency) where the call sets none.
    pub fn without_priority(mut self) -> Self {
        self.priority = None;
        self
    }

    /// How calls are retried. Default: those that provably never reached the peer, of any method; by its status code, a method that is idempotent in the
    /// [table](Self::methods).
    pub fn retry(mut self, retry: RetryPolicy) -> Self {
        self.retry = Some(retry);
        self
    }

    /// A retry budget to share, for several channels to one peer. Default: each service has its own.
    pub fn retry_budget(mut self, budget: RetryBudget) -> Self {
        self.budget = Some(budget);
        self
    }

    /// Retries nothing, not even calls that were never sent.
    pub fn without_retry(mut self) -> Self {
        self.retry = None;
        self
    }

    /// How many calls wait for the peer, and for how long. Calls with [`WaitForReady`](tower_iroh_layers::buffer::WaitForReady) wait, and methods that wait for ready by
    /// the [table](Self::methods).
    pub fn buffer(mut self, buffer: BufferConfig) -> Self {
        self.buffer = Some(buffer);
        self
    }

    /// Buffers no calls, not even those that ask for it.
    pub fn without_buffer(mut self) -> Self {
        self.buffer = None;
        self
    }

    /// Says that the service beneath returns the request of a call that never left, in an [`Unsent`](tower_iroh_layers::unsent::Unsent) error. Then a
    /// request is copied only if its method may be called twice. The transports of a [`Channel`](crate::Channel) do so.
    pub fn returned(mut self) -> Self {
        self.returned = true;
        self
    }

    /// How long calls that are not buffered wait for a peer that is not ready. Default 2 s. If nothing else is known, the error gives the breaker's reason.
    ///
    /// A [`Channel`](crate::Channel) gives up a dial that is not answered after the same time: the call fails with UNAVAILABLE, unsent, and the dial goes on.
    /// A call that the buffer serves waits for the dial.
    pub fn fail_fast(mut self, fail_fast: FailFastConfig) -> Self {
        self.fail_fast = Some(fail_fast);
        self
    }

    /// Lets calls wait for the peer until their deadline.
    pub fn without_fail_fast(mut self) -> Self {
        self.fail_fast = None;
        self
    }

    /// When the breaker opens, and for how long. Each service that the stack is put on has a circuit of its own.
    ///
    /// A [shared circuit](Self::circuit) has its own settings: `build` refuses the two together.
    pub fn breaker(mut self, breaker: BreakerConfig) -> Self {
        self.breaker.config = Some(breaker);
        self.configures_breaker = true;
        self
    }

    /// A circuit to share: one of a [`Registry`](tower_iroh_layers::breaker::Registry), for several channels to one peer. It keeps the
    /// round-trip time and the transport's name that it was built with.
    ///
    /// A channel over two transports has one circuit for each: see [`circuit_of`](Self::circuit_of).
    pub fn circuit(mut self, circuit: Circuit) -> Self {
        self.circuit = Some(circuit);
        self
    }

    /// The shared circuit of one of the transports of a [`Channel`](crate::Channel).
    pub fn circuit_of(mut self, transport: TransportKind, circuit: Circuit) -> Self {
        self.circuits_of[transport as usize] = Some(circuit);
        self
    }

    /// Leaves the breaker out, and removes any breaker or circuit that was set before. The circuit is forced closed; releasing or
    /// resetting it turns the breaker on.
    pub fn without_breaker(mut self) -> Self {
        self.breaker.config = None;
        self.configures_breaker = false;
        self.circuit = None;
        self.circuits_of = [None, None];
        self
    }

    /// Leaves out every layer except the deadline, so that a call's own deadline still holds.
    pub fn without_layers(self) -> Self {
        self.without_metrics()
            .without_trace()
            .without_priority()
            .without_retry()
            .without_buffer()
            .without_fail_fast()
            .without_breaker()
    }

    /// Gives the smoothed round-trip time to the peer. The breaker does not count a missed deadline that was shorter than four round trips. A
    /// [`Channel`](crate::Channel) knows its own round trip and refuses this setting.
    pub fn rtt(mut self, rtt: impl Fn() -> Option<Duration> + Send + Sync + 'static) -> Self {
        self.breaker.rtt = Some(Arc::new(rtt));
        self
    }

    /// The table of methods.
    pub(in crate::channel) fn table(&self) -> &Methods {
        &self.methods
    }

    /// How much of a request is kept in case it is sent again, by whichever policy keeps most. `None` if nothing is sent again.
    pub(in crate::channel) fn max_buffered(&self) -> Option<usize> {
        let all = self.retry.as_ref()?;
        let listed = self.methods.iter().map(|(_, entry)| entry);
        let own = listed.chain([self.methods.default_entry()]);
        own.filter_map(MethodEntry::retry)
            .chain([all])
            .filter_map(RetryPolicy::max_buffered)
            .max()
    }

    /// How long calls wait for a peer that does not answer its dial, and which calls wait for longer.
    pub(in crate::channel) fn patience(&self) -> Option<Patience> {
        Some(Patience {
            wait: self.fail_fast.as_ref()?.max_wait()?,
            buffer: self.buffer.clone().unwrap_or_else(BufferConfig::disabled),
            methods: self.methods.clone(),
        })
    }

    /// Sets what the channel knows of its own transports, and refuses settings that contradict it.
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

    /// The connection of a channel over one transport: it gives the round trip, and a new connection ends the breaker's wait.
    pub(in crate::channel) fn over(mut self, connection: super::ArmContext) -> Self {
        self.connection = Some(connection.connection);
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
        let default = self.methods.default_entry();
        let twice = "one of the two: remove this one, or its value for `*` in the table of methods";
        let mut deadline = DeadlineLayer::builder().methods(self.methods.clone());
        if let Some(timeout) = self.timeout {
            ConfigError::lasting("stack.timeout", timeout)?;
            if default.timeout().is_some() {
                let value = format_args!("{timeout:?}");
                return Err(ConfigError::new("stack.timeout", value, twice));
            }
            deadline = deadline.default_timeout(timeout);
        }
        if let (Some(urgency), Some(_)) = (self.urgency, default.urgency()) {
            return Err(ConfigError::new("stack.urgency", urgency, twice));
        }
        let only_deadline = self.metrics.is_none()
            && self.trace.is_none()
            && self.priority.is_none()
            && self.urgency.is_none()
            && self.retry.is_none()
            && self.buffer.is_none()
            && self.fail_fast.is_none()
            // Which a call has also where the layer that looks at sizes is left out.
            && self.methods.iter().all(|(_, entry)| entry.urgency().is_none())
            && default.urgency().is_none();
        let priority = self.priority.unwrap_or_else(PriorityConfig::disabled);
        let priority = match self.urgency {
            Some(urgency) => priority.with_fallback(urgency),
            None => priority,
        };
        Ok(Stack {
            only_deadline,
            records: self.metrics.is_some(),
            calls: self.metrics.unwrap_or_else(MetricsLayer::disabled),
            trace: self.trace.unwrap_or_else(TraceLayer::disabled),
            deadline: deadline.build()?,
            priority: PriorityLayer::new(priority).methods(self.methods.clone()),
            methods: self.methods,
            retry: self.retry.unwrap_or_else(RetryPolicy::disabled),
            budget: self.budget,
            buffer: self.buffer.unwrap_or_else(BufferConfig::disabled),
            fail_fast: self.fail_fast.unwrap_or_else(FailFastConfig::disabled),
            returned: self.returned || self.is_channels,
            stamps: !self.is_channels,
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

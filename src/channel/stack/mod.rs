//! The layers in their order, over any service that leads to one peer.

use std::{
    fmt,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{Request, Response};
use http_body::Body as HttpBody;
use iroh::EndpointId;
use tokio::sync::watch;
use tonic::body::Body;
use tower::{Layer, Service};
use tower_iroh_layers::{
    BoxError, Methods,
    breaker::{Breaker, BreakerConfig, BreakerLayer, Circuit},
    buffer::{Buffer, BufferConfig, BufferHandle, BufferLayer},
    deadline::{ClientDeadline, DeadlineLayer, Stamp, StampLayer},
    fail_fast::{FailFast, FailFastConfig, FailFastLayer},
    metrics::{Metrics, MetricsLayer},
    priority::{Priority, PriorityLayer},
    retry::{Retry, RetryBudget, RetryLayer, RetryPolicy},
    select::{Select, SelectHandle},
    trace::{Trace, TraceLayer},
};

use super::{
    ChannelLinks,
    wake_on_reconnect::{Connection, Reconnects, WakeOnReconnect},
};
use crate::{peer::TransportKind, pool::State};

mod builder;
mod lazy_clone;
mod one_or_selected;

pub use builder::StackBuilder;
use lazy_clone::LazyClone;
use one_or_selected::OneOrSelected;

/// The layers of a client in their order, for a service that leads to one peer.
///
/// ```text
/// call metrics, span
///   deadline ..... one clock for everything below
///     priority ... how urgent the call is
///       retry .... what is safe, within a budget
///         buffer ........ listed methods and WaitForReady: waits for the peer
///         or fail fast .. everyone else: not ready for long is UNAVAILABLE
///           select ...... where there are two transports: over which, decided before anything is sent
///             attempt metrics -> breaker -> what is left of the deadline -> the service
/// ```
///
/// [`Channel`](crate::Channel) has these layers over iroh. A stack also goes over any other gRPC service that is `Clone + Send + Sync`, such as tonic's own `Channel`:
///
/// ```
/// # #[tokio::main(flavor = "current_thread")]
/// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
/// # use tower_iroh_proto::echo::{EchoRequest, echo_client::EchoClient};
/// use tower::ServiceBuilder;
/// use tower_iroh::{ExactCodesLayer, Stack};
///
/// let channel = tonic::transport::Endpoint::from_static("http://127.0.0.1:1").connect_lazy();
/// let stack = Stack::builder().transport("tcp").build()?;
/// // tonic reports a lost connection as UNKNOWN; the layer beneath gives the exact code.
/// let service = ServiceBuilder::new().layer(stack).layer(ExactCodesLayer).service(channel);
/// let handle = service.handle().clone();
///
/// let mut client = EchoClient::new(service);
/// for _ in 0..2 {
///     client.echo(EchoRequest::default()).await.unwrap_err();
/// }
/// assert!(!handle.circuit().state().is_closed(), "two dials failed in a row");
/// # Ok(())
/// # }
/// ```
///
/// **State.** Each service under a stack has its own circuit, buffer and retry budget, which the clones of the stacked service share. Several channels to one
/// peer share a circuit and a budget with [`StackBuilder::circuit`] and [`StackBuilder::retry_budget`].
///
/// **Readiness.** Always ready: a call waits in its own future, under its deadline. **Cancel safety.** Dropping the future or the body cancels
/// the call, wherever it is.
#[derive(Clone, Debug)]
pub struct Stack {
    calls: MetricsLayer,
    /// Whether attempts are recorded as well.
    records: bool,
    trace: TraceLayer,
    deadline: DeadlineLayer,
    priority: PriorityLayer,
    methods: Methods,
    retry: RetryPolicy,
    budget: Option<RetryBudget>,
    buffer: BufferConfig,
    fail_fast: FailFastConfig,
    circuit: Option<Circuit>,
    circuits_of: [Option<Circuit>; 2],
    new_circuit: NewCircuit,
    connection: Option<Connection>,
    /// The transport of a channel with only one.
    only: Option<TransportKind>,
}

/// What the stack needs of an arm's connection.
pub(super) struct ArmContext {
    pub(super) transport: TransportKind,
    pub(super) connection: Connection,
    pub(super) rtt: Rtt,
}

impl ArmContext {
    pub(super) fn new(
        source: &ChannelLinks,
        state: watch::Receiver<State>,
        transport: TransportKind,
        peer: EndpointId,
    ) -> Self {
        let rtt = source.rtt(transport, peer);
        Self {
            transport,
            connection: source.connection(transport, state, peer),
            rtt,
        }
    }
}

/// The settings of the circuit that each service gets, if none is shared.
#[derive(Clone)]
struct NewCircuit {
    config: Option<BreakerConfig>,
    transport: &'static str,
    rtt: Option<Rtt>,
}

pub(super) type Rtt = Arc<dyn Fn() -> Option<Duration> + Send + Sync>;

impl Stack {
    /// Begins with every layer and its defaults.
    pub fn builder() -> StackBuilder {
        StackBuilder::default()
    }
}

/// One arm with its breaker and attempt metrics.
type Watched<S> = WakeOnReconnect<Metrics<Breaker<Stamp<S>>>>;
/// The only arm, or two with the selection between them.
type Selected<S> = LazyClone<OneOrSelected<Watched<S>>>;
/// Buffered calls, and all others, which fail fast.
type Buffered<S> = LazyClone<Buffer<Selected<S>, FailFast<Selected<S>>>>;
/// All calls, from the outermost layer inwards.
type Calls<S> = Trace<Metrics<ClientDeadline<Priority<Retry<Buffered<S>>>>>>;

/// A service beneath a [`Stack`]: gRPC calls to one peer. Every such service implements it.
pub trait Attempts:
    Service<
        Request<Body>,
        Response = Response<Self::Body>,
        Error: Into<BoxError>,
        Future: Send + 'static,
    > + Clone
    + Send
    + Sync
    + 'static
{
    /// The response's body.
    type Body: HttpBody<Error: Into<BoxError>> + Send + 'static;
}

impl<S, R> Attempts for S
where
    S: Service<Request<Body>, Response = Response<R>> + Clone + Send + Sync + 'static,
    S::Error: Into<BoxError>,
    S::Future: Send + 'static,
    R: HttpBody<Error: Into<BoxError>> + Send + 'static,
{
    type Body = R;
}

impl<S: Attempts> Layer<S> for Stack {
    type Service = Stacked<S>;

    fn layer(&self, inner: S) -> Stacked<S> {
        let circuit = match &self.circuit {
            Some(circuit) => circuit.clone(),
            None => self.new_circuit.make(),
        };
        let connection = self.connection.clone();
        let one = self.watched(inner, &circuit, self.new_circuit.transport, connection);
        let known = circuit.clone();
        let fail_fast = self.fail_fast.clone().or_reason(move || known.why());
        self.over(
            OneOrSelected::One(one),
            fail_fast,
            Circuits::One(circuit, self.only),
        )
    }
}

impl Stack {
    /// Puts the layers over two services, with the selection between them.
    pub(super) fn between<S>(
        &self,
        iroh: (S, ArmContext),
        tcp: (S, ArmContext),
        select: SelectHandle,
    ) -> Stacked<S>
    where
        S: Attempts,
    {
        let arm = |(inner, context): (S, ArmContext)| {
            let transport = context.transport.as_str();
            let circuit = match &self.circuits_of[context.transport as usize] {
                Some(circuit) => circuit.clone(),
                None => NewCircuit {
                    transport,
                    rtt: Some(context.rtt),
                    ..self.new_circuit.clone()
                }
                .make(),
            };
            let watched = self.watched(inner, &circuit, transport, Some(context.connection));
            (watched, circuit)
        };
        let ((iroh, over_iroh), (tcp, over_tcp)) = (arm(iroh), arm(tcp));
        let known = [over_iroh.clone(), over_tcp.clone()];
        let why = move || format!("iroh: {}; tcp: {}", known[0].why(), known[1].why());
        let fail_fast = self.fail_fast.clone().or_reason(why);
        let circuits = Circuits::Two {
            iroh: over_iroh,
            tcp: over_tcp,
            select: select.clone(),
        };
        self.over(
            OneOrSelected::Two(Select::new(iroh, tcp, select.named(TransportKind::NAMES))),
            fail_fast,
            circuits,
        )
    }

    fn watched<S: Clone>(
        &self,
        inner: S,
        circuit: &Circuit,
        transport: &'static str,
        connection: Option<Connection>,
    ) -> Watched<S> {
        let attempts = match self.records {
            true => MetricsLayer::attempt(transport),
            false => MetricsLayer::disabled(),
        };
        let signs = connection.map(|connection| {
            let circuit = circuit.clone();
            Arc::new(Reconnects {
                circuit,
                connection,
            })
        });
        let breaker = BreakerLayer::new(circuit.clone())
            .max_wait(self.fail_fast.max_wait())
            .layer(StampLayer.layer(inner));
        WakeOnReconnect::new(attempts.layer(breaker), signs)
    }

    fn over<S>(
        &self,
        attempts: OneOrSelected<Watched<S>>,
        fail_fast: FailFastConfig,
        circuits: Circuits,
    ) -> Stacked<S>
    where
        S: Attempts,
    {
        let buffer = BufferLayer::new(self.buffer.clone())
            .methods(self.methods.clone())
            .passing(FailFastLayer::new(fail_fast))
            .layer(LazyClone::new(attempts));
        let mut retry = RetryLayer::new(self.retry.clone()).methods(self.methods.clone());
        if let Some(budget) = &self.budget {
            retry = retry.with_budget(budget.clone());
        }
        let handle = StackHandle {
            circuits,
            buffer: buffer.handle(),
            budget: retry.budget(),
        };
        let calls = self.priority.layer(retry.layer(LazyClone::new(buffer)));
        let calls = self.calls.layer(self.deadline.above(calls));
        Stacked {
            calls: self.trace.layer(calls),
            handle,
        }
    }
}

impl NewCircuit {
    fn make(&self) -> Circuit {
        let builder = Circuit::builder(self.config.clone().unwrap_or_default());
        let builder = builder.transport(self.transport);
        let circuit = match self.rtt.clone() {
            Some(rtt) => builder.rtt(move || rtt()).build(),
            None => builder.build(),
        };
        if self.config.is_none() {
            circuit.force_closed();
        }
        circuit
    }
}

impl fmt::Debug for NewCircuit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewCircuit")
            .field("config", &self.config)
            .field("transport", &self.transport)
            .finish_non_exhaustive()
    }
}

/// A service under a [`Stack`]. Clones share everything.
#[derive(Clone)]
pub struct Stacked<S>
where
    S: Attempts,
{
    calls: Calls<S>,
    handle: StackHandle,
}

impl<S> Stacked<S>
where
    S: Attempts,
{
    /// The handles of the layers.
    pub fn handle(&self) -> &StackHandle {
        &self.handle
    }
}

impl<S> Service<Request<Body>> for Stacked<S>
where
    S: Attempts,
    Calls<S>: Service<Request<Body>>,
{
    type Response = <Calls<S> as Service<Request<Body>>>::Response;
    type Error = <Calls<S> as Service<Request<Body>>>::Error;
    type Future = <Calls<S> as Service<Request<Body>>>::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Self::Error>> {
        self.calls.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        self.calls.call(request)
    }
}

impl<S> fmt::Debug for Stacked<S>
where
    S: Attempts,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Stacked").field(&self.handle).finish()
    }
}

/// The handles of a stack's layers. Clones share.
#[derive(Clone, Debug)]
pub struct StackHandle {
    circuits: Circuits,
    buffer: BufferHandle,
    budget: RetryBudget,
}

/// The circuit of each arm.
#[derive(Clone, Debug)]
enum Circuits {
    /// The transport, if the stack belongs to a channel with only one.
    One(Circuit, Option<TransportKind>),
    Two {
        iroh: Circuit,
        tcp: Circuit,
        select: SelectHandle,
    },
}

impl StackHandle {
    /// The breaker: watches its state, and forces or resets it. With two transports it is iroh's; [`circuit_of`](Self::circuit_of) has both.
    pub fn circuit(&self) -> &Circuit {
        match &self.circuits {
            Circuits::One(circuit, _) | Circuits::Two { iroh: circuit, .. } => circuit,
        }
    }

    /// The breaker of one transport; `None` if the channel does not use it, and for a [`Stack`] over the user's own service.
    pub fn circuit_of(&self, transport: TransportKind) -> Option<&Circuit> {
        match (&self.circuits, transport) {
            (Circuits::One(circuit, over), _) => (*over == Some(transport)).then_some(circuit),
            (Circuits::Two { iroh, .. }, TransportKind::Iroh) => Some(iroh),
            (Circuits::Two { tcp, .. }, TransportKind::Tcp) => Some(tcp),
        }
    }

    /// The selection: swaps its policy, and tells what it decided and why; `None` without a second transport.
    pub fn select(&self) -> Option<&SelectHandle> {
        match &self.circuits {
            Circuits::One(..) => None,
            Circuits::Two { select, .. } => Some(select),
        }
    }

    /// The buffer: which calls wait in it, and what became of the others.
    pub fn buffer(&self) -> &BufferHandle {
        &self.buffer
    }

    /// The budget for retries.
    pub fn retry_budget(&self) -> &RetryBudget {
        &self.budget
    }
}

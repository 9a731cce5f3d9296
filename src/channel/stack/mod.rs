//! The layers in their order, over any service that leads to one peer.

use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use http::{Request, Response};
use http_body::Body as HttpBody;
use http_body_util::Either;
use iroh::EndpointId;
use pin_project_lite::pin_project;
use tokio::sync::watch;
use tonic::body::Body;
use tower::{Layer, Service};
use tower_iroh_layers::{
    BoxError, Methods, Urgency,
    breaker::{Breaker, BreakerConfig, BreakerLayer, Circuit},
    buffer::{BufferConfig, BufferHandle, BufferLayer},
    clock::{self, FrozenBody},
    deadline::{
        ClientDeadline, ClientDeadlineBody, ClientDeadlineFuture, DeadlineLayer, Stamp, StampLayer,
    },
    fail_fast::{FailFastConfig, FailFastLayer},
    metrics::{MetricsLayer, MetricsRecorder},
    priority::PriorityLayer,
    retry::{RetryBudget, RetryLayer, RetryPolicy},
    select::{Select, SelectHandle},
    trace::{Trace, TraceLayer},
    unsent::Unsent,
};

use super::{
    ChannelLinks,
    wake_on_reconnect::{Connection, Reconnects, WakeOnReconnect},
};
use crate::{peer::TransportKind, pool::State};

mod builder;
mod one_or_selected;
mod under_deadline;

pub use builder::StackBuilder;
use one_or_selected::OneOrSelected;
use under_deadline::UnderDeadline;

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
    /// Whether all other layers are left out.
    only_deadline: bool,
    /// Whether the service beneath returns what never left.
    returned: bool,
    /// Whether the peer is told here how much time is left, because the service beneath does not do it.
    stamps: bool,
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

/// One arm with its breaker, which records the attempts too.
type Watched<S> = WakeOnReconnect<Breaker<Stamp<S>, MetricsRecorder>>;
/// All calls, from the outermost layer inwards; the outermost records the calls.
type Calls<S> = Trace<ClientDeadline<UnderDeadline<OneOrSelected<Watched<S>>>>, MetricsRecorder>;

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
        let bare = self.only_deadline.then(|| self.stamped(inner.clone()));
        let one = self.watched(inner, &circuit, self.new_circuit.transport, connection);
        let known = circuit.clone();
        let fail_fast = self.fail_fast.clone().or_reason(move || known.why());
        let stacked = self.over(
            OneOrSelected::One(one),
            fail_fast,
            Circuits::One(circuit, self.only),
        );
        Stacked {
            bare: bare.map(|inner| self.deadline.above(inner)),
            ..stacked
        }
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
        let select = Select::new(iroh, tcp, select.named(TransportKind::NAMES)).returned();
        self.over(OneOrSelected::Two(Box::new(select)), fail_fast, circuits)
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
            .recording(attempts.recorder())
            .layer(self.stamped(inner));
        WakeOnReconnect::new(breaker, signs)
    }

    fn stamped<S>(&self, inner: S) -> Stamp<S> {
        match self.stamps {
            true => StampLayer.layer(inner),
            false => Stamp::off(inner),
        }
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
            .layer(attempts);
        let mut retry = RetryLayer::new(self.retry.clone()).methods(self.methods.clone());
        if let Some(budget) = &self.budget {
            retry = retry.with_budget(budget.clone());
        }
        if self.returned {
            retry = retry.returned();
        }
        let calls = UnderDeadline::new(self.priority.clone(), retry, buffer);
        let handle = StackHandle {
            circuits,
            buffer: calls.buffer(),
            budget: calls.budget(),
        };
        let trace = self.trace.recording(self.calls.recorder());
        Stacked {
            calls: trace.layer(self.deadline.above(calls)),
            bare: None,
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

/// A call's deadline alone.
type Bare<S> = ClientDeadline<Stamp<S>>;

/// A service under a [`Stack`]. Clones share everything.
#[derive(Clone)]
pub struct Stacked<S>
where
    S: Attempts,
{
    calls: Calls<S>,
    /// For calls that pass no other layer, if all others are left out.
    bare: Option<Bare<S>>,
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

impl<S, R> Service<Request<Body>> for Stacked<S>
where
    S: Attempts,
    Calls<S>: Service<Request<Body>, Response = Response<R>, Error = BoxError>,
    R: HttpBody<Data = <S::Body as HttpBody>::Data, Error = BoxError>,
{
    type Response = Response<StackedBody<R, S::Body>>;
    type Error = BoxError;
    type Future = StackedFuture<S>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.calls.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> StackedFuture<S> {
        clock::frozen(|| match &mut self.bare {
            // An urgency is written into a header by a layer. A circuit that is not forced any more is a layer too.
            Some(bare)
                if request.extensions().get::<Urgency>().is_none()
                    && self.handle.circuit().is_forced_closed() =>
            {
                StackedFuture::Bare {
                    future: bare.call(request),
                }
            }
            _ => StackedFuture::Calls {
                future: self.calls.call(request),
            },
        })
    }
}

/// The body of a [`Stacked`] service's response.
pub type StackedBody<R, B> = FrozenBody<Either<R, ClientDeadlineBody<B>>>;

pin_project! {
    /// The future of a [`Stacked`] service's call. Dropping it cancels the call, wherever it is.
    #[project = StackedProj]
    #[must_use = "futures do nothing unless polled"]
    pub enum StackedFuture<S>
    where
        S: Attempts,
        Calls<S>: Service<Request<Body>>,
    {
        Calls { #[pin] future: <Calls<S> as Service<Request<Body>>>::Future },
        Bare { #[pin] future: ClientDeadlineFuture<Stamp<S>, Body> },
    }
}

impl<S, R> Future for StackedFuture<S>
where
    S: Attempts,
    Calls<S>: Service<Request<Body>, Response = Response<R>, Error = BoxError>,
{
    type Output = Result<Response<StackedBody<R, S::Body>>, BoxError>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let result = clock::frozen(|| match self.project() {
            StackedProj::Calls { future } => future
                .poll(cx)
                .map_ok(|response| response.map(Either::Left)),
            StackedProj::Bare { future } => match ready!(future.poll(cx)) {
                Ok(response) => Poll::Ready(Ok(response.map(Either::Right))),
                Err(error) => Poll::Ready(Err(Unsent::take(error).0)),
            },
        });
        result.map_ok(|response| response.map(FrozenBody::new))
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

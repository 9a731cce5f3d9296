use std::{fmt, net::SocketAddr, time::Duration};

use iroh::{Endpoint, SecretKey, endpoint, protocol::RouterBuilder};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

use super::{BindError, Iroh, Server, ServerError, ServerIncoming};
use crate::{
    peer::{TcpAddr, TransportKind},
    quic::{Acceptor, AcceptorBuilder, Incoming},
    tcp::{TcpAcceptor, TcpAcceptorBuilder, TcpIncoming},
};
use tower_iroh_layers::ConfigError;
#[cfg(feature = "authorize")]
use tower_iroh_layers::authorize::PolicyHandle;

/// Which transports of a [`Server`] must be bound for it to run.
///
/// A transport that is not required and cannot be bound is logged as a warning, and [`Server::missing`] has it. At least one is always required.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Require {
    /// Each transport that the server has settings for; the default.
    #[default]
    All,
    /// At least one.
    Any,
    /// TCP.
    Tcp,
    /// iroh.
    Iroh,
}

impl Require {
    /// Whether the server may run without this transport, as long as it has another.
    fn spares(self, transport: TransportKind) -> bool {
        match self {
            Self::All => false,
            Self::Any => true,
            Self::Tcp => transport != TransportKind::Tcp,
            Self::Iroh => transport != TransportKind::Iroh,
        }
    }
}

/// Settings of a [`Server`]. At least one of [`endpoint`](Self::endpoint), [`iroh`](Self::iroh), [`tcp`](Self::tcp) and [`listener`](Self::listener) is required.
#[must_use]
pub struct ServerBuilder {
    key: Option<SecretKey>,
    iroh: Option<IrohArm>,
    tcp: Option<TcpArm>,
    require: Require,
    acceptor: AcceptorBuilder,
    tcp_acceptor: Vec<Configure<TcpAcceptorBuilder>>,
    routes: Vec<Box<Routes>>,
    advertised: Option<TcpAddr>,
}

type Configure<B> = Box<dyn FnOnce(B) -> B + Send>;
type Routes = dyn FnOnce(RouterBuilder, &Acceptor) -> RouterBuilder + Send;

enum IrohArm {
    Endpoint(Endpoint),
    Builder(Box<endpoint::Builder>),
}

/// Without the feature `tcp` there is none.
enum TcpArm {
    #[cfg(feature = "tcp")]
    Addr(SocketAddr),
    #[cfg(feature = "tcp")]
    Listener(TcpListener),
}

impl Default for ServerBuilder {
    fn default() -> Self {
        Self {
            key: None,
            iroh: None,
            tcp: None,
            require: Require::default(),
            acceptor: Acceptor::builder(),
            tcp_acceptor: Vec::new(),
            routes: Vec::new(),
            advertised: None,
        }
    }
}

impl ServerBuilder {
    /// Serves over this endpoint, and closes it at the end. The server proves the endpoint's key.
    pub fn endpoint(mut self, endpoint: Endpoint) -> Self {
        self.iroh = Some(IrohArm::Endpoint(endpoint));
        self
    }

    /// Serves over an endpoint that the server binds, so that [`require`](Self::require) applies to a failure. The endpoint gets the server's [key](Self::key),
    /// which is required then.
    pub fn iroh(mut self, builder: endpoint::Builder) -> Self {
        self.iroh = Some(IrohArm::Builder(Box::new(builder)));
        self
    }

    /// Serves over TCP on this address. Port 0 takes any free port.
    #[cfg(feature = "tcp")]
    pub fn tcp(mut self, addr: SocketAddr) -> Self {
        self.tcp = Some(TcpArm::Addr(addr));
        self
    }

    /// Serves over TCP from a bound listener.
    #[cfg(feature = "tcp")]
    pub fn listener(mut self, listener: TcpListener) -> Self {
        self.tcp = Some(TcpArm::Listener(listener));
        self
    }

    /// The key that the server proves over both transports. Default: the [endpoint](Self::endpoint)'s key, and beside an endpoint only the same key is accepted.
    pub fn key(mut self, key: SecretKey) -> Self {
        self.key = Some(key);
        self
    }

    /// Which transports must be bound for the server to run. Default [`Require::All`].
    pub fn require(mut self, require: Require) -> Self {
        self.require = require;
        self
    }

    /// Any setting of the acceptor over iroh.
    pub fn acceptor(mut self, configure: impl FnOnce(AcceptorBuilder) -> AcceptorBuilder) -> Self {
        self.acceptor = configure(self.acceptor);
        self
    }

    /// Any setting of the acceptor over TCP.
    pub fn tcp_acceptor(
        mut self,
        configure: impl FnOnce(TcpAcceptorBuilder) -> TcpAcceptorBuilder + Send + 'static,
    ) -> Self {
        self.tcp_acceptor.push(Box::new(configure));
        self
    }

    /// How many connections may be open over each transport, of all callers together. Default 4,096.
    pub fn max_connections(self, connections: usize) -> Self {
        self.acceptor(|acceptor| acceptor.max_connections(connections))
            .tcp_acceptor(move |acceptor| acceptor.max_connections(connections))
    }

    /// How many handshakes may be in flight over each transport. Default 256.
    pub fn max_handshakes(self, handshakes: usize) -> Self {
        self.acceptor(|acceptor| acceptor.max_handshakes(handshakes))
            .tcp_acceptor(move |acceptor| acceptor.max_handshakes(handshakes))
    }

    /// How long a handshake may take, over both transports. Default 10 s.
    pub fn handshake_timeout(self, timeout: Duration) -> Self {
        self.acceptor(|acceptor| acceptor.handshake_timeout(timeout))
            .tcp_acceptor(move |acceptor| acceptor.handshake_timeout(timeout))
    }

    /// After how long without a call in flight a connection is closed, over both transports. Default 10 minutes. Its client connects again with its next call.
    pub fn idle_timeout(self, timeout: Duration) -> Self {
        self.acceptor(|acceptor| acceptor.idle_timeout(timeout))
            .tcp_acceptor(move |acceptor| acceptor.idle_timeout(timeout))
    }

    /// After how long a connection's client is asked to make its further calls on a new one, over both transports, give or take 10 %. Default none. See
    /// [`AcceptorBuilder::max_connection_age`].
    pub fn max_connection_age(self, age: impl Into<Option<Duration>>) -> Self {
        let age = age.into();
        self.acceptor(|acceptor| acceptor.max_connection_age(age))
            .tcp_acceptor(move |acceptor| acceptor.max_connection_age(age))
    }

    /// How long calls may go on after that, over both transports; then they are cut. Default none: as long as they take.
    pub fn max_connection_age_grace(self, grace: impl Into<Option<Duration>>) -> Self {
        let grace = grace.into();
        self.acceptor(|acceptor| acceptor.max_connection_age_grace(grace))
            .tcp_acceptor(move |acceptor| acceptor.max_connection_age_grace(grace))
    }

    /// How long calls in flight may take to finish at the end, over both transports. Default 10 s.
    pub fn drain_timeout(self, timeout: Duration) -> Self {
        self.acceptor(|acceptor| acceptor.drain_timeout(timeout))
            .tcp_acceptor(move |acceptor| acceptor.drain_timeout(timeout))
    }

    /// Takes connections over both transports only of callers to whom this policy permits a call at all, and closes those that a reload shuts out: see
    /// [`AcceptorBuilder::allow_list`] and [`TcpAcceptorBuilder::allow_list`]. Default: every caller that proves a key is taken.
    #[cfg(feature = "authorize")]
    pub fn allow_list(self, policy: &PolicyHandle) -> Self {
        let over_tcp = policy.clone();
        self.acceptor(|acceptor| acceptor.allow_list(policy))
            .tcp_acceptor(move |acceptor| acceptor.allow_list(&over_tcp))
    }

    /// Adds other protocols on the same endpoint, or this one under further ALPNs: `router.accept(alpn, acceptor.bare())`. The router has tower-iroh's own ALPN
    /// and [filter](Acceptor::incoming_filter) already.
    pub fn routes(
        mut self,
        configure: impl FnOnce(RouterBuilder, &Acceptor) -> RouterBuilder + Send + 'static,
    ) -> Self {
        self.routes.push(Box::new(configure));
        self
    }

    /// The TCP address that callers dial, for [`Server::addresses`]. It is needed behind a NAT or a load balancer, and for a listener on all interfaces without an
    /// endpoint.
    pub fn advertise_tcp(mut self, addr: impl Into<TcpAddr>) -> Self {
        self.advertised = Some(addr.into());
        self
    }

    /// Checks the settings and binds. From then on connections wait until [`Server::serve`] serves them.
    ///
    /// # Errors
    /// [`ServerError::Config`], naming the setting; [`ServerError::Bind`] and [`ServerError::Neither`], naming the transport. After an error nothing stays bound,
    /// except an endpoint that was given.
    pub async fn bind(self) -> Result<Server, ServerError> {
        let key = self.checked_key()?;
        let id = key.public();
        let (acceptor, incoming) = self.acceptor.build()?;
        // TCP first: if iroh fails, dropping the listener releases the port.
        let mut missing = None;
        let mut tcp = None;
        if let Some(arm) = self.tcp {
            match arm.bind(key.clone(), self.tcp_acceptor).await? {
                Ok(bound) => tcp = Some(bound),
                Err(error) => missing = Some(error),
            }
        }
        let is_required = |error: &BindError| !self.require.spares(error.transport());
        let mut endpoint = None;
        if let Some(arm) = self.iroh {
            if let Some(error) = missing.take_if(|error| is_required(error)) {
                return Err(ServerError::Bind(error));
            }
            match (arm.bind(key).await, missing.take()) {
                (Ok(bound), before) => (endpoint, missing) = (Some(bound), before),
                (Err(iroh), Some(tcp)) => return Err(ServerError::Neither { iroh, tcp }),
                (Err(iroh), None) => missing = Some(iroh),
            }
        }
        let none_is_bound = tcp.is_none() && endpoint.is_none();
        if let Some(error) = missing.take_if(|error| none_is_bound || is_required(error)) {
            return Err(ServerError::Bind(error));
        }
        if let Some(missing) = &missing {
            let cause = missing.source_text();
            tracing::warn!(cause, "serving over one transport of two: {missing}");
        }
        let (tcp, tcp_incoming): (Option<TcpAcceptor>, Option<TcpIncoming>) = tcp.unzip();
        let (iroh, incoming): (Option<Iroh>, Option<Incoming>) = endpoint
            .map(|endpoint| {
                let mut router = acceptor.router(endpoint.clone());
                for configure in self.routes {
                    router = configure(router, &acceptor);
                }
                let iroh = Iroh {
                    endpoint,
                    router: router.spawn(),
                    acceptor,
                };
                (iroh, incoming)
            })
            .unzip();
        Ok(Server {
            id,
            iroh,
            tcp,
            advertised: self.advertised,
            missing,
            incoming: ServerIncoming::new(incoming, tcp_incoming),
            stop: CancellationToken::new(),
        })
    }

    fn checked_key(&self) -> Result<SecretKey, ConfigError> {
        if self.iroh.is_none() && self.tcp.is_none() {
            return Err(ConfigError::new(
                "server.tcp",
                "no transport",
                "name an endpoint, an address for TCP, or both",
            ));
        }
        let theirs = match &self.iroh {
            Some(IrohArm::Endpoint(endpoint)) => Some(endpoint.secret_key()),
            _ => None,
        };
        match (&self.key, theirs) {
            (Some(key), Some(theirs)) if key.public() != theirs.public() => Err(ConfigError::new(
                "server.key",
                key.public().fmt_short(),
                "differs from the endpoint's key; the server proves one identity over both transports, so leave the key out or give the endpoint's",
            )),
            (Some(key), _) => Ok(key.clone()),
            (None, Some(theirs)) => Ok(theirs.clone()),
            (None, None) => Err(ConfigError::new(
                "server.key",
                "none",
                "a key is required, because no bound endpoint brings one",
            )),
        }
    }
}

impl IrohArm {
    async fn bind(self, key: SecretKey) -> Result<Endpoint, BindError> {
        match self {
            Self::Endpoint(endpoint) if endpoint.is_closed() => {
                let id = endpoint.id();
                let closed = "the endpoint is closed";
                Err(BindError::new(TransportKind::Iroh, id.fmt_short(), closed))
            }
            Self::Endpoint(endpoint) => Ok(endpoint),
            Self::Builder(builder) => {
                let id = key.public();
                let bound = builder.secret_key(key).bind().await;
                bound.map_err(|error| BindError::new(TransportKind::Iroh, id.fmt_short(), error))
            }
        }
    }
}

impl TcpArm {
    #[cfg(feature = "tcp")]
    async fn bind(
        self,
        key: SecretKey,
        settings: Vec<Configure<TcpAcceptorBuilder>>,
    ) -> Result<Result<(TcpAcceptor, TcpIncoming), BindError>, ConfigError> {
        let listener = match self {
            Self::Listener(listener) => listener,
            Self::Addr(addr) => match TcpListener::bind(addr).await {
                Ok(listener) => listener,
                Err(error) => return Ok(Err(BindError::new(TransportKind::Tcp, addr, error))),
            },
        };
        let acceptor = TcpAcceptor::builder(key);
        let acceptor = settings
            .into_iter()
            .fold(acceptor, |acceptor, configure| configure(acceptor));
        acceptor.build(listener).map(Ok)
    }

    #[cfg(not(feature = "tcp"))]
    async fn bind(
        self,
        _: SecretKey,
        _: Vec<Configure<TcpAcceptorBuilder>>,
    ) -> Result<Result<(TcpAcceptor, TcpIncoming), BindError>, ConfigError> {
        match self {}
    }
}

impl fmt::Debug for ServerBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ServerBuilder")
            .field("iroh", &self.iroh.is_some())
            .field("tcp", &self.tcp.is_some())
            .field("require", &self.require)
            .finish_non_exhaustive()
    }
}

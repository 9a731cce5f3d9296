//! A gRPC channel to one peer: what generated clients call.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use http::{Request, Response};
use iroh::{Endpoint, EndpointId, SecretKey};
use tokio::sync::watch;
use tonic::body::Body;
use tower::Service;
use tower_iroh_layers::message_size;

use crate::{
    error::Error,
    peer::TransportKind,
    pool::{PeerStats, State},
    quic::Links,
    tcp::TcpLinks,
};

mod arm;
mod body;
mod builder;
mod details;
mod early;
mod exact_codes;
mod stack;
mod transport;
mod wake_on_reconnect;

use arm::Arm;
pub use builder::ChannelBuilder;
#[cfg(any(test, fuzzing))]
pub(crate) use details::drop_unreadable;
pub use exact_codes::{ExactCodes, ExactCodesLayer};
use stack::ArmContext;
pub use stack::{Attempts, Stack, StackBuilder, StackHandle, Stacked, StackedBody};
pub use transport::AttemptService;
use transport::{ChannelLinks, EitherArm};

/// A channel to one peer, for generated clients: `EchoClient::new(channel)`.
///
/// ```no_run
/// # use tower_iroh_proto::echo::echo_client::EchoClient;
/// # async fn example(endpoint: iroh::Endpoint, ticket: &str) -> Result<(), Box<dyn std::error::Error>> {
/// use std::time::Duration;
/// use tower_iroh::{Channel, Peer};
///
/// let channel = Channel::builder(endpoint)
///     .peer(ticket.parse::<Peer>()?)
///     .timeout(Duration::from_secs(5))
///     .build()?;
/// let client = EchoClient::new(channel);
/// # drop(client);
/// # Ok(())
/// # }
/// ```
///
/// A channel dials at the first call, and again when a call finds no connection. Clones share everything.
///
/// It is a [`Stack`] of layers over the peer's [`Links`], its [`TcpLinks`], or [both](ChannelBuilder::select): metrics, deadline, priority, retry, buffer, fail fast, selection and
/// breaker. [`ChannelBuilder::stack`] configures each layer or leaves it out. By default no call is executed twice: a retry or a buffered call needs a listed method, or
/// a call that asks for it.
///
/// **Readiness.** Always ready. A call waits (for a dial, a permit of its lane, an open breaker) in its response future, under its
/// deadline.
///
/// **Deadline.** The shortest of the call's `grpc-timeout`, that of the incoming call in whose handler it is made (see
/// [`deadline`](crate::layers::deadline)), and [`ChannelBuilder::timeout`]; it covers dialling, waiting, headers and body. The request carries the time that is left when it is sent. A response body
/// checks the deadline when it is polled; a body that is never read holds its permit until it is dropped.
///
/// **Cancel safety.** Dropping the response future or body resets the call at the peer and releases its permit. The pool's dial
/// goes on.
///
/// **Errors.** An [`Error`], with the exact [`tonic::Status`] in its source chain.
///
/// **Urgency.** Taken from the request's [`Urgency`](crate::Urgency) extension or `priority` header, else from the method, else from the channel. A large message
/// is bulk. The urgency selects the lane and the order in the buffer. If it is not the default, the request carries it in the
/// `priority` header (RFC 9218).
#[derive(Clone)]
pub struct Channel {
    stacked: Stacked<EitherArm>,
    source: ChannelLinks,
    peer: EndpointId,
    max_message_size: Option<u32>,
}

impl Channel {
    /// Begins a channel with its own links.
    pub fn builder(endpoint: Endpoint) -> ChannelBuilder {
        ChannelBuilder::new(endpoint)
    }

    /// Begins a channel on shared links: all channels on them share one connection per peer.
    pub fn with_links(links: Links) -> ChannelBuilder {
        ChannelBuilder::with_links(links)
    }

    /// Begins a channel over TCP alone, with its own links. It proves `key`: use the endpoint's key if the program has an endpoint. The peer needs a
    /// [TCP address](crate::Peer::with_tcp).
    ///
    /// ```
    /// # #[tokio::main(flavor = "current_thread")]
    /// # async fn main() -> Result<(), Box<dyn std::error::Error>> {
    /// use tower_iroh::{Channel, Peer, TcpAddr};
    ///
    /// let peer = Peer::new(iroh::SecretKey::from_bytes(&[1; 32]).public()).with_tcp("db.example:7001".parse::<TcpAddr>()?);
    /// let channel = Channel::tcp(iroh::SecretKey::generate()).peer(peer).build()?;
    /// # drop(channel);
    /// # Ok(())
    /// # }
    /// ```
    pub fn tcp(key: SecretKey) -> ChannelBuilder {
        ChannelBuilder::tcp(key)
    }

    /// Begins a channel over TCP alone, on shared links.
    pub fn with_tcp_links(links: TcpLinks) -> ChannelBuilder {
        ChannelBuilder::with_tcp_links(links)
    }

    /// The channel's transports. Where there are two, [`stack`](Self::stack) has the selection between them.
    pub fn transports(&self) -> impl Iterator<Item = TransportKind> {
        self.source.transports()
    }

    /// The identity of the peer that the channel calls.
    pub fn peer(&self) -> EndpointId {
        self.peer
    }

    /// Connects now instead of at the first call, so that a program learns at its start whether the peer answers. Returns at once if there is a connection.
    /// A channel over two transports dials over both, and succeeds with the first connection.
    ///
    /// ```no_run
    /// # async fn example(channel: tower_iroh::Channel) -> Result<(), tower_iroh::Error> {
    /// use std::time::Duration;
    ///
    /// tokio::time::timeout(Duration::from_secs(5), channel.connect()).await.expect("the peer answers")?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// It takes at most the dial timeout, 10 s by default. **Cancel safety.** Dropping the future does not end the dial: a later call uses its result.
    ///
    /// # Errors
    /// Why the dial failed, or during the backoff why the last dial failed: [`Error::kind`] says which. If the peer accepts the connection but
    /// refuses calls by policy, only the first call reports it.
    pub async fn connect(&self) -> Result<(), Error> {
        self.source.connect(self.peer).await
    }

    /// Watches the state of the connection; with two transports, of the connection over iroh. [`state_of`](Self::state_of) has both.
    pub fn state(&self) -> watch::Receiver<State> {
        // One of them is there.
        let state = self.state_of(self.source.transport());
        state.unwrap_or_else(|| watch::channel(State::Idle).1)
    }

    /// Watches the state of the connection over one transport; `None` if the channel does not use it.
    pub fn state_of(&self, transport: TransportKind) -> Option<watch::Receiver<State>> {
        self.source.state(transport, self.peer)
    }

    /// Statistics of the connection; with two transports, of the connection over iroh. `None` while there is no connection.
    pub fn stats(&self) -> Option<PeerStats> {
        self.stats_of(self.source.transport())
    }

    /// Statistics of the connection over one transport; `None` while there is no connection.
    pub fn stats_of(&self, transport: TransportKind) -> Option<PeerStats> {
        self.source.stats(transport, self.peer)
    }

    /// The stack's handles: breaker, buffer, retry budget.
    pub fn stack(&self) -> &StackHandle {
        self.stacked.handle()
    }

    /// The channel's links over iroh, if it uses iroh.
    pub fn links(&self) -> Option<&Links> {
        self.source.iroh.as_ref()
    }

    /// The channel's links over TCP, if it uses TCP.
    pub fn tcp_links(&self) -> Option<&TcpLinks> {
        self.source.tcp.as_ref()
    }

    /// Closes the connection, or both. Calls in flight end with UNAVAILABLE; a later call dials again.
    pub fn close(&self) {
        self.source.close(self.peer);
    }
}

impl Service<Request<Body>> for Channel {
    type Response = Response<Body>;
    type Error = Error;
    type Future = ResponseFuture;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Error>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> ResponseFuture {
        ResponseFuture {
            inner: Box::pin(self.stacked.call(request)),
            peer: self.peer,
            max_message_size: self.max_message_size,
        }
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel")
            .field("peer", &self.peer)
            .field("stack", self.stacked.handle())
            .finish_non_exhaustive()
    }
}

/// The response future of a [`Channel`].
#[must_use = "futures do nothing unless polled"]
pub struct ResponseFuture {
    inner: Pin<Box<<Stacked<EitherArm> as Service<Request<Body>>>::Future>>,
    peer: EndpointId,
    max_message_size: Option<u32>,
}

impl Future for ResponseFuture {
    type Output = Result<Response<Body>, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let response = ready!(self.inner.as_mut().poll(cx));
        Poll::Ready(match response {
            Ok(response) => Ok(match self.max_message_size {
                Some(max) => message_size::limit(response, max).map(Body::new),
                None => response.map(Body::new),
            }),
            Err(error) => Err(Error::from_layers(error).known_at(self.peer)),
        })
    }
}

impl fmt::Debug for ResponseFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

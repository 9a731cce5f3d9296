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
mod early;
mod exact_codes;
mod stack;
mod transport;
mod wake_on_reconnect;

use arm::Arm;
pub use builder::ChannelBuilder;
pub use exact_codes::{ExactCodes, ExactCodesLayer};
use stack::ArmContext;
pub use stack::{Attempts, Stack, StackBuilder, StackHandle, Stacked};
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
/// It dials when the first call needs it and again whenever that is needed; clones share everything.
///
/// It is a [`Stack`] of layers over the peer's [`Links`], its [`TcpLinks`], or [both](ChannelBuilder::select): metrics, deadline, priority, retry, buffer, fail fast, selection and
/// breaker, each to be configured or left out with [`ChannelBuilder::stack`]. As it comes it sends nothing twice: a retry or a buffered call needs a method that is listed, or
/// a call that says so.
///
/// **Readiness.** Always ready. What waits (a dial, a place in a lane, an open breaker) waits in the response future, under the
/// deadline.
///
/// **Deadline.** The shortest of the call's `grpc-timeout`, that of the incoming call in whose handler it is made (see
/// [`deadline`](crate::layers::deadline)), and [`ChannelBuilder::timeout`]; covers dialling, waiting, headers and body. The peer is told what is left when the request leaves. A response body
/// acts on it when it is polled; one that is kept and never read keeps its place until it is dropped.
///
/// **Cancel safety.** Dropping the response future or body resets the call at the peer and gives its place up. A dial that
/// others wait for goes on.
///
/// **Errors.** An [`Error`], with the exact [`tonic::Status`] in its source chain.
///
/// **Urgency.** From the request's [`Urgency`](crate::Urgency) extension or `priority` header, else the method's, else the channel's own; a large message
/// goes as bulk. It chooses the lane and the order in the buffer, and a request that is not of the default urgency tells the peer by the
/// `priority` header (RFC 9218).
#[derive(Clone)]
pub struct Channel {
    stacked: Stacked<EitherArm>,
    source: ChannelLinks,
    peer: EndpointId,
    max_message_size: Option<u32>,
}

impl Channel {
    /// Begins a channel with links of its own.
    pub fn builder(endpoint: Endpoint) -> ChannelBuilder {
        ChannelBuilder::new(endpoint)
    }

    /// Begins a channel on links that others use too, so that all share one connection per peer.
    pub fn with_links(links: Links) -> ChannelBuilder {
        ChannelBuilder::with_links(links)
    }

    /// Begins a channel over TCP alone, with links of its own, that proves `key`: that of the endpoint, where there is one. The peer must
    /// [say where it answers](crate::Peer::with_tcp).
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

    /// Begins a channel over TCP alone, on links that others use too.
    pub fn with_tcp_links(links: TcpLinks) -> ChannelBuilder {
        ChannelBuilder::with_tcp_links(links)
    }

    /// Which transports it leads over, with the choice between them in [`stack`](Self::stack) where there are two.
    pub fn transports(&self) -> impl Iterator<Item = TransportKind> {
        self.source.transports()
    }

    /// Whom the channel calls.
    pub fn peer(&self) -> EndpointId {
        self.peer
    }

    /// Connects now, where the first call would have; at once where there is a connection. For programs that want to learn at their start whether the peer is
    /// there. A channel over two transports dials over both, and one of them will do.
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
    /// It takes as long as a dial may, 10 s by default. **Cancel safety.** Dropped, it leaves the dial going on: a later call finds what came of it.
    ///
    /// # Errors
    /// Why the dial failed, or the one before it while the next is not due: [`Error::kind`] says which. A peer that accepts the connection and
    /// then refuses its calls by policy is found out by the first call.
    pub async fn connect(&self) -> Result<(), Error> {
        self.source.connect(self.peer).await
    }

    /// The state of the connection, to be watched: that over iroh, where there are two. [`state_of`](Self::state_of) has both.
    pub fn state(&self) -> watch::Receiver<State> {
        // One of them is there.
        let state = self.state_of(self.source.transport());
        state.unwrap_or_else(|| watch::channel(State::Idle).1)
    }

    /// The state of the connection over one transport, to be watched; `None` where the channel does not lead over it.
    pub fn state_of(&self, transport: TransportKind) -> Option<watch::Receiver<State>> {
        self.source.state(transport, self.peer)
    }

    /// What is known of the connection, that over iroh where there are two; `None` while there is none.
    pub fn stats(&self) -> Option<PeerStats> {
        self.stats_of(self.source.transport())
    }

    /// What is known of the connection over one transport; `None` while there is none.
    pub fn stats_of(&self, transport: TransportKind) -> Option<PeerStats> {
        self.source.stats(transport, self.peer)
    }

    /// The stack's handles: breaker, buffer, retry budget.
    pub fn stack(&self) -> &StackHandle {
        self.stacked.handle()
    }

    /// The links beneath, of a channel that leads over iroh.
    pub fn links(&self) -> Option<&Links> {
        self.source.iroh.as_ref()
    }

    /// The links beneath, of a channel that leads over TCP.
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

/// The response of a [`Channel`]: headers, and a body that streams.
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

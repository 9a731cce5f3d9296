//! A gRPC channel to one peer: what generated clients call.

use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use http::{HeaderValue, Request, Response};
use iroh::{Endpoint, EndpointId};
use tokio::sync::watch;
use tonic::body::Body;
use tower::Service;
use tower_iroh_layers::Urgency;

use crate::{Error, Links, PeerStats, State};

mod body;
mod builder;
mod call;

pub use builder::ChannelBuilder;

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
/// **Readiness.** Always ready. What waits (a dial, a place in a lane) waits in the response future, under the deadline.
///
/// **Deadline.** The shorter of the call's `grpc-timeout` and [`ChannelBuilder::timeout`]; covers dialling, waiting, headers
/// and body. The peer is told what is left when the request leaves. A response body acts on it when it is polled; one that
/// is kept and never read keeps its place until it is dropped.
///
/// **Cancel safety.** Dropping the response future or body resets the call at the peer and gives its place up. A dial that
/// others wait for goes on.
///
/// **Errors.** An [`Error`], with the exact [`tonic::Status`] as its source.
///
/// **Urgency.** From the request's [`Urgency`] extension or `priority` header, else the channel's own. It chooses the lane, and a
/// request that is not of the default urgency tells the peer by the `priority` header (RFC 9218).
#[derive(Clone)]
pub struct Channel {
    inner: Arc<Inner>,
}

struct Inner {
    links: Links,
    peer: EndpointId,
    scheme: http::uri::Scheme,
    authority: http::uri::Authority,
    user_agent: HeaderValue,
    timeout: Option<Duration>,
    urgency: Urgency,
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

    /// Whom the channel calls.
    pub fn peer(&self) -> EndpointId {
        self.inner.peer
    }

    /// The state of the connection, to be watched.
    pub fn state(&self) -> watch::Receiver<State> {
        self.inner.links.state(self.inner.peer)
    }

    /// What is known of the connection; `None` while there is none.
    pub fn stats(&self) -> Option<PeerStats> {
        self.inner.links.stats(&self.inner.peer)
    }

    /// The links beneath.
    pub fn links(&self) -> &Links {
        &self.inner.links
    }

    /// Closes the connection. Calls in flight end with UNAVAILABLE; a later call dials again.
    pub fn close(&self) {
        self.inner.links.close(&self.inner.peer);
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
            inner: Box::pin(call::call(self.inner.clone(), request)),
        }
    }
}

impl fmt::Debug for Channel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Channel")
            .field("peer", &self.inner.peer)
            .field("timeout", &self.inner.timeout)
            .field("urgency", &self.inner.urgency)
            .finish_non_exhaustive()
    }
}

/// The response of a [`Channel`]: headers, and a body that streams.
#[must_use = "futures do nothing unless polled"]
pub struct ResponseFuture {
    inner: Pin<Box<dyn Future<Output = Result<Response<Body>, Error>> + Send>>,
}

impl Future for ResponseFuture {
    type Output = Result<Response<Body>, Error>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        self.inner.as_mut().poll(cx)
    }
}

impl fmt::Debug for ResponseFuture {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResponseFuture").finish_non_exhaustive()
    }
}

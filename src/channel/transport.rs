//! The transports of a channel.

use std::{
    fmt,
    future::Future,
    pin::{Pin, pin},
    sync::Arc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Request, Response};
use http_body::Body as HttpBody;
use http_body_util::Either;
use iroh::EndpointId;
use tokio::sync::watch;
use tonic::body::Body;
use tower::{Layer, Service, ServiceExt as _, util::BoxCloneSyncService};
use tower_iroh_layers::BoxError;

use super::{
    arm::Arm,
    body::ResponseBody,
    stack::{Attempts, Rtt},
    wake_on_reconnect::{Connecting, Connection},
};
use crate::{
    error::Error,
    peer::TransportKind,
    pool::{PeerStats, State},
    quic::{Links, QuicDialer},
    tcp::{TcpDialer, TcpLinks},
};

/// One attempt of a call over one transport, as a layer of the user's sees it: see
/// [`ChannelBuilder::around_attempts`](crate::ChannelBuilder::around_attempts).
pub type AttemptService = BoxCloneSyncService<Request<Body>, Response<Body>, BoxError>;

/// What makes the user's layer around a service.
#[derive(Clone)]
pub(super) struct AroundAttempts(Arc<dyn Fn(AttemptService) -> AttemptService + Send + Sync>);

impl AroundAttempts {
    pub(super) fn new<L>(layer: L) -> Self
    where
        L: Layer<AttemptService, Service: Attempts> + Send + Sync + 'static,
        <L::Service as Attempts>::Body: HttpBody<Data = Bytes>,
    {
        let wrap = move |inner| {
            let service = layer.layer(inner);
            let service = service.map_response(|response: Response<_>| response.map(Body::new));
            BoxCloneSyncService::new(service.map_err(Into::into))
        };
        Self(Arc::new(wrap))
    }

    /// Both, with `outer` around it.
    pub(super) fn within(self, outer: Self) -> Self {
        Self(Arc::new(move |inner| outer.0(self.0(inner))))
    }
}

impl fmt::Debug for AroundAttempts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("AroundAttempts")
    }
}

/// The arm of either transport, alone or with a layer of the user's around it.
#[derive(Clone)]
pub(super) enum EitherArm {
    Iroh(Arm<QuicDialer>),
    Tcp(Arm<TcpDialer>),
    Wrapped(AttemptService),
}

impl EitherArm {
    /// The same arm, ready once it is connected.
    pub(super) fn waiting(self) -> Self {
        match self {
            Self::Iroh(arm) => Self::Iroh(arm.waiting()),
            Self::Tcp(arm) => Self::Tcp(arm.waiting()),
            wrapped => wrapped,
        }
    }

    /// With the user's layer around it, if there is one.
    pub(super) fn within(self, around: Option<&AroundAttempts>) -> Self {
        match around {
            Some(AroundAttempts(wrap)) => {
                let arm = self.map_response(|response| response.map(Body::new));
                Self::Wrapped(wrap(BoxCloneSyncService::new(arm)))
            }
            None => self,
        }
    }
}

impl Service<Request<Body>> for EitherArm {
    type Response = Response<Either<ResponseBody, Body>>;
    type Error = BoxError;
    type Future = ArmFuture;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        match self {
            Self::Iroh(arm) => arm.poll_ready(cx),
            Self::Tcp(arm) => arm.poll_ready(cx),
            Self::Wrapped(service) => service.poll_ready(cx),
        }
    }

    fn call(&mut self, request: Request<Body>) -> ArmFuture {
        match self {
            Self::Iroh(arm) => ArmFuture::Arm(arm.call(request)),
            Self::Tcp(arm) => ArmFuture::Arm(arm.call(request)),
            Self::Wrapped(service) => ArmFuture::Wrapped(service.call(request)),
        }
    }
}

/// The future of an arm's call.
pub(super) enum ArmFuture {
    Arm(BoxFuture<'static, Result<Response<ResponseBody>, BoxError>>),
    Wrapped(BoxFuture<'static, Result<Response<Body>, BoxError>>),
}

impl Future for ArmFuture {
    type Output = Result<Response<Either<ResponseBody, Body>>, BoxError>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut *self {
            Self::Arm(future) => {
                let response = ready!(future.as_mut().poll(cx));
                Poll::Ready(response.map(|response| response.map(Either::Left)))
            }
            Self::Wrapped(future) => {
                let response = ready!(future.as_mut().poll(cx));
                Poll::Ready(response.map(|response| response.map(Either::Right)))
            }
        }
    }
}

/// The links of a channel: over one transport at least.
#[derive(Clone)]
pub(super) struct ChannelLinks {
    pub(super) iroh: Option<Links>,
    pub(super) tcp: Option<TcpLinks>,
}

impl ChannelLinks {
    /// The channel's transports.
    pub(super) fn transports(&self) -> impl Iterator<Item = TransportKind> + use<> {
        let there = [self.iroh.is_some(), self.tcp.is_some()];
        let all = TransportKind::ALL.into_iter().zip(there);
        all.filter_map(|(transport, there)| there.then_some(transport))
    }

    /// The channel's transport; iroh if it has both.
    pub(super) fn transport(&self) -> TransportKind {
        match self.iroh {
            Some(_) => TransportKind::Iroh,
            None => TransportKind::Tcp,
        }
    }

    pub(super) fn state(
        &self,
        transport: TransportKind,
        peer: EndpointId,
    ) -> Option<watch::Receiver<State>> {
        match transport {
            TransportKind::Iroh => Some(self.iroh.as_ref()?.state(peer)),
            TransportKind::Tcp => Some(self.tcp.as_ref()?.state(peer)),
        }
    }

    /// The connection over one transport, for a breaker to watch and to connect.
    pub(super) fn connection(
        &self,
        transport: TransportKind,
        state: watch::Receiver<State>,
        peer: EndpointId,
    ) -> Connection {
        let (iroh, tcp) = match transport {
            TransportKind::Iroh => (self.iroh.clone(), None),
            TransportKind::Tcp => (None, self.tcp.clone()),
        };
        let connect = move || -> Connecting {
            let (iroh, tcp) = (iroh.clone(), tcp.clone());
            Box::pin(async move {
                match (iroh, tcp) {
                    (Some(links), _) => links.get(peer).await.is_ok(),
                    (None, Some(links)) => links.get(peer).await.is_ok(),
                    (None, None) => false,
                }
            })
        };
        Connection {
            state,
            connect: Arc::new(connect),
        }
    }

    pub(super) fn stats(&self, transport: TransportKind, peer: EndpointId) -> Option<PeerStats> {
        match transport {
            TransportKind::Iroh => self.iroh.as_ref()?.stats(peer),
            TransportKind::Tcp => self.tcp.as_ref()?.stats(peer),
        }
    }

    /// Reads the round trip to the peer. It does not keep the links alive, because a breaker's handle may outlive its channel.
    pub(super) fn rtt(&self, transport: TransportKind, peer: EndpointId) -> Rtt {
        let (iroh, tcp) = match transport {
            TransportKind::Iroh => (self.iroh.as_ref().map(Links::downgrade), None),
            TransportKind::Tcp => (None, self.tcp.as_ref().map(TcpLinks::downgrade)),
        };
        Arc::new(move || match (&iroh, &tcp) {
            (Some(links), _) => links.upgrade()?.rtt(peer),
            (None, Some(links)) => links.upgrade()?.rtt(peer),
            (None, None) => None,
        })
    }

    /// Dials over each transport and returns with the first that succeeds, or with the error of the [first](Self::transport) transport.
    pub(super) async fn connect(&self, peer: EndpointId) -> Result<(), Error> {
        let iroh = async {
            let links = self.iroh.as_ref()?;
            Some(links.get(peer).await.map(drop))
        };
        let tcp = async {
            let links = self.tcp.as_ref()?;
            Some(links.get(peer).await.map(drop))
        };
        let (mut iroh, mut tcp) = (pin!(iroh), pin!(tcp));
        let (first, other) = tokio::select! {
            // In this order, so that iroh's dial begins even if TCP's succeeds at once.
            biased;
            first = &mut iroh => match first {
                Some(Ok(())) => return Ok(()),
                first => (first, tcp.await),
            },
            first = &mut tcp => match first {
                Some(Ok(())) => return Ok(()),
                other => (iroh.await, other),
            },
        };
        match (first, other) {
            (Some(Ok(())), _) | (_, Some(Ok(()))) => Ok(()),
            (Some(failed), _) | (None, Some(failed)) => failed,
            // One of the two is there.
            (None, None) => Ok(()),
        }
    }

    pub(super) fn close(&self, peer: EndpointId) {
        if let Some(links) = &self.iroh {
            links.close(peer);
        }
        if let Some(links) = &self.tcp {
            links.close(peer);
        }
    }
}

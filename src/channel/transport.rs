//! The transports of a channel.

use std::{
    pin::pin,
    sync::Arc,
    task::{Context, Poll},
};

use futures_util::future::BoxFuture;
use http::{Request, Response};
use iroh::EndpointId;
use tokio::sync::watch;
use tonic::body::Body;
use tower::Service;
use tower_iroh_layers::BoxError;

use super::{
    arm::Arm,
    body::ResponseBody,
    stack::Rtt,
    wake_on_reconnect::{Connecting, Connection},
};
use crate::{
    error::Error,
    peer::TransportKind,
    pool::{PeerStats, State},
    quic::{Links, QuicDialer},
    tcp::{TcpDialer, TcpLinks},
};

/// The arm of either transport.
#[derive(Clone)]
pub(super) enum EitherArm {
    Iroh(Arm<QuicDialer>),
    Tcp(Arm<TcpDialer>),
}

impl EitherArm {
    /// The same arm, ready once it is connected.
    pub(super) fn waiting(self) -> Self {
        match self {
            Self::Iroh(arm) => Self::Iroh(arm.waiting()),
            Self::Tcp(arm) => Self::Tcp(arm.waiting()),
        }
    }
}

impl Service<Request<Body>> for EitherArm {
    type Response = Response<ResponseBody>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<ResponseBody>, BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        match self {
            Self::Iroh(arm) => arm.poll_ready(cx),
            Self::Tcp(arm) => arm.poll_ready(cx),
        }
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        match self {
            Self::Iroh(arm) => arm.call(request),
            Self::Tcp(arm) => arm.call(request),
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

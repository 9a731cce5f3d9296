//! Over what a channel leads to its peer.

use std::{
    task::{Context, Poll},
    time::Duration,
};

use futures_util::future::BoxFuture;
use http::{Request, Response};
use iroh::EndpointId;
use tokio::sync::watch;
use tonic::body::Body;
use tower::Service;

use super::{arm::Arm, body::ResponseBody};
use crate::{
    Error, Links, PeerStats, State, TransportKind,
    links::IrohDialer,
    tcp::{TcpDialer, TcpLinks},
};

/// The arm that a channel has.
#[derive(Clone)]
pub(super) enum Way {
    Iroh(Arm<IrohDialer>),
    Tcp(Arm<TcpDialer>),
}

impl Service<Request<Body>> for Way {
    type Response = Response<ResponseBody>;
    type Error = Error;
    type Future = BoxFuture<'static, Result<Response<ResponseBody>, Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Error>> {
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

/// What a channel's connections come from.
#[derive(Clone)]
pub(super) enum Source {
    Iroh(Links),
    Tcp(TcpLinks),
}

impl Source {
    pub(super) fn transport(&self) -> TransportKind {
        match self {
            Self::Iroh(_) => TransportKind::Iroh,
            Self::Tcp(_) => TransportKind::Tcp,
        }
    }

    pub(super) fn state(&self, peer: EndpointId) -> watch::Receiver<State> {
        match self {
            Self::Iroh(links) => links.state(peer),
            Self::Tcp(links) => links.state(peer),
        }
    }

    pub(super) fn stats(&self, peer: &EndpointId) -> Option<PeerStats> {
        match self {
            Self::Iroh(links) => links.stats(peer),
            Self::Tcp(links) => links.stats(peer),
        }
    }

    pub(super) fn rtt(&self, peer: &EndpointId) -> Option<Duration> {
        match self {
            Self::Iroh(links) => links.stats(peer)?.rtt,
            Self::Tcp(links) => links.rtt(peer),
        }
    }

    pub(super) fn close(&self, peer: &EndpointId) {
        match self {
            Self::Iroh(links) => links.close(peer),
            Self::Tcp(links) => links.close(peer),
        }
    }
}

//! In the place of `tcp` where the feature is off: the names that rooms for both transports use, as types without values.
//!
//! An `Option` of one is always `None`, so the compiler drops what would follow. A setting that a room puts on both transports has a line here.

#![allow(unreachable_pub, reason = "what it stands in for is public")]

use std::{
    io,
    net::SocketAddr,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures_core::Stream;
use futures_util::future::BoxFuture;
use iroh::EndpointId;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tonic::transport::server::Connected;
use tower_iroh_layers::ConfigError;
#[cfg(feature = "authorize")]
use tower_iroh_layers::authorize::PolicyHandle;

use crate::{
    error::Error,
    http2::{Carries, Http2, LaneSet, Lanes, NewStream, Opener},
    peer::{Peer, PeerInfo},
    pool::{
        Announce, Dialer, End, Known, Links, LinksBuilder, PeerStats, PoolHandle, Pooled, Used,
        Uses,
    },
};

pub type TcpLinks = Links<TcpDialer>;
pub type TcpLinksBuilder = LinksBuilder<TcpSettings>;

#[derive(Clone, Debug)]
pub enum TcpSettings {}

impl TcpLinksBuilder {
    pub(crate) fn lanes(self, _: Lanes) -> Self {
        match self.own {}
    }

    pub(crate) fn max_header_list_size(self, _: Option<u32>) -> Self {
        match self.own {}
    }

    pub(crate) fn build(self) -> Result<TcpLinks, ConfigError> {
        match self.own {}
    }
}

pub enum TcpDialer {}

impl Dialer for TcpDialer {
    type Connection = TcpLink;

    fn know(&self, _: &Peer) -> Known {
        match *self {}
    }

    fn forget(&self, _: EndpointId) {
        match *self {}
    }

    fn dial(
        &self,
        _: EndpointId,
        _: Uses,
        _: Announce<TcpLink>,
    ) -> BoxFuture<'static, Result<Arc<TcpLink>, Error>> {
        match *self {}
    }
}

#[derive(Debug)]
pub enum TcpLink {}

impl Used for TcpLink {
    fn uses(&self) -> &Uses {
        match *self {}
    }
}

impl Pooled for TcpLink {
    fn usable(&self) -> bool {
        match *self {}
    }

    fn fate(&self) -> End {
        match *self {}
    }

    fn retire(&self) {
        match *self {}
    }

    fn evict(&self) {
        match *self {}
    }

    fn close(&self) {
        match *self {}
    }

    fn stats(&self) -> Option<PeerStats> {
        match *self {}
    }

    fn rtt(&self) -> Option<Duration> {
        match *self {}
    }

    fn installed(self: &Arc<Self>, _: PoolHandle<Self>) {
        match **self {}
    }
}

impl Opener for TcpLink {
    fn open(self: &Arc<Self>, _: NewStream) -> BoxFuture<'static, Result<Http2, Error>> {
        match **self {}
    }
}

impl Carries for TcpLink {
    fn lanes(&self) -> &LaneSet {
        match *self {}
    }
}

#[derive(Clone, Debug)]
pub enum TcpAcceptor {}

impl TcpAcceptor {
    pub(crate) fn local_addr(&self) -> SocketAddr {
        match *self {}
    }

    pub(crate) fn connections(&self) -> usize {
        match *self {}
    }

    pub(crate) async fn drained(&self) {
        match *self {}
    }
}

/// The settings of an acceptor that a server puts on both.
pub enum TcpAcceptorBuilder {}

macro_rules! settings {
    ($($(#[$when:meta])* $setting:ident: $value:ty,)*) => {
        impl TcpAcceptorBuilder {
            $(
                $(#[$when])*
                pub(crate) fn $setting(self, _: $value) -> Self {
                    match self {}
                }
            )*
        }
    };
}

settings! {
    max_connections: usize,
    max_handshakes: usize,
    handshake_timeout: Duration,
    drain_timeout: Duration,
    idle_timeout: Duration,
    max_connection_age: impl Into<Option<Duration>>,
    max_connection_age_grace: impl Into<Option<Duration>>,
    #[cfg(feature = "authorize")]
    allow_list: &PolicyHandle,
}

#[derive(Debug)]
pub enum TcpIncoming {}

impl Stream for TcpIncoming {
    type Item = io::Result<TcpIo>;

    fn poll_next(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        match *self {}
    }
}

#[derive(Debug)]
pub enum TcpIo {}

impl AsyncRead for TcpIo {
    fn poll_read(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
        _: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match *self {}
    }
}

impl AsyncWrite for TcpIo {
    fn poll_write(self: Pin<&mut Self>, _: &mut Context<'_>, _: &[u8]) -> Poll<io::Result<usize>> {
        match *self {}
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match *self {}
    }

    fn poll_shutdown(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        match *self {}
    }
}

impl Connected for TcpIo {
    type ConnectInfo = PeerInfo;

    fn connect_info(&self) -> PeerInfo {
        match *self {}
    }
}

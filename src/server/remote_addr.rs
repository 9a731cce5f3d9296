//! Makes tonic's [`Request::remote_addr`](tonic::Request::remote_addr) and `local_addr` work over both transports.

use std::task::{Context, Poll};

use tonic::transport::server::TcpConnectInfo;
use tower::{Layer, Service};

use crate::peer::PeerInfo;

/// A server layer that gives each request the caller's socket address, if the current path has one.
///
/// tonic reads `remote_addr` from an extension of its own TCP transport. A connection can put only one extension into its
/// requests, and ours is [`PeerInfo`]. This layer adds tonic's from it, over iroh and over [TCP](crate::tcp). Calls through a relay have no address,
/// and calls over iroh no [`local_addr`](tonic::Request::local_addr).
///
/// ```
/// let server = tonic::transport::Server::builder().layer(tower_iroh::RemoteAddrLayer);
/// # let _ = server;
/// ```
#[derive(Clone, Copy, Debug, Default)]
pub struct RemoteAddrLayer;

impl<S> Layer<S> for RemoteAddrLayer {
    type Service = RemoteAddr<S>;

    fn layer(&self, inner: S) -> RemoteAddr<S> {
        RemoteAddr { inner }
    }
}

/// The service that [`RemoteAddrLayer`] makes. Readiness, errors and drop are the inner service's.
#[derive(Clone, Debug)]
pub struct RemoteAddr<S> {
    inner: S,
}

impl<S, B> Service<http::Request<B>> for RemoteAddr<S>
where
    S: Service<http::Request<B>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: http::Request<B>) -> S::Future {
        let info = request.extensions().get::<PeerInfo>();
        let addrs = info.and_then(|info| Some((info.remote_addr()?, info.local_addr())));
        if let Some((remote, local_addr)) = addrs {
            request.extensions_mut().insert(TcpConnectInfo {
                local_addr,
                remote_addr: Some(remote),
            });
        }
        self.inner.call(request)
    }
}

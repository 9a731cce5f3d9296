//! A channel of any kind as one type.

use std::task::{Context, Poll};

use futures_util::{FutureExt as _, future::BoxFuture};
use http::{Request, Response};
use tonic::body::Body;
use tower::{BoxError, Service, ServiceExt as _, util::BoxCloneSyncService};

use super::wire::{Arrived, Tally};

/// Any of the channels, with an eye on what the last response brought.
#[derive(Clone, Debug)]
pub struct Client {
    channel: BoxCloneSyncService<Request<Body>, Response<Body>, BoxError>,
    arrived: Arrived,
}

impl Client {
    pub fn new<S>(channel: S) -> Self
    where
        S: Service<Request<Body>, Response = Response<Body>> + Clone + Send + Sync + 'static,
        S::Error: Into<BoxError>,
        S::Future: Send + 'static,
    {
        Self {
            channel: BoxCloneSyncService::new(channel.map_err(Into::into)),
            arrived: Arrived::default(),
        }
    }

    /// What has arrived of the last response.
    pub fn tally(&self) -> Tally {
        self.arrived.tally()
    }
}

impl Service<Request<Body>> for Client {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = BoxFuture<'static, Result<Response<Body>, BoxError>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.channel.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let response = self.channel.call(request);
        let arrived = self.arrived.clone();
        async move {
            let response = response.await?;
            arrived.begin(response.headers());
            Ok(response.map(|body| arrived.watch(body)))
        }
        .boxed()
    }
}

//! What the gateway answers itself: its health, its readiness, its metrics.

use std::time::Duration;

use http::{Request, Response};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic_health::{
    ServingStatus,
    pb::health_server::HealthServer,
    server::{HealthReporter, HealthService},
};
use tower::ServiceExt;
use tower_iroh::{Peers, State, layers::prometheus::Prometheus};

use crate::pages::Pages;

/// The methods that the gateway answers where a call names no peer.
const HEALTH: &str = "/grpc.health.v1.Health/";

/// How often the peers' states are read for the health service.
const INTERVAL: Duration = Duration::from_secs(1);

pub(super) struct Own {
    pub(super) pages: Pages,
    health: HealthServer<HealthService>,
    follows: JoinHandle<()>,
}

impl Own {
    pub(super) fn new(peers: Peers, prometheus: Prometheus, stop: CancellationToken) -> Self {
        let reporter = HealthReporter::new();
        let health = HealthServer::new(HealthService::from_health_reporter(reporter.clone()));
        let follows = tokio::spawn(follow(peers, reporter, stop.clone()));
        Self {
            pages: Pages { prometheus, stop },
            health,
            follows,
        }
    }

    pub(super) fn is_health(path: &str) -> bool {
        path.starts_with(HEALTH)
    }

    /// Answers a call of `grpc.health.v1`: the service "" is the gateway, any other is the peer of that name.
    pub(super) async fn health(&self, request: Request<Body>) -> Response<Body> {
        match self.health.clone().oneshot(request).await {
            Ok(response) => response,
            Err(never) => match never {},
        }
    }
}

impl Drop for Own {
    fn drop(&mut self) {
        self.follows.abort();
    }
}

async fn follow(peers: Peers, mut reporter: HealthReporter, stop: CancellationToken) {
    let mut known: Vec<String> = Vec::new();
    loop {
        let now = peers.list();
        for (name, _) in &now {
            let state = peers.channel(name).map(|channel| *channel.state().borrow());
            let status = match state {
                // A peer that nobody has called yet is not known to be away.
                Ok(State::Idle | State::Connecting | State::Ready) => ServingStatus::Serving,
                _ => ServingStatus::NotServing,
            };
            reporter.set_service_status(name, status).await;
        }
        for gone in known
            .iter()
            .filter(|name| now.iter().all(|(other, _)| other != *name))
        {
            reporter.clear_service_status(gone).await;
        }
        known = now.into_iter().map(|(name, _)| name).collect();
        tokio::select! {
            () = tokio::time::sleep(INTERVAL) => {}
            () = stop.cancelled() => break,
        }
    }
    for name in known.iter().map(String::as_str).chain([""]) {
        reporter
            .set_service_status(name, ServingStatus::NotServing)
            .await;
        // Ends those who watch it, which would hold up the drain.
        reporter.clear_service_status(name).await;
    }
}

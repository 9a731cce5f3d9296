//! What the gateway answers itself: its health, its readiness, its metrics.

use std::time::Duration;

use http::{Request, Response, StatusCode, header};
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

/// The methods that the gateway answers where a call names no peer.
const HEALTH: &str = "/grpc.health.v1.Health/";

/// How often the peers' states are read for the health service.
const INTERVAL: Duration = Duration::from_secs(1);

pub(super) struct Own {
    prometheus: Prometheus,
    stop: CancellationToken,
    health: HealthServer<HealthService>,
    follows: JoinHandle<()>,
}

impl Own {
    pub(super) fn new(peers: Peers, prometheus: Prometheus, stop: CancellationToken) -> Self {
        let reporter = HealthReporter::new();
        let health = HealthServer::new(HealthService::from_health_reporter(reporter.clone()));
        let follows = tokio::spawn(follow(peers, reporter, stop.clone()));
        Self {
            prometheus,
            stop,
            health,
            follows,
        }
    }

    /// Answers a plain HTTP request; `None` if it is for none of the gateway's own pages.
    pub(super) fn page(&self, path: &str) -> Option<Response<Body>> {
        let (status, text) = match path {
            "/healthz" => (StatusCode::OK, "ok\n".to_owned()),
            "/readyz" if self.stop.is_cancelled() => (
                StatusCode::SERVICE_UNAVAILABLE,
                "shutting down\n".to_owned(),
            ),
            "/readyz" => (StatusCode::OK, "ready\n".to_owned()),
            "/metrics" => (StatusCode::OK, self.prometheus.render()),
            _ => return None,
        };
        Some(plain(status, text))
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

/// An answer to a person or a probe.
pub(super) fn plain(status: StatusCode, text: String) -> Response<Body> {
    let mut response = Response::new(Body::new(http_body_util::Full::from(text)));
    *response.status_mut() = status;
    let text = http::HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, text);
    response
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

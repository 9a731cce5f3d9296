//! A Prometheus recorder with buckets for every histogram of the layers, and its upkeep.
//!
//! By itself [`metrics_exporter_prometheus`] shows a histogram as a summary: quantiles of one process, which cannot be added up over
//! several. It also keeps every recorded value until the metrics are rendered. [`Prometheus`] sets the buckets and runs the upkeep.
//!
//! ```
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! use tower::ServiceBuilder;
//! use tower_iroh_layers::{metrics::MetricsLayer, prometheus::Prometheus};
//! use tower_iroh_proto::echo::{EchoRequest, echo_client::EchoClient};
//!
//! // Before the first call; keep it for as long as the program runs.
//! let prometheus = Prometheus::install()?;
//! let nobody = tonic::transport::Endpoint::from_static("http://127.0.0.1:1").connect_lazy();
//! let channel = ServiceBuilder::new().layer(MetricsLayer::client()).service(nobody);
//! EchoClient::new(channel).echo(EchoRequest::default()).await.unwrap_err();
//!
//! // What `GET /metrics` answers.
//! let text = prometheus.render();
//! assert!(text.contains("rpc_client_call_duration_bucket{"));
//! assert!(text.contains(r#"rpc_method="tower_iroh.echo.v1.Echo/Echo""#));
//! assert!(text.contains(r#"rpc_response_status_code="UNAVAILABLE""#));
//! assert!(text.contains(r#"tower_iroh_client_call_errors_total{origin="link"} 1"#));
//! # Ok(())
//! # }
//! ```
//!
//! **Buckets.** Durations have bounds from 100 µs to 60 s: OpenTelemetry's, and finer ones below for a local network. Batches have powers of
//! two up to 1,024 items, and 4,096. [`builder`] exposes the exporter's other settings, other buckets among them.
//!
//! **Upkeep.** A task empties the recorder's queues every five seconds. [`Prometheus`] owns the task: dropping that value ends it, and from
//! then on only rendering frees memory. The task also ends with its runtime.

use std::time::Duration;

use metrics_exporter_prometheus::{BuildError, Matcher};
pub use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio::{
    runtime::{Handle, TryCurrentError},
    task::AbortHandle,
    time::sleep,
};

use crate::meter::Distribution;

const UPKEEP: Duration = Duration::from_secs(5);

/// An exporter's builder with the buckets of every histogram of the layers. Set the other options and pass it to
/// [`Prometheus::install_with`].
///
/// [`set_buckets_for_metric`](PrometheusBuilder::set_buckets_for_metric) replaces the buckets of one histogram; it takes the names on the
/// layers' pages.
pub fn builder() -> PrometheusBuilder {
    let buckets = |builder: PrometheusBuilder, it: &Distribution| {
        let name = Matcher::Full(it.name().to_owned());
        match builder.set_buckets_for_metric(name, it.bounds()) {
            Ok(builder) => builder,
            Err(_) => unreachable!("the only error is for a histogram without bounds"),
        }
    };
    Distribution::ALL
        .iter()
        .fold(PrometheusBuilder::new(), buckets)
}

/// The recorder of this process, and the owner of its upkeep.
#[derive(Debug)]
#[must_use = "dropping it ends the recorder's upkeep"]
pub struct Prometheus {
    handle: PrometheusHandle,
    _upkeep: Upkeep,
}

/// The reason why there is no recorder.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PrometheusError {
    /// The process has a recorder already.
    #[error("no Prometheus recorder: install it once, and no other recorder")]
    Recorder(#[source] BuildError),
    /// There is no tokio runtime for the upkeep.
    #[error("no Prometheus recorder: install it in a tokio runtime, which runs its upkeep")]
    NoRuntime(#[source] TryCurrentError),
}

impl Prometheus {
    /// Installs a recorder for this process, as [`builder`] makes it, and starts its upkeep on this tokio runtime.
    ///
    /// # Errors
    /// There is a recorder already, or no runtime.
    pub fn install() -> Result<Self, PrometheusError> {
        Self::install_with(builder())
    }

    /// Installs a recorder with other settings. Begin with [`builder`], which has the buckets.
    ///
    /// # Errors
    /// There is a recorder already, or no runtime.
    pub fn install_with(builder: PrometheusBuilder) -> Result<Self, PrometheusError> {
        let runtime = Handle::try_current().map_err(PrometheusError::NoRuntime)?;
        let handle = builder
            .install_recorder()
            .map_err(PrometheusError::Recorder)?;
        let kept = handle.clone();
        let upkeep = Upkeep::start(&runtime, move || kept.run_upkeep());
        Ok(Self {
            handle,
            _upkeep: upkeep,
        })
    }

    /// All metrics in Prometheus' text format.
    pub fn render(&self) -> String {
        self.handle.render()
    }

    /// The exporter's handle, to render the metrics elsewhere. Clones do not keep the upkeep alive.
    pub fn handle(&self) -> &PrometheusHandle {
        &self.handle
    }
}

/// Runs something again and again until it is dropped.
#[derive(Debug)]
struct Upkeep(AbortHandle);

impl Upkeep {
    fn start(runtime: &Handle, run: impl Fn() + Send + 'static) -> Self {
        let task = runtime.spawn(async move {
            loop {
                sleep(UPKEEP).await;
                run();
            }
        });
        Self(task.abort_handle())
    }
}

impl Drop for Upkeep {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    };

    use super::*;
    use crate::meter::labelled_histogram;

    #[test]
    fn every_histogram_has_buckets() {
        let recorder = builder().build_recorder();
        metrics::with_local_recorder(&recorder, || {
            for it in Distribution::ALL {
                labelled_histogram(*it, vec![metrics::Label::new("a", "b")]).record(1.0);
            }
        });
        let text = recorder.handle().render();
        for it in Distribution::ALL {
            let name = it.name().replace('.', "_");
            let first = it.bounds()[0];
            let bucket = format!("{name}_bucket{{a=\"b\",le=\"{first}\"}} ");
            assert!(text.contains(&bucket), "{bucket} is not in\n{text}");
            assert!(it.bounds().is_sorted_by(|a, b| a < b), "{name}");
        }
        assert!(!text.contains("summary"), "{text}");
    }

    #[test]
    fn without_a_runtime_nothing_is_installed() {
        for _ in 0..2 {
            let error = Prometheus::install().expect_err("no upkeep");
            assert!(matches!(error, PrometheusError::NoRuntime(_)), "{error}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_upkeep_runs_until_its_owner_is_dropped() {
        let runs = Arc::new(AtomicU32::new(0));
        let counts = runs.clone();
        let upkeep = Upkeep::start(&Handle::current(), move || {
            counts.fetch_add(1, Ordering::Relaxed);
        });
        sleep(UPKEEP * 10 + UPKEEP / 2).await;
        assert_eq!(runs.load(Ordering::Relaxed), 10);
        drop(upkeep);
        tokio::task::yield_now().await;
        assert_eq!(Handle::current().metrics().num_alive_tasks(), 0);
        assert_eq!(Arc::strong_count(&runs), 1, "nothing is kept");
    }
}

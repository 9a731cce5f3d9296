//! What a recorder is told by all layers: one that is installed after they were built, and Prometheus with buckets.

use std::{
    fs,
    future::{Pending, Ready, pending, ready},
    path::Path,
    task::{Context, Poll},
};

use http::{Extensions, Request, Response};
use http_body_util::BodyExt;
use tonic::{Status, body::Body};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_iroh_layers::{
    BoxError, Fault, Incident, Origin,
    authorize::{AccessPolicy, AuthorizeLayer, Identity, PolicyHandle},
    batch::{BatchConfig, BatchLayer},
    breaker::{BreakerConfig, BreakerLayer, Circuit},
    buffer::{Buffer, BufferConfig, WaitForReady},
    fail_fast::{FailFast, FailFastConfig},
    metrics::MetricsLayer,
    priority::PriorityLayer,
    prometheus,
    retry::{RetryLayer, RetryPolicy},
    select::{Arm, Select, SelectHandle},
};

type Answer = Result<Response<Body>, BoxError>;

fn request() -> Request<Body> {
    let mut request = Request::post("/a.B/C").body(Body::empty()).expect("valid");
    request.extensions_mut().insert(WaitForReady);
    request
}

async fn answer(_: Request<Body>) -> Answer {
    Ok(Status::new(tonic::Code::Ok, "").into_http())
}

async fn unreached(_: Request<Body>) -> Answer {
    let status = Status::unavailable("no way");
    Err(Fault::unsent(Origin::Link(Incident::new()), status).into())
}

/// Never ready.
#[derive(Clone)]
struct Away;

impl Service<Request<Body>> for Away {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Pending<Answer>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Pending
    }

    fn call(&mut self, _: Request<Body>) -> Self::Future {
        pending()
    }
}

/// One call to its end, whatever that is.
async fn call<S, R>(service: S)
where
    S: Service<Request<Body>, Response = Response<R>>,
    R: http_body::Body,
{
    if let Ok(response) = service.oneshot(request()).await {
        let _ = response.into_body().collect().await;
    }
}

/// Every layer is built, then the recorder comes, then every layer has a call. What Prometheus gets of that.
async fn installed_late() -> String {
    let client = MetricsLayer::client().layer(service_fn(answer));
    let attempt = MetricsLayer::attempt("tcp").layer(service_fn(answer));
    let server = MetricsLayer::server().layer(service_fn(answer));
    let priority = PriorityLayer::default().layer(service_fn(answer));
    let buffer = Buffer::new(BufferConfig::default(), service_fn(answer));
    let batch = BatchLayer::new(BatchConfig::default(), |_: &u8| 1);
    let batch = batch.layer(service_fn(|items: Vec<u8>| ready(Ok::<_, BoxError>(items))));
    let refused = BatchLayer::new(BatchConfig::default(), |_: &u8| 1);
    let refused = refused.layer(service_fn(
        |_: Vec<u8>| -> Ready<Result<Vec<u8>, BoxError>> { ready(Err("no".into())) },
    ));
    let circuit = Circuit::new(BreakerConfig::default());
    let breaker = BreakerLayer::new(circuit).layer(service_fn(unreached));
    let fail_fast = FailFast::new(Away, FailFastConfig::default());
    let retry = RetryLayer::new(RetryPolicy::default()).layer(service_fn(unreached));
    let select = SelectHandle::new(Arm::First).named(["iroh", "tcp"]);
    let select = Select::new(service_fn(answer), service_fn(answer), select);
    let closed = PolicyHandle::new(AccessPolicy::builder().build().expect("valid"));
    let nobody = |_: &Extensions| None::<Identity>;
    let authorize = AuthorizeLayer::new(closed, nobody).layer(service_fn(answer));

    let recorder = prometheus::builder().build_recorder();
    let _recording = metrics::set_default_local_recorder(&recorder);
    call(client).await;
    call(attempt).await;
    call(server).await;
    call(priority).await;
    call(buffer).await;
    batch.oneshot(1).await.expect("answered");
    refused.oneshot(1).await.expect_err("refused");
    for _ in 0..5 {
        call(breaker.clone()).await;
    }
    call(fail_fast).await;
    call(retry).await;
    call(select).await;
    call(authorize).await;
    recorder.handle().render()
}

#[tokio::test(start_paused = true)]
async fn every_layer_works_with_a_recorder_that_is_installed_later() {
    let text = installed_late().await;
    for line in [
        r#"rpc_client_call_duration_count{rpc_system_name="grpc",rpc_method="a.B/C",rpc_response_status_code="OK"} 1"#,
        r#"tower_iroh_priority_calls_total{urgency="3"} 1"#,
        r#"tower_iroh_priority_lowered_total 0"#,
        r#"tower_iroh_buffer_calls_total{outcome="delivered"} 1"#,
        r#"tower_iroh_buffer_waiting 0"#,
        r#"tower_iroh_batch_items_count 2"#,
        r#"tower_iroh_batch_failed_total 1"#,
        r#"tower_iroh_breaker_not_closed{transport="any"} 1"#,
        r#"tower_iroh_breaker_opened_total{transport="any",rule="link"} 1"#,
        r#"tower_iroh_fail_fast_refused_total 1"#,
        r#"tower_iroh_retry_retries_total{reason="unreached"} 2"#,
        r#"tower_iroh_select_decisions_total{arm="iroh",reason="fixed"} 1"#,
        r#"tower_iroh_authorize_denied_total{reason="unauthenticated"} 1"#,
    ] {
        assert!(
            text.lines().any(|it| it == line),
            "{line}\nis not in\n{text}"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn every_histogram_of_the_layers_has_buckets() {
    let text = installed_late().await;
    for name in [
        "rpc_client_call_duration",
        "rpc_server_call_duration",
        "tower_iroh_client_attempt_duration_seconds",
        "tower_iroh_batch_items",
    ] {
        let bucket = format!("{name}_bucket{{");
        assert!(text.contains(&bucket), "{bucket} is not in\n{text}");
        assert!(text.contains(&format!("# TYPE {name} histogram")));
    }
    assert!(!text.contains(" summary\n"), "without buckets:\n{text}");
}

/// The buckets are those of `Distribution`, which is the only thing that `meter.rs` makes a histogram of.
#[test]
fn no_histogram_is_recorded_beside_those_that_have_buckets() {
    fn look(folder: &Path, found: &mut Vec<String>) {
        for entry in fs::read_dir(folder).expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                look(&path, found);
                continue;
            }
            let source = fs::read_to_string(&path).expect("a source");
            let calls = source.matches("histogram!(").count();
            let described = source.matches("describe_histogram!(").count();
            if calls > described {
                found.push(path.display().to_string());
            }
        }
    }
    let layers = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut found = Vec::new();
    look(&layers.join("src"), &mut found);
    look(&layers.join("../src"), &mut found);
    let only = layers.join("src/meter.rs").display().to_string();
    assert_eq!(found, [only], "name it in `Distribution` in meter.rs");
}

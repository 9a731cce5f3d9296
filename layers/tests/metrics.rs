//! What is recorded, when, and under which names.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    future::{pending, ready},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use metrics_exporter_prometheus::PrometheusBuilder;
use metrics_util::debugging::{DebugValue, DebuggingRecorder, Snapshotter};
use tokio::time::advance;
use tokio_stream::Stream;
use tonic::{Status, body::Body};
use tower::{Layer as _, Service, ServiceExt as _, service_fn};
use tower_iroh_layers::{BoxError, Fault, Incident, Origin, metrics::MetricsLayer};

type Frames = Vec<Result<Frame<Bytes>, Status>>;
type Answer = Result<Response<Body>, BoxError>;

fn data() -> Result<Frame<Bytes>, Status> {
    Ok(Frame::data(Bytes::from_static(b"\0\0\0\0\x01x")))
}

fn trailers(status: &'static str) -> Result<Frame<Bytes>, Status> {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", status.parse().expect("a value"));
    Ok(Frame::trailers(trailers))
}

fn streaming(
    frames: impl Stream<Item = Result<Frame<Bytes>, Status>> + Send + 'static,
) -> Response<Body> {
    Response::new(Body::new(StreamBody::new(frames)))
}

fn answer(frames: Frames) -> Response<Body> {
    streaming(tokio_stream::iter(frames))
}

fn request(path: &str) -> Request<()> {
    Request::builder().uri(path).body(()).expect("a request")
}

/// One call, read to its end.
async fn call<S, R, E>(service: S, path: &str)
where
    S: Service<Request<()>, Response = Response<R>, Error = E>,
    R: http_body::Body,
    E: std::fmt::Debug,
{
    if let Ok(response) = service.oneshot(request(path)).await {
        let _ = response.into_body().collect().await;
    }
}

/// Calls are answered by their path: `/s/5` with status 5, `/s/404` by no gRPC server, anything else with OK.
fn by_path(
    layer: &MetricsLayer,
) -> impl Service<
    Request<()>,
    Response = Response<impl http_body::Body<Data = Bytes, Error = BoxError> + use<>>,
    Error = BoxError,
> + Clone
+ use<> {
    layer.layer(service_fn(|request: Request<()>| {
        let status = match request.uri().path().rsplit('/').next() {
            Some("404") => {
                let mut answer = answer(vec![]);
                *answer.status_mut() = http::StatusCode::NOT_FOUND;
                return ready(Ok::<_, Infallible>(answer));
            }
            Some("5") => "5",
            Some("7") => "7",
            Some("12") => "12",
            Some("14") => "14",
            _ => "0",
        };
        ready(Ok(answer(vec![data(), trailers(status)])))
    }))
}

/// `name{labels}` to value; a histogram's is its list of values.
type Seen = BTreeMap<String, Vec<f64>>;

fn seen(snapshotter: &Snapshotter) -> Seen {
    let mut seen = Seen::new();
    for (key, _, _, value) in snapshotter.snapshot().into_vec() {
        let key = key.key();
        let mut labels: Vec<_> = key
            .labels()
            .map(|label| format!("{}={}", label.key(), label.value()))
            .collect();
        labels.sort();
        let value = match value {
            DebugValue::Counter(count) => vec![count as f64],
            DebugValue::Gauge(value) => vec![value.into_inner()],
            DebugValue::Histogram(values) => values.into_iter().map(|it| it.into_inner()).collect(),
        };
        seen.insert(format!("{}{{{}}}", key.name(), labels.join(",")), value);
    }
    seen
}

const CALL: &str = "rpc.client.call.duration";

fn client_series(method: &str, code: &str) -> String {
    let error = if code == "OK" {
        String::new()
    } else {
        format!("error.type={code},")
    };
    format!(
        "{CALL}{{{error}rpc.method={method},rpc.response.status_code={code},rpc.system.name=grpc}}"
    )
}

/// The keys of the series of a duration that have values.
fn durations(seen: &Seen, name: &str) -> Vec<String> {
    seen.iter()
        .filter(|(key, values)| key.starts_with(name) && !values.is_empty())
        .map(|(key, _)| key.clone())
        .collect()
}

#[tokio::test(start_paused = true)]
async fn a_stream_is_recorded_at_its_end_and_not_at_its_head() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let _guard = metrics::set_default_local_recorder(&recorder);

    let (tx, rx) = tokio::sync::mpsc::channel(1);
    let mut rx = Some(rx);
    let service = MetricsLayer::client().layer(service_fn(move |_: Request<()>| {
        let stream = tokio_stream::wrappers::ReceiverStream::new(rx.take().expect("once"));
        ready(Ok::<_, Infallible>(streaming(stream)))
    }));
    let response = service.oneshot(request("/p.S/M")).await.expect("a head");
    advance(Duration::from_secs(2)).await;
    let now = seen(&snapshotter);
    assert!(durations(&now, CALL).is_empty(), "{now:?}");
    assert_eq!(now["tower_iroh_client_calls_in_flight{}"], [1.0]);

    tx.send(trailers("14")).await.expect("there is room");
    drop(tx);
    response.into_body().collect().await.expect("a body");
    let now = seen(&snapshotter);
    assert_eq!(now[&client_series("p.S/M", "UNAVAILABLE")], [2.0]);
    assert_eq!(durations(&now, CALL).len(), 1);
    // A snapshot takes what it shows: one less than before.
    assert_eq!(now["tower_iroh_client_calls_in_flight{}"], [-1.0]);
    assert_eq!(
        now["tower_iroh_client_call_errors_total{origin=peer}"],
        [1.0]
    );
}

#[tokio::test(start_paused = true)]
async fn every_ending_has_its_code_and_nothing_stays_in_flight() {
    let link = || Fault::unsent(Origin::Link(Incident::new()), Status::unavailable("lost"));
    let ours = || Fault::unsent(Origin::Ours, Status::resource_exhausted("full"));
    let refused = || Fault::unsent(Origin::Refused, Status::unavailable("later"));
    let cases: [(Answer, &str, Option<&str>); 9] = [
        (Ok(answer(vec![data(), trailers("0")])), "OK", None),
        (
            Ok(answer(vec![data(), trailers("5")])),
            "NOT_FOUND",
            Some("peer"),
        ),
        (
            Ok(Status::aborted("head").into_http()),
            "ABORTED",
            Some("peer"),
        ),
        (Ok(answer(vec![data()])), "UNKNOWN", Some("peer")),
        (
            Ok(answer(vec![Err(Status::data_loss("body"))])),
            "DATA_LOSS",
            Some("unknown"),
        ),
        (Err(link().into()), "UNAVAILABLE", Some("link")),
        (Err(ours().into()), "RESOURCE_EXHAUSTED", Some("ours")),
        (Err(refused().into()), "UNAVAILABLE", Some("refused")),
        (Err("who knows".into()), "UNKNOWN", Some("unknown")),
    ];
    for (result, code, origin) in cases {
        let recorder = DebuggingRecorder::new();
        let snapshotter = recorder.snapshotter();
        let _guard = metrics::set_default_local_recorder(&recorder);
        let mut result = Some(result);
        let service = MetricsLayer::client().layer(service_fn(move |_: Request<()>| {
            ready(result.take().expect("once"))
        }));
        call(service, "/p.S/M").await;
        let now = seen(&snapshotter);
        assert_eq!(durations(&now, CALL), [client_series("p.S/M", code)]);
        assert_eq!(now["tower_iroh_client_calls_in_flight{}"], [0.0]);
        let errors: Vec<_> = now
            .iter()
            .filter(|(key, value)| key.contains("errors") && value[0] > 0.0)
            .map(|(key, _)| key.clone())
            .collect();
        let expected =
            origin.map(|it| format!("tower_iroh_client_call_errors_total{{origin={it}}}"));
        assert_eq!(errors, Vec::from_iter(expected), "{code}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_dropped_future_and_a_dropped_body_are_cancelled_and_no_error() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let layer = MetricsLayer::client();

    let never = layer.layer(service_fn(|_: Request<()>| {
        pending::<Result<Response<Body>, BoxError>>()
    }));
    let future = never.oneshot(request("/p.S/M"));
    assert!(
        tokio::time::timeout(Duration::from_secs(1), future)
            .await
            .is_err()
    );
    let response = by_path(&layer)
        .oneshot(request("/p.S/M"))
        .await
        .expect("a head");
    drop(response);

    let now = seen(&snapshotter);
    assert_eq!(now[&client_series("p.S/M", "CANCELLED")], [1.0, 0.0]);
    assert_eq!(now["tower_iroh_client_calls_in_flight{}"], [0.0]);
    assert!(
        now.iter()
            .all(|(key, value)| !key.contains("errors") || *value == [0.0])
    );
}

#[tokio::test]
async fn a_call_that_panics_is_not_in_flight_for_ever() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let mut service = MetricsLayer::server().layer(service_fn(
        |_: Request<()>| -> std::future::Ready<Result<Response<Body>, BoxError>> {
            panic!("a bug")
        },
    ));
    let caught = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        service.call(request("/p.S/M"))
    }));
    assert!(caught.is_err());
    assert_eq!(
        seen(&snapshotter)["tower_iroh_server_calls_in_flight{}"],
        [0.0]
    );
}

#[tokio::test(start_paused = true)]
async fn attempts_are_told_apart_by_transport() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let _guard = metrics::set_default_local_recorder(&recorder);
    call(by_path(&MetricsLayer::attempt("iroh")), "/p.S/M").await;
    call(by_path(&MetricsLayer::attempt("tcp")), "/p.S/14").await;
    let now = seen(&snapshotter);
    assert_eq!(
        durations(&now, "tower_iroh_client_attempt_duration_seconds"),
        [
            "tower_iroh_client_attempt_duration_seconds{error.type=UNAVAILABLE,rpc.method=p.S/14,\
             rpc.response.status_code=UNAVAILABLE,rpc.system.name=grpc,transport=tcp}",
            "tower_iroh_client_attempt_duration_seconds{rpc.method=p.S/M,rpc.response.status_code=OK,\
             rpc.system.name=grpc,transport=iroh}",
        ]
    );
    let errors = |transport| {
        format!("tower_iroh_client_attempt_errors_total{{origin=peer,transport={transport}}}")
    };
    assert_eq!(now[&errors("tcp")], [1.0]);
    assert_eq!(now[&errors("iroh")], [0.0]);
    assert_eq!(
        now["tower_iroh_client_attempts_in_flight{transport=tcp}"],
        [0.0]
    );
}

#[tokio::test(start_paused = true)]
async fn the_names_of_methods_have_a_cap() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let layer = MetricsLayer::client().method_cap(2);
    for method in 0..50 {
        call(by_path(&layer), &format!("/p.S/m{method}")).await;
    }
    call(by_path(&layer), "/p.S/m1").await;
    let now = seen(&snapshotter);
    assert_eq!(durations(&now, CALL).len(), 3);
    assert_eq!(now[&client_series("_OTHER", "OK")].len(), 48);
    assert_eq!(now[&client_series("p.S/m1", "OK")].len(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_server_learns_no_name_from_paths_that_anybody_may_invent() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let layer = MetricsLayer::server().method_cap(1);
    for invented in 0..50 {
        for answer in ["12", "7", "5", "14", "404"] {
            call(by_path(&layer), &format!("/invented{invented}/{answer}")).await;
        }
    }
    let failing = layer.layer(service_fn(|_: Request<()>| {
        ready(Err::<Response<Body>, BoxError>("who knows".into()))
    }));
    call(failing.clone(), "/p.S/Fails").await;
    call(by_path(&layer), "/p.S/Real").await;
    call(failing, "/p.S/Real").await;
    call(by_path(&layer), "/p.S/Late").await;
    let now = seen(&snapshotter);
    let label = |method: &str, code: &str| {
        format!(
            "rpc.server.call.duration{{rpc.method={method},rpc.response.status_code={code},rpc.system.name=grpc}}"
        )
    };
    assert_eq!(
        now[&label("_OTHER", "PERMISSION_DENIED")].len(),
        50,
        "not the server's error"
    );
    assert_eq!(now[&label("p.S/Real", "OK")].len(), 1);
    let named = durations(&now, "rpc.server");
    let named: Vec<_> = named.iter().filter(|it| !it.contains("_OTHER")).collect();
    assert_eq!(named.len(), 2, "{named:?}");
    assert!(named.iter().all(|it| it.contains("p.S/Real")), "{named:?}");
    assert!(named[0].contains("UNKNOWN"), "of a known method all codes");
    assert!(!now.keys().any(|key| key.contains("errors")));
}

/// A client that passes on the calls of others knows its peers, and not their paths.
#[tokio::test(start_paused = true)]
async fn a_client_may_learn_methods_from_ok_alone() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let layer = MetricsLayer::client().peer_label(2).methods_from_ok();
    let layer = layer.for_peer("db");
    for path in ["/invented/7", "/also.invented/12", "/p.S/M", "/p.S/M"] {
        call(by_path(&layer), path).await;
    }
    let now = seen(&snapshotter);
    let names = durations(&now, CALL);
    assert_eq!(names.len(), 3, "{names:?}");
    assert!(
        names.iter().all(|it| it.contains("peer=db")
            && (it.contains("p.S/M") || it.contains("rpc.method=_OTHER"))),
        "{names:?}"
    );
}

#[derive(Clone)]
struct Caller(&'static str);

#[tokio::test(start_paused = true)]
async fn peers_have_a_label_on_request_only_and_a_cap() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let named =
        |layer: MetricsLayer| layer.peer_from(|ext| ext.get::<Caller>().map(|it| Arc::from(it.0)));
    let silent = named(MetricsLayer::server());
    let layer = named(MetricsLayer::server()).peer_label(2);
    for peer in ["a", "b", "c", "d", "a"] {
        for layer in [&silent, &layer] {
            let mut request = request("/p.S/M");
            request.extensions_mut().insert(Caller(peer));
            let response = by_path(layer).oneshot(request).await.expect("a head");
            response.into_body().collect().await.expect("a body");
        }
    }
    let now = seen(&snapshotter);
    let peers: Vec<_> = durations(&now, "rpc.server")
        .iter()
        .map(|key| {
            (
                key.split("peer=")
                    .nth(1)
                    .map(|it| it.split(',').next().expect("some").to_owned()),
                now[key].len(),
            )
        })
        .collect();
    let peer = |name: &str| Some(name.to_owned());
    assert_eq!(
        peers,
        [
            (peer("_OTHER"), 2),
            (peer("a"), 2),
            (peer("b"), 1),
            (None, 5)
        ]
    );
}

#[tokio::test(start_paused = true)]
async fn strangers_take_no_peer_s_place() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let layer = MetricsLayer::server()
        .peer_label(1)
        .peer_from(|ext| ext.get::<Caller>().map(|it| Arc::from(it.0)));
    for (peer, path) in [
        ("stranger", "/p.S/7"),
        ("a", "/p.S/7"),
        ("a", "/p.S/M"),
        ("a", "/p.S/7"),
        ("b", "/p.S/M"),
    ] {
        let mut request = request(path);
        request.extensions_mut().insert(Caller(peer));
        let response = by_path(&layer).oneshot(request).await.expect("a head");
        response.into_body().collect().await.expect("a body");
    }
    let now = seen(&snapshotter);
    let counts: Vec<_> = durations(&now, "rpc.server")
        .into_iter()
        .map(|key| {
            let (_, labels) = key.split_once('{').expect("labels");
            (labels.to_owned(), now[&key].len())
        })
        .collect();
    let series = |peer: &str, method: &str, code: &str| {
        format!(
            "peer={peer},rpc.method={method},rpc.response.status_code={code},rpc.system.name=grpc}}"
        )
    };
    assert_eq!(
        counts,
        [
            (series("_OTHER", "_OTHER", "PERMISSION_DENIED"), 2),
            (series("_OTHER", "p.S/M", "OK"), 1),
            (series("a", "_OTHER", "PERMISSION_DENIED"), 1),
            (series("a", "p.S/M", "OK"), 1),
        ]
    );
    for peer in ["_OTHER", "a"] {
        let in_flight = format!("tower_iroh_server_calls_in_flight{{peer={peer}}}");
        assert_eq!(now[&in_flight], [0.0], "{peer}");
    }
}

#[tokio::test(start_paused = true)]
async fn channels_of_many_peers_share_one_cap() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let layer = MetricsLayer::client().peer_label(3);
    for peer in 0..20 {
        call(by_path(&layer.for_peer(format!("p{peer}"))), "/p.S/M").await;
    }
    assert_eq!(durations(&seen(&snapshotter), CALL).len(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_setter_changes_nothing_else() {
    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let set: [fn(MetricsLayer) -> MetricsLayer; 4] = [
        |layer| layer.transport("tcp"),
        |layer| layer.method_cap(7),
        |layer| layer.peer_label(1),
        |layer| layer.peer_from(|_| Some("another".into())),
    ];
    for set in set {
        call(by_path(&set(MetricsLayer::disabled())), "/p.S/M").await;
        assert!(seen(&snapshotter).is_empty(), "it still records nothing");
    }
    for set in set {
        let one = MetricsLayer::client().peer_label(1).for_peer("one");
        call(by_path(&set(one)), "/p.S/M").await;
        let now = seen(&snapshotter);
        let series = durations(&now, CALL);
        assert!(series[0].contains("peer=one"), "{series:?}");
    }
}

#[tokio::test]
async fn handles_stay_with_the_recorder_that_they_were_made_for() {
    let first = DebuggingRecorder::new();
    let layer = MetricsLayer::client();
    {
        let _guard = metrics::set_default_local_recorder(&first);
        call(by_path(&layer), "/p.S/M").await;
    }
    let second = DebuggingRecorder::new();
    let _guard = metrics::set_default_local_recorder(&second);
    call(by_path(&layer), "/p.S/M").await;
    assert_eq!(
        seen(&first.snapshotter())[&client_series("p.S/M", "OK")].len(),
        2
    );
    assert!(seen(&second.snapshotter()).is_empty());
}

#[tokio::test]
async fn prometheus_shows_the_names_that_the_page_has() {
    for recommended in [false, true] {
        let recorder = PrometheusBuilder::new()
            .with_recommended_naming(recommended)
            .build_recorder();
        let _guard = metrics::set_default_local_recorder(&recorder);
        call(by_path(&MetricsLayer::client()), "/p.S/M").await;
        call(by_path(&MetricsLayer::attempt("tcp")), "/p.S/14").await;
        call(by_path(&MetricsLayer::server()), "/p.S/M").await;
        let text = recorder.handle().render();
        let suffix = if recommended { "_seconds" } else { "" };
        for line in [
            format!("rpc_client_call_duration{suffix}_count{{rpc_system_name=\"grpc\",rpc_method=\"p.S/M\",rpc_response_status_code=\"OK\"}} 1"),
            format!("rpc_server_call_duration{suffix}_count{{rpc_system_name=\"grpc\",rpc_method=\"p.S/M\",rpc_response_status_code=\"OK\"}} 1"),
            "tower_iroh_client_attempt_duration_seconds_count{transport=\"tcp\",rpc_system_name=\"grpc\",rpc_method=\"p.S/14\",rpc_response_status_code=\"UNAVAILABLE\",error_type=\"UNAVAILABLE\"} 1".to_owned(),
            "tower_iroh_client_attempt_errors_total{transport=\"tcp\",origin=\"peer\"} 1".to_owned(),
            "tower_iroh_client_call_errors_total{origin=\"peer\"} 0".to_owned(),
            "tower_iroh_client_calls_in_flight 0".to_owned(),
            "tower_iroh_client_attempts_in_flight{transport=\"tcp\"} 0".to_owned(),
            "tower_iroh_server_calls_in_flight 0".to_owned(),
            format!("# HELP rpc_client_call_duration{suffix} Duration of outgoing calls, to the end of the stream, with all retries."),
        ] {
            assert!(text.lines().any(|it| it == line), "{line}\nis not in\n{text}");
        }
        assert!(!text.contains("\ngrpc"), "reserved by gRPC");
    }
}

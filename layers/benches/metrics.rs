//! What metrics, traces and authorization cost per call over a service that does nothing, in one run.
//!
//! A Prometheus recorder is installed. Authorization is part of it where that feature is on.

use std::{
    convert::Infallible,
    future::{Future, Ready, ready},
    hint::black_box,
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use metrics_exporter_prometheus::PrometheusBuilder;
use tonic::body::Body;
use tower::{Layer, Service};
use tower_iroh_layers::{metrics::MetricsLayer, trace::TraceLayer};

/// Trailers that were made before.
struct Trailers(Option<HeaderMap>);

impl http_body::Body for Trailers {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.take().map(|trailers| Ok(Frame::trailers(trailers))))
    }
}

/// Answers at once; the request's headers are the response's trailers.
#[derive(Clone)]
struct Nothing;

impl Service<Request<Body>> for Nothing {
    type Response = Response<Trailers>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Trailers>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let trailers = std::mem::take(request.headers_mut());
        ready(Ok(Response::new(Trailers(Some(trailers)))))
    }
}

fn request() -> Request<Body> {
    let mut request = Request::new(Body::empty());
    *request.uri_mut() = http::Uri::from_static("/tower_iroh.echo.v1.Echo/Echo");
    request
        .headers_mut()
        .insert("grpc-status", "0".parse().expect("a value"));
    request
}

fn call<S, B>(service: &mut S, request: Request<Body>)
where
    S: Service<Request<Body>, Response = Response<B>>,
    S::Error: std::fmt::Debug,
    B: http_body::Body,
{
    let mut cx = Context::from_waker(Waker::noop());
    assert!(service.poll_ready(&mut cx).is_ready());
    let future = pin!(service.call(request));
    let Poll::Ready(response) = future.poll(&mut cx) else {
        panic!("a ready service");
    };
    let mut body = pin!(response.expect("a response").into_body());
    while let Poll::Ready(Some(frame)) = body.as_mut().poll_frame(&mut cx) {
        black_box(frame.is_ok());
    }
}

fn layers(criterion: &mut Criterion) {
    PrometheusBuilder::new()
        .set_buckets(&[0.001, 0.01, 0.1, 1.0, 10.0])
        .expect("buckets")
        .install_recorder()
        .expect("the only one");
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    let _entered = runtime.enter();
    let mut group = criterion.benchmark_group("per_call");
    macro_rules! bench {
        ($name:literal, $layer:expr) => {{
            let mut service = $layer.layer(Nothing);
            group.bench_function($name, |bencher| {
                bencher.iter_batched(
                    request,
                    |request| call(&mut service, request),
                    BatchSize::SmallInput,
                );
            });
        }};
    }
    bench!("bare", tower::layer::util::Identity::new());
    bench!(
        "verdict only",
        tower_iroh_layers::classify::ClassifyLayer::new(
            |outcome: &tower_iroh_layers::classify::Outcome| {
                black_box(outcome.code());
            }
        )
    );
    bench!("client metrics", MetricsLayer::client());
    bench!(
        "server metrics, a peer label",
        MetricsLayer::server().peer_from(|_| None).peer_label(100)
    );
    bench!("trace, nobody listens", TraceLayer::client());
    #[cfg(feature = "authorize")]
    for (name, limits) in [
        ("authorize", tower_iroh_layers::authorize::Limits::new()),
        (
            "authorize, rate and concurrent calls",
            tower_iroh_layers::authorize::Limits::new()
                .rate(1e9, u32::MAX)
                .concurrent(100),
        ),
    ] {
        use tower_iroh_layers::authorize::{AccessPolicy, AuthorizeLayer, Identity, PolicyHandle};
        let mut policy = AccessPolicy::builder()
            .role("caller", ["/tower_iroh.echo.v1.Echo/*"])
            .peer("the caller", ["caller"])
            .limits(limits);
        for peer in 0..1000 {
            policy = policy.peer(format!("peer {peer}"), ["caller"]);
        }
        let policy = policy.build().expect("a policy");
        let identity = Identity::from("the caller");
        let layer = AuthorizeLayer::new(PolicyHandle::new(policy), move |_: &http::Extensions| {
            Some(identity.clone())
        });
        let mut service = layer.layer(Nothing);
        group.bench_function(name, |bencher| {
            bencher.iter_batched(
                request,
                |request| call(&mut service, request),
                BatchSize::SmallInput,
            );
        });
    }
    group.bench_function("a look at the clock", |bencher| {
        bencher.iter(tokio::time::Instant::now);
    });
    bench!("bare again", tower::layer::util::Identity::new());
    group.finish();
}

criterion_group!(benches, layers);
criterion_main!(benches);

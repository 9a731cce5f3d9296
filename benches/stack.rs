//! `cargo bench --bench stack`: what the client's stack of layers costs per call, over a service that does nothing, in one run.
//!
//! A Prometheus recorder is installed and kept up, as in a program that records. The request is a generated client's: a message of 64 bytes that comes
//! in one frame; the answer is a message and trailers, read to its end.
#![allow(missing_docs, reason = "criterion's macros make public functions")]

use std::{
    convert::Infallible,
    future::{Future, ready},
    hint::black_box,
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use criterion::{Criterion, criterion_group, criterion_main};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::Full;
use tonic::body::Body;
use tower::{Layer, Service, layer::layer_fn};
use tower_iroh::{Stack, StackBuilder, layers::*};

#[derive(Clone, Copy)]
struct NoOp;

/// A message and trailers.
struct Answer(u8);

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0 += 1;
        Poll::Ready(match self.0 {
            1 => Some(Ok(Frame::data(Bytes::from_static(b"\0\0\0\0\0")))),
            2 => {
                let mut trailers = HeaderMap::with_capacity(1);
                trailers.insert("grpc-status", HeaderValue::from_static("0"));
                Some(Ok(Frame::trailers(trailers)))
            }
            _ => None,
        })
    }

    fn is_end_stream(&self) -> bool {
        self.0 > 1
    }
}

impl Service<Request<Body>> for NoOp {
    type Response = Response<Answer>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Response<Answer>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        black_box(request);
        ready(Ok(Response::new(Answer(0))))
    }
}

fn request() -> Request<Body> {
    static MESSAGE: [u8; 69] = {
        let mut message = [0; 69];
        message[4] = 64;
        message
    };
    let mut request = Request::new(Body::new(Full::new(Bytes::from_static(&MESSAGE))));
    *request.method_mut() = http::Method::POST;
    *request.uri_mut() = http::Uri::from_static("http://peer/tower_iroh.echo.v1.Echo/Echo");
    let headers = request.headers_mut();
    headers.insert("te", HeaderValue::from_static("trailers"));
    headers.insert("content-type", HeaderValue::from_static("application/grpc"));
    let method = tonic::GrpcMethod::new("tower_iroh.echo.v1.Echo", "Echo");
    request.extensions_mut().insert(method);
    request
}

/// One call from its request to the end of its answer.
fn call<S, R>(service: &mut S)
where
    S: Service<Request<Body>, Response = Response<R>>,
    S::Error: std::fmt::Debug,
    R: http_body::Body,
    R::Error: std::fmt::Debug,
{
    let mut cx = Context::from_waker(Waker::noop());
    let Poll::Ready(Ok(())) = service.poll_ready(&mut cx) else {
        panic!("it is ready");
    };
    let mut future = pin!(service.call(request()));
    let Poll::Ready(Ok(response)) = future.as_mut().poll(&mut cx) else {
        panic!("it answers at once");
    };
    let mut body = pin!(response.into_body());
    while let Poll::Ready(Some(frame)) = body.as_mut().poll_frame(&mut cx) {
        black_box(frame.is_ok());
    }
}

fn stack(c: &mut Criterion) {
    let recorder = metrics_exporter_prometheus::PrometheusBuilder::new();
    let recorder = recorder.install_recorder().expect("the only one");
    // As in a program: without it every sample takes memory that was never used before.
    std::thread::spawn(move || {
        loop {
            recorder.run_upkeep();
            std::thread::park_timeout(Duration::from_millis(50));
        }
    });
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let _context = runtime.enter();
    let mut group = c.benchmark_group("stack");

    let mut bare = NoOp;
    group.bench_function("no layer", |b| b.iter(|| call(&mut bare)));

    let built = |settings: fn(StackBuilder) -> StackBuilder| {
        let stack = settings(Stack::builder()).build().expect("valid");
        stack.layer(NoOp)
    };
    for (name, settings) in [
        (
            "as it comes",
            (|stack| stack) as fn(StackBuilder) -> StackBuilder,
        ),
        ("with a deadline", |stack| {
            stack.timeout(Duration::from_secs(5))
        }),
        // As over the arms of a `Channel`.
        (
            "as it comes, what never left returns",
            StackBuilder::returned,
        ),
        ("with a deadline, what never left returns", |stack| {
            stack.returned().timeout(Duration::from_secs(5))
        }),
        ("with a deadline, without metrics", |stack| {
            let stack = stack.returned().without_metrics();
            stack.timeout(Duration::from_secs(5))
        }),
        ("all left out", StackBuilder::without_layers),
    ] {
        let mut stacked = built(settings);
        group.bench_function(name, |b| b.iter(|| call(&mut stacked)));
    }

    // The floor of what records: a call and its attempt, each a gauge up and down and a sample, and the urgency's counter.
    let gauges =
        ["calls", "attempts"].map(|name| ::metrics::gauge!("bench_in_flight", "of" => name));
    let samples =
        ["calls", "attempts"].map(|name| ::metrics::histogram!("bench_took", "of" => name));
    let counter = ::metrics::counter!("bench_calls");
    group.bench_function("the recorder's own part", |b| {
        b.iter(|| {
            gauges.iter().for_each(|gauge| gauge.increment(1.0));
            counter.increment(1);
            samples.iter().for_each(|sample| sample.record(1e-3));
            gauges.iter().for_each(|gauge| gauge.decrement(1.0));
        })
    });

    macro_rules! alone {
        ($name:literal, $layer:expr) => {{
            let mut service = $layer.layer(NoOp);
            group.bench_function(concat!($name, " alone"), |b| b.iter(|| call(&mut service)));
        }};
    }
    alone!(
        "classify",
        classify::ClassifyLayer::new(|outcome: &classify::Outcome| {
            black_box(outcome.code());
        })
    );
    alone!("metrics", metrics::MetricsLayer::client());
    alone!("trace", trace::TraceLayer::client());
    alone!("deadline", deadline::DeadlineLayer::new());
    alone!("priority", priority::PriorityLayer::default());
    alone!("retry", retry::RetryLayer::default());
    alone!(
        "buffer, passing by",
        buffer::BufferLayer::new(buffer::BufferConfig::default())
    );
    alone!(
        "fail fast",
        fail_fast::FailFastLayer::new(fail_fast::FailFastConfig::default())
    );
    alone!(
        "breaker",
        breaker::BreakerLayer::new(breaker::Circuit::new(breaker::BreakerConfig::default()))
    );
    alone!("nothing", layer_fn(|inner: NoOp| inner));
}

criterion_group! {
    name = benches;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(2));
    targets = stack
}
criterion_main!(benches);

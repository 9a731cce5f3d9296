//! Metrics of a method that is known allocate nothing. A binary of its own: its allocator counts.

use std::{
    convert::Infallible,
    future::{Future, ready},
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use metrics::{
    Counter, Gauge, GaugeFn, Histogram, HistogramFn, Key, KeyName, Metadata, Recorder,
    SharedString, Unit,
};
use tower::{Layer as _, Service, service_fn};
use tower_iroh_layers::{metrics::MetricsLayer, trace::TraceLayer};

/// Counts what is recorded; a real one allocates when it likes.
#[derive(Debug, Default)]
struct Count(AtomicU64);

impl HistogramFn for Count {
    fn record(&self, _: f64) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}

impl GaugeFn for Count {
    fn increment(&self, _: f64) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
    fn decrement(&self, _: f64) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
    fn set(&self, _: f64) {}
}

#[derive(Default)]
struct Counts(Arc<Count>);

impl Recorder for Counts {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
        Counter::noop()
    }
    fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
        Gauge::from_arc(self.0.clone())
    }
    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::from_arc(self.0.clone())
    }
}

/// Trailers that were made before.
struct Trailers(Option<HeaderMap>);

impl http_body::Body for Trailers {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: std::pin::Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        Poll::Ready(self.0.take().map(|trailers| Ok(Frame::trailers(trailers))))
    }
}

/// One call over a service that is always ready; what is dropped outside of the count is what the caller brought.
fn call<S, B>(service: &mut S, request: Request<()>)
where
    S: Service<Request<()>, Response = Response<B>>,
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
    while let Poll::Ready(Some(_)) = body.as_mut().poll_frame(&mut cx) {}
}

fn answering() -> impl Service<Request<()>, Response = Response<Trailers>, Error = Infallible> {
    service_fn(|mut request: Request<()>| {
        // The headers of the request are the trailers of the response, so that making them is not counted.
        let trailers = std::mem::take(request.headers_mut());
        ready(Ok(Response::new(Trailers(Some(trailers)))))
    })
}

fn request() -> Request<()> {
    let mut request = Request::new(());
    *request.uri_mut() = http::Uri::from_static("/tower_iroh.echo.v1.Echo/Echo");
    request
        .headers_mut()
        .insert("grpc-status", "0".parse().expect("a value"));
    request
}

#[test]
fn a_known_method_allocates_nothing() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    let _entered = runtime.enter();
    let recorder = Counts::default();
    let _guard = metrics::set_default_local_recorder(&recorder);
    for layer in [
        MetricsLayer::client(),
        MetricsLayer::attempt("tcp"),
        MetricsLayer::server(),
    ] {
        let mut service = layer.layer(answering());
        call(&mut service, request());
        let before = recorder.0.0.load(Ordering::Relaxed);
        let requests: Vec<_> = (0..100).map(|_| request()).collect();
        let allocated = allocation_counter::measure(|| {
            for request in requests {
                call(&mut service, request);
            }
        });
        assert_eq!(allocated.count_total, 0, "{layer:?}");
        assert_eq!(recorder.0.0.load(Ordering::Relaxed) - before, 300);
    }
}

#[test]
fn a_trace_that_nobody_listens_to_allocates_nothing() {
    for layer in [TraceLayer::client(), TraceLayer::server()] {
        let mut service = layer.layer(answering());
        call(&mut service, request());
        let requests: Vec<_> = (0..100).map(|_| request()).collect();
        let allocated = allocation_counter::measure(|| {
            for request in requests {
                call(&mut service, request);
            }
        });
        assert_eq!(allocated.count_total, 0, "{layer:?}");
    }
}

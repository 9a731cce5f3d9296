//! What deadline and retry cost a unary call that succeeds, over a service that only reads the request's body.

use std::{
    convert::Infallible,
    future::Future,
    hint::black_box,
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use criterion::{Criterion, criterion_group, criterion_main};
use http::{Request, Response, header::HeaderValue, request};
use http_body::Body as _;
use http_body_util::Full;
use tonic::body::Body;
use tower::{Layer, Service};
use tower_iroh_layers::{deadline::DeadlineLayer, retry::RetryLayer};

/// Reads the body to its end, as a transport does.
#[derive(Clone)]
struct NoOp;

struct Reads(Body);

impl Future for Reads {
    type Output = Result<Response<Body>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        while let Some(frame) = std::task::ready!(Pin::new(&mut self.0).poll_frame(cx)) {
            let _ = black_box(frame);
        }
        Poll::Ready(Ok(Response::new(Body::empty())))
    }
}

impl Service<Request<Body>> for NoOp {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Reads;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Reads {
        Reads(request.into_body())
    }
}

/// A request's head as a generated client makes it.
fn head(timeout: Option<&'static str>) -> request::Parts {
    let (mut head, ()) = Request::new(()).into_parts();
    head.uri = http::Uri::from_static("http://peer/a.B/C");
    let mut set = |name, value| head.headers.insert(name, HeaderValue::from_static(value));
    set("te", "trailers");
    set("content-type", "application/grpc");
    set("user-agent", "tonic/0.14");
    if let Some(timeout) = timeout {
        set("grpc-timeout", timeout);
    }
    head
}

/// One call, which is over at the first poll.
fn call<S: Service<Request<Body>>>(service: &mut S, head: &request::Parts) {
    let mut cx = Context::from_waker(Waker::noop());
    let message = Full::new(Bytes::from_static(&[0; 69]));
    let request = Request::from_parts(head.clone(), Body::new(message));
    assert!(service.poll_ready(&mut cx).is_ready());
    let mut call = pin!(service.call(black_box(request)));
    assert!(black_box(call.as_mut().poll(&mut cx)).is_ready());
}

fn bench(c: &mut Criterion) {
    let mut group = c.benchmark_group("call");
    group
        .warm_up_time(Duration::from_millis(500))
        .measurement_time(Duration::from_secs(2));
    macro_rules! measure {
        ($name:literal, $service:expr, $timeout:expr) => {
            group.bench_function($name, |b| {
                let mut service = $service;
                let head = head($timeout);
                b.iter(|| call(&mut service, &head))
            });
        };
    }
    let deadline = DeadlineLayer::new();
    let retry = RetryLayer::default();
    measure!("bare", NoOp, None);
    measure!("bare, with grpc-timeout", NoOp, Some("10S"));
    measure!("deadline, none", deadline.layer(NoOp), None);
    measure!("deadline", deadline.layer(NoOp), Some("10S"));
    measure!("retry", retry.layer(NoOp), None);
    let both = deadline.layer(retry.layer(NoOp));
    measure!("deadline and retry", both.clone(), Some("10S"));
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);

//! How often a unary call allocates in the client's layers, over a service that does nothing. A binary of its own: its allocator counts.

use std::{
    convert::Infallible,
    future::{Future, Ready, ready},
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::{Body as _, Frame};
use http_body_util::Full;
use tonic::body::Body;
use tower::{Layer, Service};
use tower_iroh::{Stack, StackBuilder};

/// A message, and the trailers that it was made with.
struct Answer(Option<Bytes>, Option<HeaderMap>);

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let message = self.0.take().map(Frame::data);
        let frame = message.or_else(|| self.1.take().map(Frame::trailers));
        Poll::Ready(frame.map(Ok))
    }

    fn is_end_stream(&self) -> bool {
        self.1.is_none()
    }
}

/// Reads a request's body and answers with its headers as trailers, so that the answer allocates nothing.
#[derive(Clone)]
struct Echo;

impl Service<Request<Body>> for Echo {
    type Response = Response<Answer>;
    type Error = Infallible;
    type Future = Ready<Result<Response<Answer>, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (head, mut body) = request.into_parts();
        let mut cx = Context::from_waker(Waker::noop());
        while let Poll::Ready(Some(frame)) = Pin::new(&mut body).poll_frame(&mut cx) {
            assert!(frame.is_ok());
        }
        let message = Bytes::from_static(b"\0\0\0\0\0");
        ready(Ok(Response::new(Answer(Some(message), Some(head.headers)))))
    }
}

/// The same, after one poll in vain.
#[derive(Clone)]
struct Later;

/// What it answers, and whether that was asked for before.
struct Answering(<Echo as Service<Request<Body>>>::Future, bool);

impl Future for Answering {
    type Output = Result<Response<Answer>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        match std::mem::replace(&mut self.1, true) {
            false => Poll::Pending,
            true => Pin::new(&mut self.0).poll(cx),
        }
    }
}

impl Service<Request<Body>> for Later {
    type Response = Response<Answer>;
    type Error = Infallible;
    type Future = Answering;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Answering {
        Answering(Echo.call(request), false)
    }
}

/// A generated client's request, with the answer's status among its headers and room for those of the layers.
fn request() -> Request<Body> {
    static MESSAGE: [u8; 69] = {
        let mut message = [0; 69];
        message[4] = 64;
        message
    };
    let mut request = Request::new(Body::new(Full::new(Bytes::from_static(&MESSAGE))));
    *request.method_mut() = http::Method::POST;
    *request.uri_mut() = http::Uri::from_static("http://peer/tower_iroh.echo.v1.Echo/Echo");
    *request.headers_mut() = HeaderMap::with_capacity(8);
    let headers = request.headers_mut();
    headers.insert("te", HeaderValue::from_static("trailers"));
    headers.insert("content-type", HeaderValue::from_static("application/grpc"));
    headers.insert("grpc-status", HeaderValue::from_static("0"));
    let method = tonic::GrpcMethod::new("tower_iroh.echo.v1.Echo", "Echo");
    request.extensions_mut().insert(method);
    request
}

/// One call to the end of its answer.
fn call<S, R>(service: &mut S, request: Request<Body>)
where
    S: Service<Request<Body>, Response = Response<R>>,
    S::Error: std::fmt::Debug,
    R: http_body::Body,
{
    let mut cx = Context::from_waker(Waker::noop());
    assert!(service.poll_ready(&mut cx).is_ready());
    let mut future = pin!(service.call(request));
    let response = loop {
        if let Poll::Ready(response) = future.as_mut().poll(&mut cx) {
            break response.expect("an answer");
        }
    };
    let mut body = pin!(response.into_body());
    while let Poll::Ready(Some(frame)) = body.as_mut().poll_frame(&mut cx) {
        assert!(frame.is_ok());
    }
}

type Settings = fn(StackBuilder) -> StackBuilder;

/// Allocations of one call.
fn allocations<S, R>(mut service: S) -> f64
where
    S: Service<Request<Body>, Response = Response<R>>,
    S::Error: std::fmt::Debug,
    R: http_body::Body,
{
    const CALLS: u32 = 100;
    call(&mut service, request());
    let requests: Vec<_> = (0..CALLS).map(|_| request()).collect();
    let counted = allocation_counter::measure(|| {
        for request in requests {
            call(&mut service, request);
        }
    });
    counted.count_total as f64 / f64::from(CALLS)
}

#[test]
fn a_unary_call_allocates_no_more_than_this() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    let _entered = runtime.enter();
    assert_eq!(allocations(Echo), 0.0, "the service allocates nothing");
    fn timed(stack: StackBuilder) -> StackBuilder {
        stack.timeout(Duration::from_secs(5))
    }
    // A channel's transports return a call that never left, which this service would if it failed.
    let cases: [(&str, Settings, f64); 6] = [
        ("as it comes", |stack| stack.returned(), 2.0),
        ("with a deadline", |stack| timed(stack.returned()), 4.0),
        ("all left out", StackBuilder::without_layers, 0.0),
        (
            "left out, with a deadline",
            |stack| timed(stack.without_layers()),
            2.0,
        ),
        ("over a service that returns nothing", |stack| stack, 11.0),
        ("the same with a deadline", |stack| timed(stack), 16.0),
    ];
    for (name, settings, most) in cases {
        let stack = settings(Stack::builder()).build().expect("valid");
        let counted = allocations(stack.layer(Echo));
        assert!(counted <= most, "{name}: {counted} allocations");
        // A deadline's timer, where there is one and something to wait for.
        let timer = f64::from(u8::from(name.contains("deadline")));
        let counted = allocations(stack.layer(Later));
        assert!(
            counted <= most + timer,
            "{name}, later: {counted} allocations"
        );
    }
}

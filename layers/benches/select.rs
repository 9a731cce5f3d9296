//! What the choice of an arm costs a unary call that succeeds: the same call over the bare arm and by each kind of policy, in one run.
//!
//! `sent` is what it takes to hand the call over and to measure it. Choices that may fall back keep the request as well, until its answer begins: the head's copy, and a
//! box for the body. `kept` is that alone, the way that the layer does it, over the bare arm. `in a stack` compares a retry over the bare arm with one over the selection, where what
//! never left comes back and nothing is kept, and all look at one clock.

#![allow(missing_docs, reason = "criterion's macros make public items")]

use std::{
    cell::Cell,
    convert::Infallible,
    future::Future,
    hint::black_box,
    mem,
    pin::{Pin, pin},
    task::{Context, Poll, Waker},
    time::Instant,
};

use bytes::Bytes;
use criterion::{Criterion, criterion_group, criterion_main};
use http::{HeaderMap, Request, Response, header::HeaderValue, request};
use http_body::{Body as _, Frame};
use http_body_util::Full;
use tonic::body::Body;
use tower::{Layer, Service};
use tower_iroh_layers::{
    BoxError, Deadline, MethodConfig, Methods,
    clock::{self, FrozenBody},
    retry::RetryLayer,
    select::{Adaptive, Arm, Canary, Choice, Select, SelectHandle, SelectPolicy, StickyKey},
};

thread_local! {
    /// Where the trailers are between two calls, so that none has to make them.
    static TRAILERS: Cell<Option<HeaderMap>> = Cell::new(Some(trailers()));
}

fn trailers() -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", 0.into());
    trailers
}

/// A message, and trailers.
struct Answer(Option<Bytes>, bool);

impl http_body::Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(message) = self.0.take() {
            return Poll::Ready(Some(Ok(Frame::data(message))));
        }
        let trailers = mem::take(&mut self.1).then(|| TRAILERS.take()).flatten();
        Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_none() && !self.1
    }
}

/// Reads the body to its end, as a transport does.
#[derive(Clone)]
struct Reads;

struct Reading(Body);

impl Future for Reading {
    type Output = Result<Response<Answer>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        while let Some(frame) = std::task::ready!(Pin::new(&mut self.0).poll_frame(cx)) {
            let _ = black_box(frame);
        }
        let message = Bytes::from_static(b"\0\0\0\0\0");
        Poll::Ready(Ok(Response::new(Answer(Some(message), true))))
    }
}

impl Service<Request<Body>> for Reads {
    type Response = Response<Answer>;
    type Error = Infallible;
    type Future = Reading;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Reading {
        Reading(request.into_body())
    }
}

/// A request's head as a generated client and the layers above make it.
fn head() -> request::Parts {
    let (mut head, ()) = Request::new(()).into_parts();
    head.uri = http::Uri::from_static("http://peer/a.B/C");
    let mut set = |name, value| head.headers.insert(name, HeaderValue::from_static(value));
    set("te", "trailers");
    set("content-type", "application/grpc");
    set("user-agent", "tonic/0.14");
    set("grpc-timeout", "10S");
    head.extensions
        .insert(Deadline::after(std::time::Duration::from_secs(10)));
    head.extensions.insert(StickyKey::new("tenant-17"));
    head
}

/// One call to the end of its body.
fn call<S, R>(service: &mut S, head: &request::Parts)
where
    S: Service<Request<Body>, Response = Response<R>>,
    S::Error: Into<BoxError>,
    R: http_body::Body<Data = Bytes>,
{
    let mut cx = Context::from_waker(Waker::noop());
    let message = Full::new(Bytes::from_static(&[0; 69]));
    let request = Request::from_parts(head.clone(), Body::new(message));
    assert!(service.poll_ready(&mut cx).is_ready());
    let mut future = pin!(service.call(black_box(request)));
    let Poll::Ready(Ok(response)) = future.as_mut().poll(&mut cx) else {
        panic!("it answers at once");
    };
    let mut body = pin!(response.into_body());
    while let Poll::Ready(Some(Ok(frame))) = body.as_mut().poll_frame(&mut cx) {
        match frame.into_data() {
            Ok(data) => drop(black_box(data)),
            Err(frame) => TRAILERS.set(frame.into_trailers().ok()),
        }
    }
}

/// The bare arm behind a copy of the request's head and a new box for its body: what any layer pays that may send a request again.
#[derive(Clone)]
struct Keeps(Reads);

impl Service<Request<Body>> for Keeps {
    type Response = Response<Answer>;
    type Error = Infallible;
    type Future = KeptReading;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> KeptReading {
        let (head, body) = request.into_parts();
        let mut peeked =
            tower_iroh_layers::peek::Peeked::new(body, &mut Context::from_waker(Waker::noop()));
        let message = peeked.take_single().unwrap_or_default();
        let again = Body::new(Full::new(message.clone()));
        let first = Request::from_parts(head.clone(), again);
        KeptReading(self.0.call(first), Some(Box::new((head, message))))
    }
}

struct KeptReading(Reading, Option<Box<(request::Parts, Bytes)>>);

impl Future for KeptReading {
    type Output = Result<Response<Answer>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let answer = Pin::new(&mut self.0).poll(cx);
        if answer.is_ready() {
            drop(black_box(self.1.take()));
        }
        answer
    }
}

/// Freezes the clock for each poll, as the stack does.
struct Frozen<S>(S);

impl<S, R> Service<Request<Body>> for Frozen<S>
where
    S: Service<Request<Body>, Response = Response<R>>,
{
    type Response = Response<FrozenBody<R>>;
    type Error = S::Error;
    type Future = FrozenFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        clock::frozen(|| FrozenFuture {
            inner: self.0.call(request),
        })
    }
}

pin_project_lite::pin_project! {
    struct FrozenFuture<F> { #[pin] inner: F }
}

impl<F, R, E> Future for FrozenFuture<F>
where
    F: Future<Output = Result<Response<R>, E>>,
{
    type Output = Result<Response<FrozenBody<R>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let result = clock::frozen(|| self.project().inner.poll(cx));
        result.map_ok(|response| response.map(FrozenBody::new))
    }
}

fn select(choice: Choice) -> Select<Reads, Reads> {
    let fixed = MethodConfig::new().transport(Choice::Fixed(Arm::Second));
    let methods = Methods::builder().method("x.Y", fixed).build();
    let policy = SelectPolicy::builder(choice)
        .methods(&methods.expect("accepted"))
        .build()
        .expect("accepted");
    Select::new(Reads, Reads, SelectHandle::new(policy))
}

fn canary(share: u32) -> Choice {
    let canary = Canary::builder("bench", Arm::First).share(share);
    Choice::Canary(canary.build().expect("accepted"))
}

/// What a service adds to the bare call, from short slices in turn: a machine's other work then hits both alike.
fn paired<B, P, S, R>(name: &str, mut bare: B, mut service: S, head: &request::Parts)
where
    B: Service<Request<Body>, Response = Response<P>>,
    B::Error: Into<BoxError>,
    P: http_body::Body<Data = Bytes>,
    S: Service<Request<Body>, Response = Response<R>>,
    S::Error: Into<BoxError>,
    R: http_body::Body<Data = Bytes>,
{
    const CALLS: u32 = 1000;
    let slice = |f: &mut dyn FnMut()| {
        let start = Instant::now();
        (0..CALLS).for_each(|_| f());
        start.elapsed().as_nanos() as f64 / f64::from(CALLS)
    };
    let mut slices: Vec<[f64; 2]> = (0..400)
        .map(|_| {
            [
                slice(&mut || call(black_box(&mut bare), head)),
                slice(&mut || call(black_box(&mut service), head)),
            ]
        })
        .collect();
    let least = |n: usize| slices.iter().map(|s| s[n]).fold(f64::MAX, f64::min);
    let (bare, with) = (least(0), least(1));
    slices.sort_by(|a, b| (a[1] - a[0]).total_cmp(&(b[1] - b[0])));
    let [low, median, high] = [1, 2, 3].map(|n| {
        let slice = slices[slices.len() * n / 4];
        slice[1] - slice[0]
    });
    println!(
        "paired slices: {name} adds {median:.0} ns ({low:.0} to {high:.0}); at best {bare:.0} and {with:.0} ns"
    );
}

fn bench(criterion: &mut Criterion) {
    let head = &head();
    let cases = [
        ("fixed (sent)", Choice::Fixed(Arm::First)),
        ("canary, out (sent)", canary(0)),
        ("prefer (sent and kept)", Choice::Prefer(Arm::First)),
        ("canary, in (sent and kept)", canary(10_000)),
        (
            "adaptive (sent and kept)",
            Choice::Adaptive(Adaptive::default()),
        ),
    ];
    // A profiler wants the one case that it asked for.
    if !std::env::args().any(|argument| argument == "--profile-time") {
        paired("nothing", Reads, Reads, head);
        paired("kept", Reads, Keeps(Reads), head);
        for (name, choice) in &cases {
            paired(name, Reads, select(choice.clone()), head);
        }
        for (name, choice) in &cases {
            let name = format!("in a stack, {}", name.split(" (").next().unwrap_or(name));
            let retry = RetryLayer::default().returned();
            let service = retry.layer(select(choice.clone()).returned());
            paired(&name, Frozen(retry.layer(Reads)), Frozen(service), head);
        }
    }
    let mut group = criterion.benchmark_group("call");
    group.bench_function("bare", |bencher| {
        let mut bare = Reads;
        bencher.iter(|| call(black_box(&mut bare), head));
    });
    for (name, choice) in cases {
        group.bench_function(name, |bencher| {
            let mut service = select(choice.clone());
            bencher.iter(|| call(black_box(&mut service), head));
        });
    }
    group.finish();
}

criterion_group!(benches, bench);
criterion_main!(benches);

//! What the breaker costs while its circuit is closed and the calls succeed: the same call with and without it, in one run.

#![allow(missing_docs, reason = "criterion's macros make public items")]

use std::{
    cell::Cell,
    convert::Infallible,
    future::Future,
    hint::black_box,
    pin::{Pin, pin},
    rc::Rc,
    task::{Context, Poll, Waker},
    time::Instant,
};

use bytes::Bytes;
use criterion::{Criterion, criterion_group, criterion_main};
use http::{HeaderMap, Request, Response};
use http_body::{Body, Frame};
use tower::Service;
use tower_iroh_layers::breaker::{Breaker, Circuit};

/// Where the trailers are between two calls, so that no call allocates.
type Trailers = Rc<Cell<Option<HeaderMap>>>;

/// A message, and trailers.
struct Answer {
    message: Option<Bytes>,
    trailers: Option<Trailers>,
}

impl Body for Answer {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if let Some(message) = self.message.take() {
            return Poll::Ready(Some(Ok(Frame::data(message))));
        }
        let trailers = self.trailers.take().and_then(|trailers| trailers.take());
        Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))))
    }

    fn is_end_stream(&self) -> bool {
        self.message.is_none() && self.trailers.is_none()
    }
}

#[derive(Clone)]
struct NoOp(Trailers);

/// Its response is made when it is polled, as that of a transport.
struct Answering(Option<Trailers>);

impl Future for Answering {
    type Output = Result<Response<Answer>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Self::Output> {
        Poll::Ready(Ok(Response::new(Answer {
            message: Some(Bytes::from_static(b"\0\0\0\0\0")),
            trailers: self.0.take(),
        })))
    }
}

impl Service<Request<()>> for NoOp {
    type Response = Response<Answer>;
    type Error = Infallible;
    type Future = Answering;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<()>) -> Self::Future {
        Answering(Some(self.0.clone()))
    }
}

/// One call to the end of its body; puts the trailers back.
fn call<S, R>(service: &mut S, trailers: &Trailers)
where
    S: Service<Request<()>, Response = Response<R>>,
    R: Body<Data = Bytes>,
{
    let mut cx = Context::from_waker(Waker::noop());
    assert!(service.poll_ready(&mut cx).is_ready());
    let mut future = pin!(service.call(Request::new(())));
    let Poll::Ready(Ok(response)) = future.as_mut().poll(&mut cx) else {
        panic!("it answers at once");
    };
    let mut body = pin!(response.into_body());
    while let Poll::Ready(Some(Ok(frame))) = body.as_mut().poll_frame(&mut cx) {
        match frame.into_data() {
            Ok(data) => drop(black_box(data)),
            Err(frame) => trailers.set(frame.into_trailers().ok()),
        }
    }
}

/// What the breaker adds to a call, from short slices in turn: a machine's other work then hits both alike.
fn paired(bare: &mut NoOp, breaker: &mut Breaker<NoOp>, trailers: &Trailers) {
    const CALLS: u32 = 2000;
    let slice = |f: &mut dyn FnMut()| {
        let start = Instant::now();
        f();
        start.elapsed().as_nanos() as f64 / f64::from(CALLS)
    };
    let mut slices: Vec<[f64; 2]> = (0..500)
        .map(|_| {
            [
                slice(&mut || (0..CALLS).for_each(|_| call(black_box(bare), trailers))),
                slice(&mut || (0..CALLS).for_each(|_| call(black_box(breaker), trailers))),
            ]
        })
        .collect();
    let least = |n: usize| slices.iter().map(|s| s[n]).fold(f64::MAX, f64::min);
    let (bare, breaker) = (least(0), least(1));
    slices.sort_by(|a, b| (a[1] - a[0]).total_cmp(&(b[1] - b[0])));
    let [low, median, high] = [1, 2, 3].map(|n| {
        let slice = slices[slices.len() * n / 4];
        slice[1] - slice[0]
    });
    println!(
        "paired slices: the breaker adds {median:.0} ns ({low:.0} to {high:.0}); at best {bare:.0} and {breaker:.0} ns"
    );
}

fn calls(criterion: &mut Criterion) {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", 0.into());
    let trailers = Rc::new(Cell::new(Some(trailers)));
    let mut group = criterion.benchmark_group("call");

    let circuit = Circuit::new(Default::default());
    let mut bare = NoOp(trailers.clone());
    let mut breaker = Breaker::new(bare.clone(), circuit.clone());
    paired(&mut bare, &mut breaker, &trailers);
    group.bench_function("bare", |bencher| {
        bencher.iter(|| call(black_box(&mut bare), &trailers));
    });

    group.bench_function("breaker", |bencher| {
        bencher.iter(|| call(black_box(&mut breaker), &trailers));
    });
    group.finish();
    assert!(circuit.state().is_closed() && circuit.statistics().calls > 0);
}

criterion_group!(benches, calls);
criterion_main!(benches);

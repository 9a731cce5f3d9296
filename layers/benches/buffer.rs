//! What the buffer, the priority layer and the batching service cost over a service that does nothing.
//!
//! `cargo bench -p tower-iroh-layers --features buffer,priority,batch --bench buffer`

#![allow(missing_docs, reason = "criterion's macros make public items")]

use std::{
    future::{Future, Ready, poll_fn, ready},
    hint::black_box,
    pin::{Pin, pin},
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
    time::{Duration, Instant},
};

use bytes::Bytes;
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use http::{Request, Response};
use http_body_util::Full;
use tokio::runtime::Runtime;
use tonic::body::Body;
use tower::{Layer, Service, ServiceExt};
use tower_iroh_layers::{
    BoxError, Urgency,
    batch::{BatchConfig, BatchLayer},
    buffer::{Buffer, BufferConfig, WaitForReady},
    priority::PriorityLayer,
};

type Answer = Result<Response<Body>, BoxError>;

/// Answers at once, as often as it is let.
#[derive(Clone, Default)]
struct Nothing(Option<Arc<Mutex<Gate>>>);

#[derive(Default)]
struct Gate {
    open_for: usize,
    waiting: Option<Waker>,
}

impl Service<Request<Body>> for Nothing {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Ready<Answer>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        let Some(gate) = &self.0 else {
            return Poll::Ready(Ok(()));
        };
        let mut gate = gate.lock().expect("lock");
        if gate.open_for > 0 {
            return Poll::Ready(Ok(()));
        }
        gate.waiting = Some(cx.waker().clone());
        Poll::Pending
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        if let Some(gate) = &self.0 {
            gate.lock().expect("lock").open_for -= 1;
        }
        black_box(request);
        ready(Ok(Response::new(Body::empty())))
    }
}

impl Nothing {
    fn shut() -> Self {
        Self(Some(Arc::default()))
    }

    fn open_for(&self, calls: usize) {
        let mut gate = self.0.as_ref().expect("a gate").lock().expect("lock");
        gate.open_for = calls;
        if let Some(waker) = gate.waiting.take() {
            waker.wake();
        }
    }
}

/// A unary request as a generated client makes it.
fn request() -> Request<Body> {
    let message = Bytes::from_static(b"\0\0\0\0\x05hello");
    let mut request = Request::post("/test.Store/Put")
        .header("te", "trailers")
        .header("content-type", "application/grpc")
        .body(Body::new(Full::new(message)))
        .expect("a request");
    request.extensions_mut().insert(WaitForReady);
    request
}

/// Makes a call that needs no runtime.
fn once<S: Service<Request<Body>>>(service: &mut S, request: Request<Body>) -> bool {
    let cx = &mut Context::from_waker(Waker::noop());
    assert!(service.poll_ready(cx).is_ready());
    pin!(service.call(request)).poll(cx).is_ready()
}

fn passing(c: &mut Criterion) {
    let mut group = c.benchmark_group("over nothing");
    let mut run = |name: &str, service: &mut dyn FnMut(Request<Body>) -> bool| {
        group.bench_function(name, |b| {
            b.iter_batched(request, &mut *service, BatchSize::SmallInput);
        });
    };
    let mut bare = Nothing::default();
    run("bare", &mut |request| once(&mut bare, request));
    let mut buffer = Buffer::new(BufferConfig::default(), Nothing::default());
    run("buffer, passes by", &mut |mut request| {
        request.extensions_mut().remove::<WaitForReady>();
        once(&mut buffer, request)
    });
    run("buffer, served, straight through", &mut |request| {
        once(&mut buffer, request)
    });
    let mut priority = PriorityLayer::default().layer(Nothing::default());
    run("priority, by size", &mut |request| {
        once(&mut priority, request)
    });
    run("priority, asked for", &mut |mut request| {
        request.extensions_mut().insert(Urgency::INTERACTIVE);
        once(&mut priority, request)
    });
    group.finish();
}

type Others = Vec<Pin<Box<dyn Future<Output = Answer>>>>;

/// A buffer in which `depth` calls of several urgencies stand all the time.
fn standing(runtime: &Runtime, depth: u32) -> (Buffer<Nothing>, Nothing, Others) {
    let peer = Nothing::shut();
    let config = BufferConfig::builder().max_calls(20_000).build();
    let buffer = Buffer::new(config.expect("a configuration"), peer.clone());
    let mut others: Others = Vec::new();
    for n in 0..depth {
        let mut request = request();
        let urgency = Urgency::new(2 + (n % 5) as u8).expect("in range");
        request.extensions_mut().insert(urgency);
        others.push(Box::pin(buffer.clone().oneshot(request)));
    }
    runtime.block_on(poll_fn(|cx| {
        for call in &mut others {
            assert!(call.as_mut().poll(cx).is_pending());
        }
        Poll::Ready(())
    }));
    assert_eq!(buffer.handle().stats().waiting, depth as usize);
    (buffer, peer, others)
}

/// What 10,000 who wait cost a call, as a ratio to 10: in short slices by turns, so that the machine's moods cancel out.
fn depth(_: &mut Criterion) {
    let runtime = runtime();
    let _inside = runtime.enter();
    let (few, _peer, _others) = standing(&runtime, 10);
    let (many, _peer, _others) = standing(&runtime, 10_000);
    let slice = |mut service: Buffer<Nothing>| {
        let start = Instant::now();
        for _ in 0..1_000 {
            assert!(!once(&mut service, request()));
        }
        start.elapsed().as_secs_f64()
    };
    let mut ratios: Vec<f64> = (0..200)
        .map(|_| {
            let few = slice(few.clone());
            slice(many.clone()) / few
        })
        .collect();
    ratios.sort_by(f64::total_cmp);
    let at = |share: f64| ratios[(share * (ratios.len() - 1) as f64) as usize];
    println!(
        "enqueue and cancel, 10,000 wait against 10: x {:.2}, quartiles {:.2} to {:.2}",
        at(0.5),
        at(0.25),
        at(0.75)
    );
}

fn runtime() -> Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .build()
        .expect("a runtime")
}

fn waiting(c: &mut Criterion) {
    let runtime = runtime();
    let mut group = c.benchmark_group("calls that wait");
    for depth in [10u32, 100, 1_000, 10_000] {
        let (buffer, peer, others) = standing(&runtime, depth);
        group.bench_function(format!("enqueue and cancel, {depth} wait"), |b| {
            let _inside = runtime.enter();
            let mut service = buffer.clone();
            b.iter_batched(
                request,
                |request| once(&mut service, request),
                BatchSize::SmallInput,
            );
        });
        group.bench_function(format!("enqueue and deliver, {depth} wait"), |b| {
            b.iter_custom(|rounds| {
                runtime.block_on(async {
                    let mut took = Duration::ZERO;
                    for _ in 0..rounds {
                        let mut request = request();
                        request.extensions_mut().insert(Urgency::HIGHEST);
                        let start = Instant::now();
                        let mut call = pin!(buffer.clone().oneshot(request));
                        let first = poll_fn(|cx| Poll::Ready(call.as_mut().poll(cx))).await;
                        assert!(first.is_pending());
                        peer.open_for(1);
                        call.await.expect("an answer");
                        took += start.elapsed();
                    }
                    took
                })
            });
        });
        drop(others);
    }
    group.finish();
}

fn batches(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .build()
        .expect("a runtime");
    let inner = tower::service_fn(|items: Vec<u32>| ready(Ok::<_, BoxError>(items)));
    let mut service = BatchLayer::new(BatchConfig::default(), |_: &u32| 4).layer(inner);
    c.bench_function("batch, per item of 1,000", |b| {
        b.iter_custom(|rounds| {
            runtime.block_on(async {
                let mut took = Duration::ZERO;
                for _ in 0..rounds {
                    let start = Instant::now();
                    let mut calls = Vec::with_capacity(1_000);
                    for item in 0..1_000 {
                        poll_fn(|cx| service.poll_ready(cx)).await.expect("room");
                        calls.push(service.call(item));
                    }
                    for call in calls {
                        black_box(call.await.expect("a result"));
                    }
                    took += start.elapsed() / 1_000;
                }
                took
            })
        });
    });
}

criterion_group! {
    name = benches;
    config = Criterion::default().warm_up_time(Duration::from_millis(500)).measurement_time(Duration::from_secs(2));
    targets = passing, waiting, depth, batches
}
criterion_main!(benches);

//! `cargo bench --bench parts`: what the parts cost that every call goes through, one by one.
//!
//! A 64 byte call takes tens of microseconds on the loopback, so a part of 50 ns is a thousandth of it.
#![allow(missing_docs, reason = "criterion's macros make public functions")]

use std::{
    convert::Infallible,
    hint::black_box,
    pin::pin,
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use criterion::{BatchSize, Criterion, criterion_group, criterion_main};
use http::{HeaderMap, HeaderValue};
use http_body_util::{Full, StreamBody};
use tower_iroh_layers::{Urgency, peek, peek::Peeked};

// Not public, and small enough to stand alone, with what it is built on at the path that it knows it by.
#[path = "../src/lock.rs"]
mod lock;
#[allow(dead_code, unused_imports, reason = "its tests stay where they are")]
#[path = "../src/http2/permits.rs"]
mod permits;

fn urgency(c: &mut Criterion) {
    let mut group = c.benchmark_group("urgency");
    let headers = |value: &'static str| {
        let mut headers = HeaderMap::new();
        headers.insert("content-type", HeaderValue::from_static("application/grpc"));
        headers.insert("te", HeaderValue::from_static("trailers"));
        if !value.is_empty() {
            headers.insert("priority", HeaderValue::from_static(value));
        }
        headers
    };
    for (name, value) in [
        ("no header", ""),
        ("u=1", "u=1"),
        ("among others", "i, a=\"b;c\", u=6;x=1"),
        ("not a dictionary", "=!?"),
    ] {
        let headers = headers(value);
        group.bench_function(name, |b| {
            b.iter(|| Urgency::from_headers(black_box(&headers)));
        });
    }
}

/// A gRPC message of `len` bytes with its prefix.
fn message(len: usize) -> Bytes {
    let mut message = vec![0; 5 + len];
    message[1..5].copy_from_slice(&(len as u32).to_be_bytes());
    message.into()
}

fn peek(c: &mut Criterion) {
    let mut group = c.benchmark_group("peek");
    let mut cx = Context::from_waker(Waker::noop());
    let small = message(64);
    group.bench_function("length of five bytes", |b| {
        b.iter(|| peek::message_len(black_box(&small)));
    });
    group.bench_function("whole body of 64 B", |b| {
        b.iter_batched(
            || Full::new(small.clone()),
            |body| {
                let peeked = Peeked::new(body, &mut cx);
                (peeked.message_len(), peeked.is_whole())
            },
            BatchSize::SmallInput,
        );
    });
    let mut cx = Context::from_waker(Waker::noop());
    group.bench_function("stream that has nothing yet", |b| {
        b.iter_batched(
            || {
                StreamBody::new(futures_util::stream::pending::<
                    Result<http_body::Frame<Bytes>, Infallible>,
                >())
            },
            |body| Peeked::new(body, &mut cx).message_len(),
            BatchSize::SmallInput,
        );
    });
}

fn room(c: &mut Criterion) {
    let mut group = c.benchmark_group("room");
    let mut cx = Context::from_waker(Waker::noop());
    let free = permits::Permits::new(1, 64, 64, 64);
    group.bench_function("a place that is free", |b| {
        b.iter(|| {
            let entered = pin!(free.acquire(Urgency::INTERACTIVE)).poll(&mut cx);
            assert!(matches!(black_box(entered), Poll::Ready(Ok(_))));
        });
    });
    let mut cx = Context::from_waker(Waker::noop());
    let full = permits::Permits::new(1, 1, 1, 1024);
    group.bench_function("a place handed on to one of 256 who wait", |b| {
        let mut place = Some(take(&full, &mut cx));
        let mut waiting: Vec<_> = (0..256)
            .map(|_| Box::pin(full.acquire(Urgency::BULK)))
            .collect();
        for waiter in &mut waiting {
            assert!(waiter.as_mut().poll(&mut cx).is_pending());
        }
        let mut next = 0;
        b.iter(|| {
            place = None;
            // First come, first served.
            let Poll::Ready(Ok(given)) = waiting[next].as_mut().poll(&mut cx) else {
                panic!("the place was handed to somebody else");
            };
            place = Some(given);
            waiting[next] = Box::pin(full.acquire(Urgency::BULK));
            assert!(waiting[next].as_mut().poll(&mut cx).is_pending());
            next = (next + 1) % waiting.len();
        });
        drop(place.take());
    });
}

fn take(room: &permits::Permits, cx: &mut Context<'_>) -> permits::Permit {
    match pin!(room.acquire(Urgency::BULK)).poll(cx) {
        Poll::Ready(Ok(place)) => place,
        _ => panic!("an empty room has a place"),
    }
}

criterion_group! {
    name = parts;
    config = Criterion::default()
        .warm_up_time(Duration::from_millis(300))
        .measurement_time(Duration::from_secs(1));
    targets = urgency, peek, room
}
criterion_main!(parts);

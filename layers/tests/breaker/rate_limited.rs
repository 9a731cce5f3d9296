//! A server that limits its callers' rate, and callers that offer three times as much.

use std::{
    future::{Ready, ready},
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::Empty;
use rand::{RngExt as _, SeedableRng, rngs::StdRng};
use tokio::time::{Instant, sleep_until};
use tonic::Code;
use tower::{Service, ServiceExt};
use tower_iroh_layers::{
    BoxError,
    breaker::{Breaker, BreakerConfig, Circuit},
    fail_fast::{FailFastConfig, FailFastLayer},
};

use crate::peer::SECOND;

/// Admits 100 calls a second by a token bucket, and says RESOURCE_EXHAUSTED to the others.
#[derive(Clone)]
struct Limited {
    bucket: Arc<Mutex<Bucket>>,
    /// Whether it says when to come back.
    pushes_back: bool,
}

struct Bucket {
    tokens: f64,
    at: Instant,
    admitted: u32,
}

const RATE: f64 = 100.0;
const BURST: f64 = 20.0;

impl Service<Request<()>> for Limited {
    type Response = Response<Empty<Bytes>>;
    type Error = BoxError;
    type Future = Ready<Result<Self::Response, BoxError>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<()>) -> Self::Future {
        let mut bucket = self.bucket.lock().expect("no panic");
        let now = Instant::now();
        let new = (now - bucket.at).as_secs_f64() * RATE;
        bucket.tokens = (bucket.tokens + new).min(BURST);
        bucket.at = now;
        let mut response = Response::new(Empty::new());
        let code = match bucket.tokens >= 1.0 {
            true => {
                bucket.tokens -= 1.0;
                bucket.admitted += 1;
                Code::Ok
            }
            false => Code::ResourceExhausted,
        };
        let headers = response.headers_mut();
        headers.insert("grpc-status", (code as i32).into());
        if code != Code::Ok && self.pushes_back {
            headers.insert("grpc-retry-pushback-ms", 1000.into());
        }
        ready(Ok(response))
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_that_is_rate_limited_keeps_the_rate_that_it_is_permitted() {
    for (seed, pushes_back) in [(1, false), (2, false), (3, true)] {
        let limited = Limited {
            bucket: Arc::new(Mutex::new(Bucket {
                tokens: BURST,
                at: Instant::now(),
                admitted: 0,
            })),
            pushes_back,
        };
        let circuit = Circuit::new(BreakerConfig::default());
        let breaker = Breaker::new(limited.clone(), circuit);
        let service = tower::Layer::layer(&FailFastLayer::new(FailFastConfig::default()), breaker);
        // 300 calls a second for a minute, at random times.
        let mut random = StdRng::seed_from_u64(seed);
        let mut at = Instant::now();
        let end = at + SECOND * 60;
        let mut calls = Vec::new();
        while at < end {
            at += Duration::from_secs_f64(random.random_range(0.0..2.0 / 300.0));
            sleep_until(at).await;
            let service = service.clone();
            calls.push(tokio::spawn(async move {
                let _ = service.oneshot(Request::new(())).await;
            }));
        }
        for call in calls {
            call.await.expect("no panic");
        }
        let admitted = limited.bucket.lock().expect("no panic").admitted;
        assert!(
            f64::from(admitted) >= 0.8 * RATE * 60.0,
            "seed {seed}: {admitted} of 6000"
        );
    }
}

//! Contracts of the deadline layers, under paused time.

use std::{
    convert::Infallible,
    future::{Future, pending, ready},
    pin::{Pin, pin},
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::time::{Instant, advance, sleep};
use tonic::{Code, Status, body::Body};
use tower::{Layer, Service, ServiceExt, service_fn};
use tower_iroh_layers::{
    BoxError, Deadline, Fault, Origin,
    deadline::{DeadlineLayer, Elapsed, ServerDeadlineLayer, Stage, StampLayer, header},
    fault::code_of,
};

const SECOND: Duration = Duration::from_secs(1);

fn seconds(n: u64) -> Duration {
    SECOND * u32::try_from(n).expect("few")
}

fn request(timeout: Option<Duration>) -> Request<Body> {
    let mut request = Request::new(Body::empty());
    if let Some(timeout) = timeout {
        header::write(request.headers_mut(), timeout);
    }
    request
}

fn elapsed(error: &BoxError) -> Stage {
    assert_eq!(code_of(&**error), Code::DeadlineExceeded);
    let fault = Fault::find(&**error).expect("a fault");
    assert_eq!(fault.origin(), Origin::Ours);
    let elapsed = error.downcast_ref::<Elapsed>().expect("an Elapsed");
    assert_eq!(fault.not_processed(), elapsed.stage() == Stage::Waiting);
    elapsed.stage()
}

/// Says when it was dropped.
#[derive(Clone, Default)]
struct Alive(Arc<()>);

impl Alive {
    fn others(&self) -> usize {
        Arc::strong_count(&self.0) - 1
    }
}

/// A response body: a frame each `every`, for ever; or never one.
struct Ticks {
    every: Option<Duration>,
    timer: Option<Pin<Box<tokio::time::Sleep>>>,
    _alive: Alive,
}

impl http_body::Body for Ticks {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        let Some(every) = self.every else {
            return Poll::Pending;
        };
        if every.is_zero() {
            return Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"x")))));
        }
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(every)));
        std::task::ready!(timer.as_mut().poll(cx));
        self.timer = None;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"x")))))
    }
}

fn ticks(every: Option<Duration>, alive: &Alive) -> Ticks {
    Ticks {
        every,
        timer: None,
        _alive: alive.clone(),
    }
}

/// A service that is ready `after` it was first asked, clone by clone, and counts what it gets.
struct Slow<F> {
    after: Duration,
    timer: Option<Pin<Box<tokio::time::Sleep>>>,
    calls: Arc<AtomicUsize>,
    answer: F,
}

impl<F: Clone> Clone for Slow<F> {
    fn clone(&self) -> Self {
        Self {
            after: self.after,
            timer: None,
            calls: self.calls.clone(),
            answer: self.answer.clone(),
        }
    }
}

fn slow<F>(after: Duration, answer: F) -> (Slow<F>, Arc<AtomicUsize>) {
    let calls = Arc::<AtomicUsize>::default();
    let service = Slow {
        after,
        timer: None,
        calls: calls.clone(),
        answer,
    };
    (service, calls)
}

impl<F, Fut> Service<Request<Body>> for Slow<F>
where
    F: FnMut(Request<Body>) -> Fut,
    Fut: Future<Output = Result<Response<Body>, BoxError>>,
{
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Fut;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        let after = self.after;
        let timer = self.timer.get_or_insert_with(|| Box::pin(sleep(after)));
        timer.as_mut().poll(cx).map(Ok)
    }

    fn call(&mut self, request: Request<Body>) -> Fut {
        assert!(
            self.timer.take().expect("asked for readiness").is_elapsed(),
            "called before it was ready"
        );
        self.calls.fetch_add(1, Ordering::Relaxed);
        (self.answer)(request)
    }
}

type Seen = (Option<Duration>, Option<Duration>);

/// What a service below a client layer is told: what the extension has left, and what the header says.
async fn told(layer: DeadlineLayer, request: Request<Body>) -> Seen {
    let seen = Arc::new(Mutex::new(None));
    let service = layer.layer(service_fn({
        let seen = seen.clone();
        move |request: Request<Body>| {
            let extension = request.extensions().get::<Deadline>();
            let header = header::read(request.headers());
            *seen.lock().expect("no panic") = Some((extension.map(|at| at.left()), header));
            ready(Ok::<_, Infallible>(Response::new(Body::empty())))
        }
    }));
    service.oneshot(request).await.expect("a response");
    let seen = seen.lock().expect("no panic").take();
    seen.expect("called")
}

fn default_of(limit: Duration) -> DeadlineLayer {
    DeadlineLayer::builder()
        .default_timeout(limit)
        .build()
        .expect("valid")
}

#[tokio::test(start_paused = true)]
async fn the_earliest_of_header_extension_and_default_counts() {
    let at = |n| Some(seconds(n));
    let with = |header, extension: Option<u64>| {
        let mut request = request(header);
        if let Some(limit) = extension {
            request
                .extensions_mut()
                .insert(Deadline::after(seconds(limit)));
        }
        request
    };
    let none = DeadlineLayer::new();
    assert_eq!(told(none.clone(), with(None, None)).await, (None, None));
    assert_eq!(told(none.clone(), with(at(3), None)).await, (at(3), at(3)));
    assert_eq!(
        told(none.clone(), with(None, Some(4))).await,
        (at(4), at(4))
    );
    assert_eq!(
        told(none.clone(), with(at(3), Some(2))).await,
        (at(2), at(2))
    );
    assert_eq!(
        told(default_of(seconds(5)), with(None, None)).await,
        (at(5), at(5))
    );
    assert_eq!(
        told(default_of(seconds(5)), with(at(6), Some(7))).await,
        (at(5), at(5))
    );
    assert_eq!(
        told(default_of(seconds(5)), with(at(6), Some(4))).await,
        (at(4), at(4))
    );
}

#[tokio::test(start_paused = true)]
async fn a_malformed_header_counts_as_absent() {
    for bad in ["", "5", "S", "123456789S", "-1S", "5 S", "soon"] {
        let mut request = request(None);
        request
            .headers_mut()
            .insert(header::NAME, bad.parse().expect("a value"));
        let (extension, _) = told(DeadlineLayer::new(), request).await;
        assert_eq!(extension, None, "{bad:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn covers_an_inner_service_that_is_not_ready() {
    let (inner, calls) = slow(seconds(10), |_| ready(Ok(Response::new(Body::empty()))));
    let mut service = DeadlineLayer::new().layer(inner);
    assert!(
        service.ready().await.is_ok(),
        "what waits, waits in the future"
    );
    let started = Instant::now();
    let error = service
        .call(request(Some(seconds(2))))
        .await
        .expect_err("late");
    assert_eq!(elapsed(&error), Stage::Waiting);
    assert_eq!(started.elapsed(), seconds(2));
    assert_eq!(calls.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn the_header_has_what_is_left_when_it_is_handed_on() {
    let seen = Arc::new(Mutex::new(None));
    let told = seen.clone();
    let (inner, _) = slow(seconds(3), move |request: Request<Body>| {
        *told.lock().expect("no panic") = header::read(request.headers());
        ready(Ok(Response::new(Body::empty())))
    });
    let service = DeadlineLayer::new().layer(inner);
    service
        .oneshot(request(Some(seconds(10))))
        .await
        .expect("a response");
    let left = seen.lock().expect("no panic").expect("a header");
    assert!(
        left <= seconds(7) && left > seconds(7) - Duration::from_millis(5),
        "{left:?}"
    );
}

#[tokio::test(start_paused = true)]
async fn the_header_has_what_is_left_when_the_attempt_leaves() {
    let seen = Arc::new(Mutex::new(None));
    let told = seen.clone();
    let peer = service_fn(move |request: Request<Body>| {
        *told.lock().expect("no panic") = header::read(request.headers());
        ready(Ok::<_, BoxError>(Response::new(Body::empty())))
    });
    // A layer that takes the call at once, and holds it back in its future.
    let peer = StampLayer.layer(peer);
    let holds = service_fn(move |request: Request<Body>| {
        let mut peer = peer.clone();
        async move {
            sleep(seconds(3)).await;
            peer.call(request).await
        }
    });
    for (given, limit) in [(Some(10), 10), (None, 5)] {
        let service = default_of(seconds(limit)).above(holds.clone());
        let request = request(given.map(seconds));
        service.oneshot(request).await.expect("a response");
        let left = seen.lock().expect("no panic").take();
        assert_eq!(left, Some(seconds(limit - 3)));
    }
    // A header without a deadline of ours is the caller's.
    holds
        .oneshot(request(Some(seconds(7))))
        .await
        .expect("a response");
    let left = seen.lock().expect("no panic").take();
    assert_eq!(left, Some(seconds(7)));
}

#[tokio::test(start_paused = true)]
async fn covers_the_response_future_and_drops_it() {
    let alive = Alive::default();
    let held = alive.clone();
    let inner = service_fn(move |_: Request<Body>| {
        let held = held.clone();
        async move {
            pending::<()>().await;
            drop(held);
            Ok::<_, BoxError>(Response::new(Body::empty()))
        }
    });
    let before = alive.others();
    let mut service = DeadlineLayer::new().layer(inner);
    let mut call = pin!(service.call(request(Some(SECOND))));
    let error = call.as_mut().await.expect_err("late");
    assert_eq!(elapsed(&error), Stage::Answer);
    let fault = Fault::find(&*error).expect("a fault");
    assert!(!fault.not_processed(), "it may have been sent");
    // But that is not known here, so it is not said.
    let message = fault.status().message();
    assert!(
        message.contains("passed before there was an answer"),
        "{message}"
    );
    assert!(!message.contains("the peer"), "{message}");
    assert_eq!(alive.others(), before, "only the service itself holds on");
}

async fn body_under(
    limit: Option<Duration>,
    body: Ticks,
) -> impl http_body::Body<Data = Bytes, Error = BoxError> + Unpin {
    let body = Arc::new(Mutex::new(Some(body)));
    let inner = service_fn(move |_: Request<Body>| {
        let body = body.lock().expect("no panic").take().expect("one call");
        ready(Ok::<_, BoxError>(Response::new(body)))
    });
    let response = DeadlineLayer::new()
        .layer(inner)
        .oneshot(request(limit))
        .await;
    Box::pin(response.expect("a head").into_body())
}

#[tokio::test(start_paused = true)]
async fn covers_the_response_s_body_and_drops_it() {
    let alive = Alive::default();
    for every in [None, Some(Duration::from_millis(300)), Some(Duration::ZERO)] {
        let mut body = body_under(Some(SECOND), ticks(every, &alive)).await;
        let started = Instant::now();
        let error = loop {
            match body.frame().await.expect("an error comes before the end") {
                // A body that always has another frame leaves the clock no room to move by itself.
                Ok(_) if every == Some(Duration::ZERO) => advance(Duration::from_millis(100)).await,
                Ok(_) => {}
                Err(error) => break error,
            }
        };
        assert_eq!(elapsed(&error), Stage::Body);
        assert_eq!(started.elapsed(), SECOND);
        assert_eq!(alive.others(), 0, "the inner body is gone");
        assert!(body.is_end_stream() && body.frame().await.is_none());
    }
}

#[tokio::test(start_paused = true)]
async fn a_call_whose_time_is_over_is_never_handed_on() {
    let (inner, calls) = slow(Duration::ZERO, |_| ready(Ok(Response::new(Body::empty()))));
    sleep(SECOND).await;
    let service = DeadlineLayer::new().layer(inner);
    let error = service
        .clone()
        .oneshot(request(Some(Duration::ZERO)))
        .await
        .expect_err("late");
    assert_eq!(elapsed(&error), Stage::Waiting);
    let mut over = request(None);
    over.extensions_mut()
        .insert(Deadline::at(Instant::now() - SECOND));
    let error = service.oneshot(over).await.expect_err("late");
    assert_eq!(elapsed(&error), Stage::Waiting);
    assert_eq!(calls.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn a_peer_s_cancelled_at_the_deadline_is_ours() {
    let answer = |after: Duration| {
        let inner = service_fn(move |_: Request<Body>| async move {
            sleep(after).await;
            Ok::<_, BoxError>(Status::cancelled("time").into_http::<Body>())
        });
        DeadlineLayer::new()
            .layer(inner)
            .oneshot(request(Some(SECOND)))
    };
    let error = answer(SECOND - Duration::from_millis(3))
        .await
        .expect_err("late");
    assert_eq!(elapsed(&error), Stage::Answer);
    let response = answer(SECOND / 2).await.expect("the server's own");
    assert_eq!(response.headers()["grpc-status"], "1");
}

#[tokio::test(start_paused = true)]
async fn a_transport_s_time_out_is_deadline_exceeded() {
    let inner = service_fn(|_: Request<Body>| {
        ready(Err::<Response<Body>, BoxError>(Box::new(
            tonic::TimeoutExpired(()),
        )))
    });
    let error = DeadlineLayer::new()
        .layer(inner)
        .oneshot(request(None))
        .await
        .err();
    assert_eq!(elapsed(&error.expect("late")), Stage::Answer);
}

/// A handler that makes a call by itself, and one for each frame of its response.
#[derive(Clone)]
struct Relay {
    seen: Arc<Mutex<Vec<Option<Duration>>>>,
}

type Outgoing = Pin<Box<dyn Future<Output = Seen> + Send>>;

struct RelayBody {
    relay: Relay,
    left: usize,
    call: Option<Outgoing>,
}

impl http_body::Body for RelayBody {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let call = self.call.get_or_insert_with(|| {
            Box::pin(async {
                sleep(SECOND).await;
                told(DeadlineLayer::new(), request(None)).await
            })
        });
        let (left, _) = std::task::ready!(call.as_mut().poll(cx));
        self.relay.seen.lock().expect("no panic").push(left);
        self.call = None;
        self.left -= 1;
        Poll::Ready(Some(Ok(Frame::data(Bytes::from_static(b"x")))))
    }
}

impl Service<Request<Body>> for Relay {
    type Response = Response<RelayBody>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<RelayBody>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<Body>) -> Self::Future {
        let relay = self.clone();
        Box::pin(async move {
            sleep(SECOND).await;
            let (left, header) = told(DeadlineLayer::new(), request(None)).await;
            assert_eq!(left, header);
            relay.seen.lock().expect("no panic").push(left);
            // Another task is nobody's heir.
            let spawned = tokio::spawn(told(DeadlineLayer::new(), request(None)));
            assert_eq!(spawned.await.expect("no panic"), (None, None));
            Ok(Response::new(RelayBody {
                relay,
                left: 2,
                call: None,
            }))
        })
    }
}

#[tokio::test(start_paused = true)]
async fn an_outgoing_call_inherits_also_while_its_handler_streams() {
    let relay = Relay {
        seen: Arc::default(),
    };
    let seen = relay.seen.clone();
    let server = ServerDeadlineLayer::new().layer(relay);
    let response = server
        .oneshot(request(Some(seconds(10))))
        .await
        .expect("a head");
    assert_eq!(Deadline::inherited(), None, "outside of the handler");
    response.into_body().collect().await.expect("a body");
    let seen: Vec<_> = seen
        .lock()
        .expect("no panic")
        .iter()
        .map(|left| left.expect("some").as_secs())
        .collect();
    assert_eq!(seen, [9, 8, 7]);
}

#[tokio::test(start_paused = true)]
async fn an_outgoing_call_that_asks_for_longer_gets_what_is_left() {
    let inner = service_fn(|_: Request<Body>| async {
        sleep(seconds(4)).await;
        let longer = told(default_of(seconds(30)), request(Some(seconds(20)))).await;
        let shorter = told(DeadlineLayer::new(), request(Some(seconds(2)))).await;
        assert_eq!((longer.0, shorter.0), (Some(seconds(6)), Some(seconds(2))));
        Ok::<_, Infallible>(Response::new(Body::empty()))
    });
    let server = ServerDeadlineLayer::new().layer(inner);
    server
        .oneshot(request(Some(seconds(10))))
        .await
        .expect("a response");
}

fn status_of(headers: &HeaderMap) -> Code {
    Code::from_bytes(headers["grpc-status"].as_bytes())
}

#[tokio::test(start_paused = true)]
async fn a_server_answers_when_its_handler_is_late() {
    let alive = Alive::default();
    let held = alive.clone();
    let inner = service_fn(move |request: Request<Body>| {
        assert_eq!(Deadline::of(&request).map(Deadline::left), Some(SECOND));
        let held = held.clone();
        async move {
            pending::<()>().await;
            drop(held);
            Ok::<_, Infallible>(Response::new(Body::empty()))
        }
    });
    let before = alive.others();
    let started = Instant::now();
    let mut server = ServerDeadlineLayer::new().layer(inner);
    let response = server.call(request(Some(SECOND))).await.expect("an answer");
    assert_eq!(started.elapsed(), SECOND);
    assert_eq!(alive.others(), before, "the handler is dropped");
    assert_eq!(response.status(), 200);
    assert_eq!(response.headers()["content-type"], "application/grpc");
    assert_eq!(status_of(response.headers()), Code::DeadlineExceeded);
    assert!(response.body().is_end_stream(), "trailers only");
}

/// tonic's server polls the handler and then its own timer, which began earlier.
#[tokio::test(start_paused = true)]
async fn a_server_answers_before_tonic_s_own_timer_does() {
    let inner = service_fn(|_: Request<Body>| pending::<Result<Response<Body>, Infallible>>());
    let mut server = ServerDeadlineLayer::new().layer(inner);
    let mut call = pin!(server.call(request(Some(SECOND))));
    let mut cx = Context::from_waker(Waker::noop());
    assert!(call.as_mut().poll(&mut cx).is_pending());
    advance(SECOND - Duration::from_micros(500)).await;
    assert!(call.as_mut().poll(&mut cx).is_ready());
}

#[tokio::test(start_paused = true)]
async fn a_server_ends_a_late_stream_with_a_status() {
    for every in [None, Some(Duration::from_millis(300))] {
        let alive = Alive::default();
        let held = alive.clone();
        let inner = service_fn(move |_: Request<Body>| {
            ready(Ok::<_, Infallible>(Response::new(ticks(every, &held))))
        });
        let before = alive.others();
        let mut server = ServerDeadlineLayer::new().layer(inner);
        let body = server
            .call(request(Some(SECOND)))
            .await
            .expect("a head")
            .into_body();
        let mut body = Box::pin(body);
        let started = Instant::now();
        let trailers = loop {
            let frame = body.frame().await.expect("a frame").expect("no error");
            if let Ok(trailers) = frame.into_trailers() {
                break trailers;
            }
        };
        assert_eq!(started.elapsed(), SECOND);
        assert_eq!(status_of(&trailers), Code::DeadlineExceeded);
        assert_eq!(alive.others(), before, "the stream is dropped");
        assert!(body.frame().await.is_none());
    }
}

/// Bodies that end in every way, and how many frames each has.
fn bodies_that_end() -> Vec<(Body, usize)> {
    let trailers = || Frame::trailers(HeaderMap::new());
    let data = || Frame::data(Bytes::from_static(b"x"));
    let ended = |frames: Vec<Result<Frame<Bytes>, Status>>| {
        let frames = tokio_stream::iter(frames);
        Body::new(http_body_util::StreamBody::new(frames))
    };
    vec![
        (ended(vec![Ok(data()), Ok(trailers())]), 2),
        (ended(vec![Ok(data())]), 1),
        (ended(vec![Err(Status::internal("x"))]), 1),
        // It says by itself that it is at its end.
        (
            Body::new(http_body_util::Full::new(Bytes::from_static(b"x"))),
            1,
        ),
        (Body::empty(), 0),
    ]
}

/// A poll after the end, when the time is over too, yields nothing: trailers come once, and what was answered is not late.
async fn ends_once<B: http_body::Body>(body: B, frames: usize) {
    let mut body = Box::pin(body);
    for _ in 0..frames {
        assert!(body.frame().await.is_some());
    }
    if !body.is_end_stream() {
        assert!(body.frame().await.is_none());
    }
    sleep(SECOND).await;
    assert!(body.frame().await.is_none());
    assert!(body.frame().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_server_s_stream_that_has_ended_does_not_end_again() {
    for (body, frames) in bodies_that_end() {
        let mut body = Some(body);
        let inner = service_fn(move |_: Request<Body>| {
            let body = body.take().expect("one call");
            ready(Ok::<_, Infallible>(Response::new(body)))
        });
        let response = ServerDeadlineLayer::new()
            .layer(inner)
            .oneshot(request(Some(SECOND)))
            .await;
        ends_once(response.expect("a head").into_body(), frames).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_client_s_stream_that_has_ended_is_not_late() {
    for (body, frames) in bodies_that_end() {
        let shared = std::sync::Arc::new(std::sync::Mutex::new(Some(body)));
        let inner = service_fn(move |_: Request<Body>| {
            let body = shared.lock().expect("no panic").take();
            ready(Ok::<_, Infallible>(Response::new(body.expect("one call"))))
        });
        let response = DeadlineLayer::new()
            .layer(inner)
            .oneshot(request(Some(SECOND)))
            .await;
        ends_once(response.expect("a head").into_body(), frames).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_server_s_default_and_maximum() {
    let left = |default: Option<u64>, max: Option<u64>, header: Option<u64>| async move {
        let mut layer = ServerDeadlineLayer::builder();
        if let Some(limit) = default {
            layer = layer.default_timeout(seconds(limit));
        }
        if let Some(limit) = max {
            layer = layer.max_timeout(seconds(limit));
        }
        let inner = service_fn(|request: Request<Body>| {
            let mut response = Response::new(Body::empty());
            if let Some(deadline) = request.extensions().get::<Deadline>() {
                response.extensions_mut().insert(*deadline);
            }
            ready(Ok::<_, Infallible>(response))
        });
        let server = layer.build().expect("valid").layer(inner);
        let response = server
            .oneshot(request(header.map(seconds)))
            .await
            .expect("a response");
        response
            .extensions()
            .get::<Deadline>()
            .map(|at| at.left().as_secs())
    };
    assert_eq!(left(None, None, None).await, None);
    assert_eq!(left(Some(5), None, None).await, Some(5));
    assert_eq!(left(Some(5), None, Some(60)).await, Some(60));
    assert_eq!(left(Some(5), Some(9), Some(60)).await, Some(9));
    assert_eq!(left(None, Some(9), None).await, Some(9));
    assert_eq!(left(Some(5), Some(9), Some(2)).await, Some(2));
}

#[tokio::test(start_paused = true)]
async fn a_server_s_handler_without_time_does_not_begin() {
    let inner = service_fn(
        |_: Request<Body>| -> std::future::Ready<Result<Response<Body>, Infallible>> {
            panic!("there was no time")
        },
    );
    let mut server = ServerDeadlineLayer::new().layer(inner);
    let response = server
        .call(request(Some(Duration::ZERO)))
        .await
        .expect("an answer");
    assert_eq!(status_of(response.headers()), Code::DeadlineExceeded);
}

#[test]
fn settings_that_cannot_be_are_refused() {
    let client = |limit| DeadlineLayer::builder().default_timeout(limit).build();
    assert!(client(Duration::from_nanos(1)).is_ok());
    let error = client(Duration::ZERO).expect_err("refused");
    assert_eq!(error.field(), "deadline.default_timeout");
    let server = ServerDeadlineLayer::builder();
    assert!(server.max_timeout(Duration::ZERO).build().is_err());
    assert!(server.default_timeout(Duration::ZERO).build().is_err());
    assert!(
        server
            .default_timeout(SECOND)
            .max_timeout(SECOND)
            .build()
            .is_ok()
    );
    let error = server
        .default_timeout(seconds(2))
        .max_timeout(SECOND)
        .build();
    assert_eq!(error.expect_err("refused").value(), "2s");
}

#[tokio::test(start_paused = true)]
async fn sixty_idle_days() {
    let day = seconds(86_400);
    let alive = Alive::default();
    for limit in [None, Some(day * 90), Some(Duration::MAX)] {
        let mut body = body_under(None, ticks(Some(day * 60), &alive)).await;
        let frame = body.frame().await.expect("a frame");
        assert!(frame.is_ok(), "{limit:?}");
    }
    let mut body = body_under(Some(day * 90), ticks(Some(day * 60), &alive)).await;
    assert!(body.frame().await.expect("a frame").is_ok());
    let error = body.frame().await.expect("a frame").expect_err("late");
    assert_eq!(elapsed(&error), Stage::Body);
    // Farther than any timer reaches.
    let mut body = body_under(Some(day * 9000), ticks(Some(day * 1000), &alive)).await;
    assert!(body.frame().await.expect("a frame").is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_clone_carries_no_readiness() {
    // `Slow` refuses a call on a clone that was not asked for readiness itself.
    let (inner, calls) = slow(SECOND, |_| ready(Ok(Response::new(Body::empty()))));
    let mut first = DeadlineLayer::new().layer(inner);
    first.ready().await.expect("ready");
    let mut second = first.clone();
    let (a, b) = tokio::join!(first.call(request(None)), second.call(request(None)));
    assert!(a.is_ok() && b.is_ok());
    assert_eq!(calls.load(Ordering::Relaxed), 2);
}

#[tokio::test(start_paused = true)]
async fn a_call_dropped_at_any_await_leaves_nothing() {
    let alive = Alive::default();
    let held = alive.clone();
    let (inner, _) = slow(SECOND, move |_| {
        let held = held.clone();
        async move {
            sleep(SECOND).await;
            let body = ticks(Some(SECOND), &held);
            Ok(Response::new(Body::new(body)))
        }
    });
    let before = alive.others();
    for cut in 0..8 {
        let mut service = DeadlineLayer::new().layer(inner.clone());
        let whole = async {
            let response = service
                .call(request(Some(seconds(10))))
                .await
                .expect("a head");
            response.into_body().collect().await.map(|_| ())
        };
        let cut = Duration::from_millis(500) * cut;
        assert!(tokio::time::timeout(cut, whole).await.is_err());
        drop(service);
        // The prototype service's closure holds one.
        assert_eq!(alive.others(), before, "after {cut:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_keeps_its_size_and_its_end() {
    let inner = service_fn(|_: Request<Body>| {
        let body = http_body_util::Full::new(Bytes::from_static(b"12345"));
        ready(Ok::<_, Infallible>(Response::new(body)))
    });
    let exact = |hint: SizeHint| hint.exact();
    let response = DeadlineLayer::new()
        .layer(inner)
        .oneshot(request(Some(SECOND)))
        .await;
    let mut body = Box::pin(response.expect("a head").into_body());
    assert_eq!(
        (exact(body.size_hint()), body.is_end_stream()),
        (Some(5), false)
    );
    body.frame().await.expect("a frame").expect("no error");
    assert_eq!(
        (exact(body.size_hint()), body.is_end_stream()),
        (Some(0), true)
    );
    let response = ServerDeadlineLayer::new()
        .layer(inner)
        .oneshot(request(Some(SECOND)))
        .await;
    let body = response.expect("a head").into_body();
    assert_eq!(
        (exact(body.size_hint()), body.is_end_stream()),
        (Some(5), false)
    );
}

mod over_tonic {
    use tokio_stream::wrappers::TcpListenerStream;
    use tonic::transport::{Channel, Endpoint, Server};
    use tower_iroh_proto::{
        EchoService,
        echo::{StreamRequest, echo_client::EchoClient, echo_server::EchoServer},
    };

    use super::*;

    async fn channel() -> Channel {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await;
        let listener = listener.expect("a port");
        let address = listener.local_addr().expect("an address");
        let server = Server::builder()
            .layer(ServerDeadlineLayer::new())
            .add_service(EchoServer::new(EchoService))
            .serve_with_incoming(TcpListenerStream::new(listener));
        tokio::spawn(server);
        let endpoint = Endpoint::new(format!("http://{address}"));
        endpoint.expect("a uri").connect_lazy()
    }

    /// A message each 10 ms, for much longer than the call may take.
    fn request() -> tonic::Request<StreamRequest> {
        let mut request = tonic::Request::new(StreamRequest {
            count: 10_000,
            size: 10,
            interval_ms: 10,
        });
        request.set_timeout(Duration::from_secs(2));
        request
    }

    /// tonic's own client bounds only the head, so what ends the stream is the server.
    #[tokio::test]
    async fn a_server_ends_a_late_stream_for_a_plain_client() {
        let mut client = EchoClient::new(channel().await);
        let mut stream = client
            .server_stream(request())
            .await
            .expect("a head")
            .into_inner();
        let status = loop {
            match stream.message().await {
                Ok(message) => assert!(message.is_some(), "ended without a status"),
                Err(status) => break status,
            }
        };
        assert_eq!(status.code(), Code::DeadlineExceeded);
        assert!(status.message().contains("on this server"), "{status}");
    }

    #[tokio::test]
    async fn a_client_ends_a_late_stream_by_itself() {
        let channel = DeadlineLayer::new().layer(channel().await);
        let mut client = EchoClient::new(channel);
        let task = tokio::spawn(async move {
            let mut stream = client.server_stream(request()).await?.into_inner();
            while stream.message().await?.is_some() {}
            Ok::<_, Status>(())
        });
        let status = task.await.expect("no panic").expect_err("late");
        assert_eq!(status.code(), Code::DeadlineExceeded);
    }
}

//! The stack over a service that plays a part, under paused time: what a real peer would not do on cue.

use std::{
    collections::VecDeque,
    future::{Future, pending},
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, Full, StreamBody};
use tokio::time::{Instant, advance, sleep};
use tonic::{Code, Status, body::Body};
use tower::{Layer as _, Service, ServiceExt as _};
use tower_iroh::{
    Stack, StackBuilder, Stacked,
    layers::{
        BoxError, Fault, MethodConfig, Methods, Origin, breaker::BreakerConfig,
        buffer::WaitForReady, deadline::header, fault::code_of, retry::RetryPolicy,
    },
};

use crate::support::ECHO;

/// How the peer ends a call.
#[derive(Clone, Debug)]
enum Part {
    TrailersOnly(Code),
    Trailers(Code),
    NoStatus,
    Reset,
    Hang,
    /// Answers after a while.
    Late(Duration, Code),
    /// Did not become ready for this call.
    Unready,
}

#[derive(Clone)]
struct Peer {
    /// What it does with each call; the last is done again and again.
    parts: Arc<Mutex<VecDeque<Part>>>,
    polls: Arc<AtomicUsize>,
    calls: Arc<AtomicUsize>,
    /// What the last call said of the time that it has left.
    timeout: Arc<Mutex<Option<Duration>>>,
}

impl Peer {
    fn new(parts: impl IntoIterator<Item = Part>) -> Self {
        Self {
            parts: Arc::new(Mutex::new(parts.into_iter().collect())),
            polls: Arc::default(),
            calls: Arc::default(),
            timeout: Arc::default(),
        }
    }

    fn play(&self, parts: impl IntoIterator<Item = Part>) {
        *self.parts.lock().expect("no panic") = parts.into_iter().collect();
    }

    fn next(&self) -> Part {
        let mut parts = self.parts.lock().expect("no panic");
        match parts.len() {
            0 | 1 => parts.front().cloned().expect("a part"),
            _ => parts.pop_front().expect("a part"),
        }
    }

    fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }
}

fn status(code: Code) -> HeaderMap {
    let mut headers = HeaderMap::new();
    headers.insert("grpc-status", (code as i32).into());
    headers
}

fn streaming(frames: Vec<Result<Frame<Bytes>, Status>>) -> Response<Body> {
    Response::new(Body::new(StreamBody::new(futures_util::stream::iter(
        frames,
    ))))
}

async fn answer(part: Part) -> Result<Response<Body>, BoxError> {
    let message = || Ok(Frame::data(Bytes::from_static(b"\0\0\0\0\0")));
    match part {
        Part::TrailersOnly(code) => {
            let mut response = Response::new(Body::empty());
            *response.headers_mut() = status(code);
            Ok(response)
        }
        Part::Trailers(code) => Ok(streaming(vec![
            message(),
            Ok(Frame::trailers(status(code))),
        ])),
        Part::NoStatus => Ok(streaming(vec![message()])),
        Part::Reset => Ok(streaming(vec![message(), Err(Status::internal("reset"))])),
        Part::Hang => pending().await,
        Part::Late(after, code) => {
            sleep(after).await;
            Ok(streaming(vec![
                message(),
                Ok(Frame::trailers(status(code))),
            ]))
        }
        Part::Unready => unreachable!("it is not called"),
    }
}

impl Service<Request<Body>> for Peer {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.polls.fetch_add(1, Ordering::Relaxed);
        let unready = matches!(
            self.parts.lock().expect("no panic").front(),
            Some(Part::Unready)
        );
        Poll::Ready(if unready {
            self.next();
            Err(Box::new(Fault::unsent(
                Origin::Peer,
                Status::unavailable("not ready"),
            )))
        } else {
            Ok(())
        })
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        self.calls.fetch_add(1, Ordering::Relaxed);
        *self.timeout.lock().expect("no panic") = header::read(request.headers());
        Box::pin(answer(self.next()))
    }
}

fn stacked(peer: &Peer, settings: impl FnOnce(StackBuilder) -> StackBuilder) -> Stacked<Peer> {
    let stack = settings(Stack::builder().without_retry()).build();
    stack.expect("valid").layer(peer.clone())
}

fn request() -> Request<Body> {
    let mut request = Request::new(Body::new(Full::new(Bytes::from_static(b"\0\0\0\0\0"))));
    *request.uri_mut() = ECHO.parse().expect("a path");
    request
}

/// One call to the end of its answer, and its code.
async fn call(service: &Stacked<Peer>) -> Code {
    match service.clone().oneshot(request()).await {
        Ok(response) => {
            let head = response.headers().get("grpc-status").cloned();
            match response.into_body().collect().await {
                Ok(body) => {
                    let status = body
                        .trailers()
                        .and_then(|it| it.get("grpc-status").cloned());
                    let status = head.or(status);
                    status.map_or(Code::Unknown, |it| Code::from_bytes(it.as_bytes()))
                }
                Err(error) => code_of(&*error),
            }
        }
        Err(error) => code_of(&*error),
    }
}

#[tokio::test(start_paused = true)]
async fn each_way_to_fail_opens_the_breaker_and_answers_do_not() {
    for (part, opens) in [
        (Part::TrailersOnly(Code::Unavailable), true),
        (Part::Trailers(Code::Unavailable), true),
        (Part::NoStatus, true),
        (Part::Reset, true),
        (Part::TrailersOnly(Code::Internal), false),
        (Part::Trailers(Code::Unknown), false),
        (Part::TrailersOnly(Code::NotFound), false),
        (Part::Trailers(Code::FailedPrecondition), false),
        (Part::Trailers(Code::Ok), false),
    ] {
        let peer = Peer::new([part.clone()]);
        let service = stacked(&peer, |stack| stack);
        for _ in 0..5 {
            call(&service).await;
        }
        let closed = service.handle().circuit().state().is_closed();
        assert_eq!(!closed, opens, "{part:?}");
        assert_eq!(peer.calls(), 5);
    }
}

#[tokio::test(start_paused = true)]
async fn polls_stay_bounded_while_it_is_open() {
    let peer = Peer::new([Part::Trailers(Code::Unavailable)]);
    let breaker = BreakerConfig::builder()
        .first_wait(Duration::from_secs(30))
        .build()
        .expect("valid");
    let service = stacked(&peer, |stack| stack.breaker(breaker));
    for _ in 0..5 {
        call(&service).await;
    }
    service.handle().circuit().force_open();
    let polls = peer.polls.load(Ordering::Relaxed);
    let mut waiting = request();
    waiting.extensions_mut().insert(WaitForReady);
    let waits = tokio::spawn(service.clone().oneshot(waiting));
    for _ in 0..1000 {
        // Two seconds for the first, and nothing for the others.
        assert_eq!(call(&service).await, Code::Unavailable);
    }
    advance(Duration::from_secs(60)).await;
    assert_eq!(peer.calls(), 5, "nothing was let through");
    assert!(peer.polls.load(Ordering::Relaxed) <= polls + 2);
    peer.play([Part::Trailers(Code::Ok)]);
    service.handle().circuit().release();
    waits.await.expect("no panic").expect("delivered");
    assert_eq!(peer.calls(), 6);
}

#[tokio::test(start_paused = true)]
async fn after_many_successes_half_failing_opens_within_the_window() {
    let peer = Peer::new([Part::Trailers(Code::Ok)]);
    let breaker = BreakerConfig::builder()
        .failure_threshold(None)
        .build()
        .expect("valid");
    let service = stacked(&peer, |stack| stack.breaker(breaker));
    for _ in 0..20_000 {
        assert_eq!(call(&service).await, Code::Ok);
    }
    let began = Instant::now();
    for n in 0_u32.. {
        peer.play([if n % 2 == 0 {
            Part::Trailers(Code::Unavailable)
        } else {
            Part::Trailers(Code::Ok)
        }]);
        call(&service).await;
        if !service.handle().circuit().state().is_closed() {
            break;
        }
        advance(Duration::from_millis(100)).await;
        assert!(
            began.elapsed() <= Duration::from_secs(11),
            "the window is 10 s"
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_is_dropped_anywhere_lets_the_next_one_in() {
    for polls in 0..6 {
        let peer = Peer::new([Part::Trailers(Code::Unavailable)]);
        let service = stacked(&peer, |stack| stack.without_fail_fast());
        for _ in 0..5 {
            call(&service).await;
        }
        advance(Duration::from_secs(31)).await;
        peer.play([Part::Late(Duration::from_secs(3), Code::Ok)]);
        let mut probe = tokio_test::task::spawn(service.clone().oneshot(request()));
        for _ in 0..polls {
            assert!(probe.poll().is_pending());
            advance(Duration::from_millis(500)).await;
        }
        drop(probe);
        peer.play([Part::Trailers(Code::Ok)]);
        let began = Instant::now();
        assert_eq!(
            call(&service).await,
            Code::Ok,
            "dropped after {polls} polls"
        );
        assert_eq!(began.elapsed(), Duration::ZERO);
        assert!(service.handle().circuit().state().is_closed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_straggler_decides_nothing() {
    let peer = Peer::new([
        Part::Late(Duration::from_secs(40), Code::Unavailable),
        Part::Trailers(Code::Unavailable),
    ]);
    let service = stacked(&peer, |stack| stack);
    let mut straggler = tokio_test::task::spawn(call(&service));
    assert!(straggler.poll().is_pending());
    for _ in 0..5 {
        call(&service).await;
    }
    assert!(!service.handle().circuit().state().is_closed());
    advance(Duration::from_secs(31)).await;
    peer.play([Part::Trailers(Code::Ok)]);
    assert_eq!(call(&service).await, Code::Ok);
    let before = service.handle().circuit().statistics();
    assert!(before.state.is_closed());
    // Begun before it all, it ends now.
    assert_eq!(straggler.await, Code::Unavailable);
    assert_eq!(
        service.handle().circuit().statistics().failed,
        before.failed
    );
}

#[tokio::test(start_paused = true)]
async fn readiness_that_fails_is_the_call_s_failure_and_heals() {
    let peer = Peer::new([Part::Unready, Part::Trailers(Code::Ok)]);
    let mut service = stacked(&peer, |stack| stack);
    let ready = std::future::poll_fn(|cx| service.poll_ready(cx)).await;
    ready.expect("never an error");
    assert_eq!(call(&service).await, Code::Unavailable);
    assert_eq!(peer.calls(), 0);
    assert_eq!(call(&service).await, Code::Ok);
}

/// A table with one entry, for the method that these tests call.
fn table(config: MethodConfig) -> Methods {
    let methods = Methods::builder().method(ECHO, config);
    methods.build().expect("valid")
}

#[tokio::test(start_paused = true)]
async fn a_method_s_timeout_takes_the_place_of_the_default_one() {
    let seconds = Duration::from_secs;
    for (default, own) in [(None, 3), (Some(1), 3), (Some(5), 3)] {
        let peer = Peer::new([Part::Hang]);
        let service = stacked(&peer, |stack| {
            let stack = stack.methods(table(MethodConfig::new().timeout(seconds(own))));
            match default {
                Some(default) => stack.timeout(seconds(default)),
                None => stack,
            }
        });
        let began = Instant::now();
        assert_eq!(call(&service).await, Code::DeadlineExceeded);
        assert_eq!(began.elapsed(), seconds(own), "{default:?}");
        // The call's own is shorter.
        let mut hurried = request();
        hurried
            .headers_mut()
            .insert("grpc-timeout", http::HeaderValue::from_static("1S"));
        let began = Instant::now();
        let late = service.clone().oneshot(hurried).await;
        late.map(drop).expect_err("late");
        assert_eq!(began.elapsed(), seconds(1));
    }
    let everything = Methods::builder().method("*", MethodConfig::new().timeout(seconds(1)));
    let everything = everything.build().expect("valid");
    let twice = Stack::builder().timeout(seconds(2)).methods(everything);
    let error = twice.build().expect_err("two defaults");
    assert_eq!(error.field(), "stack.timeout");
}

#[tokio::test(start_paused = true)]
async fn a_method_s_retry_policy_takes_the_place_of_the_stack_s() {
    let policy = |attempts| {
        let policy = RetryPolicy::builder().max_attempts(attempts);
        policy.codes([Code::Aborted]).build().expect("valid")
    };
    let own = || table(MethodConfig::new().idempotent(true).retry(policy(4)));
    let peer = Peer::new([Part::TrailersOnly(Code::Aborted)]);
    let service = stacked(&peer, |stack| {
        stack.retry(RetryPolicy::default()).methods(own())
    });
    assert_eq!(call(&service).await, Code::Aborted);
    assert_eq!(peer.calls(), 4);
    // One budget for all methods.
    assert_eq!(service.handle().retry_budget().tokens(), 6.0);
    let off = Peer::new([Part::TrailersOnly(Code::Aborted)]);
    call(&stacked(&off, |stack| stack.methods(own()))).await;
    assert_eq!(off.calls(), 1, "a stack without retry retries nothing");
}

#[tokio::test(start_paused = true)]
async fn a_method_that_waits_for_ready_waits_for_its_own_time_to_live() {
    let peer = Peer::new([Part::Trailers(Code::Ok)]);
    let waits = MethodConfig::new()
        .wait_for_ready(true)
        .buffer_ttl(Duration::from_secs(20));
    let service = stacked(&peer, |stack| stack.methods(table(waits)));
    service.handle().circuit().force_open();
    let began = Instant::now();
    assert_eq!(call(&service).await, Code::Unavailable);
    assert_eq!(began.elapsed(), Duration::from_secs(20));
    assert_eq!(service.handle().buffer().stats().expired, 1);
    let waiting = tokio::spawn({
        let service = service.clone();
        async move { call(&service).await }
    });
    sleep(Duration::from_secs(10)).await;
    service.handle().circuit().release();
    assert_eq!(waiting.await.expect("no panic"), Code::Ok);
    let fails_fast = stacked(&peer, |stack| stack);
    fails_fast.handle().circuit().force_open();
    let began = Instant::now();
    assert_eq!(call(&fails_fast).await, Code::Unavailable);
    assert_eq!(began.elapsed(), Duration::from_secs(2));
}

#[tokio::test(start_paused = true)]
async fn a_deadline_covers_waiting_head_and_body() {
    let peer = Peer::new([Part::Hang]);
    let limit = Duration::from_secs(1);
    let service = stacked(&peer, |stack| stack.timeout(limit));
    let began = Instant::now();
    assert_eq!(call(&service).await, Code::DeadlineExceeded);
    assert_eq!(began.elapsed(), limit);
    service.handle().circuit().force_open();
    for waits in [false, true] {
        let began = Instant::now();
        let mut late = request();
        if waits {
            late.extensions_mut().insert(WaitForReady);
        }
        let error = service.clone().oneshot(late).await.err();
        let error = error.expect("nobody answers");
        assert_eq!(code_of(&*error), Code::DeadlineExceeded);
        assert_eq!(began.elapsed(), limit);
    }
    assert_eq!(service.handle().buffer().stats().waiting, 0);
}

#[tokio::test(start_paused = true)]
async fn the_peer_is_told_what_is_left_however_long_the_call_waited() {
    let limit = Duration::from_secs(5);
    let peer = Peer::new([Part::Trailers(Code::Ok)]);
    for waits in [false, true] {
        let settings = |stack: StackBuilder| stack.timeout(limit).without_fail_fast();
        let service = stacked(&peer, settings);
        service.handle().circuit().force_open();
        let mut held = request();
        if waits {
            held.extensions_mut().insert(WaitForReady);
        }
        let call = tokio::spawn(service.clone().oneshot(held));
        sleep(Duration::from_secs(3)).await;
        service.handle().circuit().release();
        call.await.expect("no panic").expect("answered");
        let told = peer.timeout.lock().expect("no panic").take();
        let left = limit - Duration::from_secs(3);
        assert!(told.is_some_and(|told| told <= left), "{told:?}");
    }
    // One that waits for nothing has all of it.
    let service = stacked(&peer, |stack| stack.timeout(limit));
    assert_eq!(call(&service).await, Code::Ok);
    assert_eq!(*peer.timeout.lock().expect("no panic"), Some(limit));
}

#[tokio::test(start_paused = true)]
async fn sixty_idle_days() {
    let peer = Peer::new([Part::Trailers(Code::Ok)]);
    let service = stacked(&peer, |stack| stack.timeout(Duration::from_secs(5)));
    assert_eq!(call(&service).await, Code::Ok);
    advance(Duration::from_secs(60 * 86_400)).await;
    assert_eq!(call(&service).await, Code::Ok);
    peer.play([Part::Trailers(Code::Unavailable)]);
    for _ in 0..5 {
        call(&service).await;
    }
    assert!(!service.handle().circuit().state().is_closed());
    advance(Duration::from_secs(60 * 86_400)).await;
    peer.play([Part::Trailers(Code::Ok)]);
    let began = Instant::now();
    assert_eq!(call(&service).await, Code::Ok);
    assert_eq!(began.elapsed(), Duration::ZERO);
}

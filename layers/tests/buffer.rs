//! The buffer's contracts, over a peer that goes away and comes back. Time is paused.

use std::{
    collections::{HashMap, VecDeque},
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{FutureExt, future::join_all};
use http::{HeaderMap, Request, Response};
use http_body_util::{BodyExt, Full, StreamBody};
use proptest::prelude::*;
use tokio::time::{Instant, sleep, timeout};
use tonic::{Code, Status, body::Body};
use tower::{Layer, Service, ServiceBuilder, ServiceExt};
use tower_iroh_layers::{
    BoxError, Deadline, Fault, Idempotent, Incident, MethodConfig, Methods, Origin, Urgency,
    buffer::{
        Buffer, BufferConfig, BufferConfigBuilder, BufferError, BufferHandle, BufferLayer,
        BufferReason, BufferStats, Overflow, Served, WaitForReady,
    },
    deadline::header,
    fault::code_of,
};

const METHOD: &str = "/test.Store/Put";
const SECOND: Duration = Duration::from_secs(1);
const MILLI: Duration = Duration::from_millis(1);

/// How the peer takes one call.
#[derive(Clone, Copy, Debug)]
enum Way {
    Answer,
    AnswerAfter(Duration),
    /// A head that is trailers too, with UNAVAILABLE.
    SayNo,
    /// The call is taken and nothing comes.
    Hang,
    Refuse,
    RefuseAfter(Duration),
    Lose {
        processed: bool,
    },
    Panic,
    /// A layer below that will take it later.
    NotNow,
    /// The same, of calls whose id begins so; others are answered.
    NotNowFor(char),
    /// An endpoint of ours that is closed for good.
    Closed,
    /// A dial that was refused, by policy or otherwise.
    Undialled(Code),
    /// An error that knows no more than a code.
    Plain(Code),
}

#[derive(Default)]
struct Link {
    up: bool,
    wakers: Vec<Waker>,
    polls: u64,
    /// What was received, in order, by the call's id.
    receipts: Vec<String>,
    heads: Vec<HeaderMap>,
    ways: VecDeque<Way>,
    /// Set once there is no more in `ways`.
    then: Option<Way>,
}

/// A peer that is ready while its link is up. A clone is another handle and carries no readiness.
#[derive(Default)]
struct Peer {
    link: Arc<Mutex<Link>>,
    ready: bool,
}

impl Clone for Peer {
    fn clone(&self) -> Self {
        Self {
            link: self.link.clone(),
            ready: false,
        }
    }
}

impl Peer {
    fn set_up(&self, up: bool) {
        let mut link = self.link.lock().expect("lock");
        link.up = up;
        for waker in std::mem::take(&mut link.wakers) {
            waker.wake();
        }
    }

    fn receipts(&self) -> Vec<String> {
        self.link.lock().expect("lock").receipts.clone()
    }

    fn polls(&self) -> u64 {
        self.link.lock().expect("lock").polls
    }

    fn next(&self, ways: impl IntoIterator<Item = Way>) -> &Self {
        self.link.lock().expect("lock").ways.extend(ways);
        self
    }

    fn always(&self, way: Way) -> &Self {
        self.link.lock().expect("lock").then = Some(way);
        self
    }
}

impl Service<Request<Body>> for Peer {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        let mut link = self.link.lock().expect("lock");
        link.polls += 1;
        if link.up {
            self.ready = true;
            return Poll::Ready(Ok(()));
        }
        link.wakers.push(cx.waker().clone());
        Poll::Pending
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        assert!(std::mem::take(&mut self.ready), "called without readiness");
        let link = self.link.clone();
        Box::pin(async move {
            let id = id_of(&request);
            let way = {
                let mut link = link.lock().expect("lock");
                let way = link.ways.pop_front().or(link.then);
                way.unwrap_or(Way::Answer)
            };
            let head = request.headers().clone();
            let receive = || {
                let mut link = link.lock().expect("lock");
                link.receipts.push(id.clone());
                link.heads.push(head);
            };
            match way {
                Way::Answer => receive(),
                Way::AnswerAfter(time) => {
                    receive();
                    sleep(time).await;
                }
                Way::SayNo => {
                    receive();
                    return Ok(Status::unavailable("says the peer").into_http());
                }
                Way::Hang => {
                    receive();
                    std::future::pending::<()>().await;
                }
                Way::Panic => panic!("as asked"),
                Way::RefuseAfter(time) => {
                    sleep(time).await;
                    return Err(fault(Origin::Refused, true).into());
                }
                Way::Refuse => return Err(fault(Origin::Refused, true).into()),
                Way::Lose { processed } => {
                    if processed {
                        receive();
                    }
                    return Err(fault(Origin::Link(Incident::new()), !processed).into());
                }
                Way::NotNowFor(x) if !id.starts_with(x) => receive(),
                Way::NotNow | Way::NotNowFor(_) => {
                    return Err(fault(Origin::Ours, true).temporary().into());
                }
                Way::Closed => return Err(fault(Origin::Ours, true).into()),
                Way::Undialled(code) => {
                    let origin = Origin::Link(Incident::new());
                    return Err(Fault::unsent(origin, Status::new(code, "not you")).into());
                }
                Way::Plain(code) => {
                    receive();
                    return Err(Status::new(code, "plain").into());
                }
            }
            Ok(Response::new(request.into_body()))
        })
    }
}

fn fault(origin: Origin, unsent: bool) -> Fault {
    let status = Status::unavailable("no link");
    match unsent {
        true => Fault::unsent(origin, status),
        false => Fault::perhaps_sent(origin, status),
    }
}

fn id_of(request: &Request<Body>) -> String {
    let id = request.headers().get("id").map(|id| id.to_str());
    id.expect("an id").expect("text").to_owned()
}

fn request(id: impl ToString, bytes: usize) -> Request<Body> {
    Request::post(METHOD)
        .header("id", id.to_string())
        .body(Body::new(Full::new(Bytes::from(vec![7; bytes]))))
        .expect("a request")
}

fn urgent(id: impl ToString, urgency: u8) -> Request<Body> {
    let mut request = request(id, 1);
    let urgency = Urgency::new(urgency).expect("in range");
    request.extensions_mut().insert(urgency);
    request
}

fn config() -> BufferConfigBuilder {
    BufferConfig::builder()
}

/// A layer that serves [`METHOD`].
fn serving(config: BufferConfig, method: MethodConfig) -> BufferLayer {
    let methods = Methods::builder().method(METHOD, method.wait_for_ready(true));
    BufferLayer::new(config).methods(methods.build().expect("a table"))
}

fn over<S: Served>(config: BufferConfig, method: MethodConfig, inner: S) -> Buffer<S> {
    serving(config, method).layer(inner)
}

fn buffer(config: BufferConfigBuilder) -> (Peer, Buffer<Peer>, BufferHandle) {
    buffer_of(config, MethodConfig::new())
}

fn buffer_of(
    config: BufferConfigBuilder,
    method: MethodConfig,
) -> (Peer, Buffer<Peer>, BufferHandle) {
    let peer = Peer::default();
    let config = config.build().expect("a configuration");
    let buffer = over(config, method, peer.clone());
    let handle = buffer.handle();
    (peer, buffer, handle)
}

fn idempotent() -> MethodConfig {
    MethodConfig::new().idempotent(true)
}

type Call = Pin<Box<dyn Future<Output = Result<Response<Body>, BoxError>> + Send>>;

/// A call that has been polled once.
async fn begun(buffer: &Buffer<Peer>, request: Request<Body>) -> Call {
    let mut call: Call = Box::pin(buffer.clone().oneshot(request));
    let first = std::future::poll_fn(|cx| Poll::Ready(call.as_mut().poll(cx))).await;
    match first {
        Poll::Ready(result) => Box::pin(std::future::ready(result)),
        Poll::Pending => call,
    }
}

fn reason(error: &BoxError) -> BufferReason {
    let error = error.downcast_ref::<BufferError>();
    error.expect("an error of the buffer").reason().clone()
}

fn sum(stats: &BufferStats) -> u64 {
    stats.delivered
        + stats.failed
        + stats.expired
        + stats.dropped
        + stats.cancelled
        + stats.in_flight
        + stats.waiting as u64
}

/// Nothing waits or flies, the sum holds, and no task of the buffer is left.
async fn at_rest(handle: &BufferHandle) -> BufferStats {
    sleep(2 * SECOND).await;
    let stats = handle.stats();
    assert_eq!(sum(&stats), stats.accepted, "{stats:?}");
    assert_eq!((stats.waiting, stats.in_flight, stats.bytes), (0, 0, 0));
    let tasks = tokio::runtime::Handle::current()
        .metrics()
        .num_alive_tasks();
    assert_eq!(tasks, 0, "no driver without callers");
    stats
}

#[tokio::test(start_paused = true)]
async fn a_ready_peer_is_called_straight() {
    let (peer, buffer, handle) = buffer(config());
    peer.set_up(true);
    let call = begun(&buffer, request("a", 3)).await;
    let response = call.now_or_never().expect("at once").expect("answered");
    let body = response.into_body().collect().await.expect("a body");
    assert_eq!(body.to_bytes().len(), 3);
    let stats = at_rest(&handle).await;
    assert_eq!((stats.accepted, stats.delivered, stats.attempts), (1, 1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_call_waits_for_the_peer_and_gets_the_real_answer() {
    let (peer, buffer, handle) = buffer(config());
    let call = begun(&buffer, request("a", 3)).await;
    sleep(100 * SECOND).await;
    let stats = handle.stats();
    assert_eq!((stats.waiting, stats.bytes), (1, 3));
    assert_eq!(stats.oldest, Some(100 * SECOND));
    assert!(
        peer.polls() < 60,
        "{} polls: sweeps, and no spinning",
        peer.polls()
    );
    peer.set_up(true);
    let response = call.await.expect("answered");
    let body = response.into_body().collect().await.expect("a body");
    assert_eq!(body.to_bytes().as_ref(), [7; 3]);
    assert_eq!(at_rest(&handle).await.delivered, 1);
}

#[tokio::test(start_paused = true)]
async fn each_call_is_received_once_while_the_peer_comes_and_goes() {
    let (peer, buffer, handle) = buffer(config());
    let ways = (0..400).map(|n| match n % 7 {
        0 | 3 => Way::Lose { processed: false },
        1 => Way::Refuse,
        5 => Way::AnswerAfter(30 * MILLI),
        _ => Way::Answer,
    });
    peer.next(ways);
    let coming_and_going = async {
        for n in 0u32.. {
            peer.set_up(n % 2 == 1);
            sleep(MILLI * (40 + n * 13 % 50)).await;
        }
    };
    let calls = join_all((0..600).map(|n| {
        let service = buffer.clone();
        async move {
            sleep(MILLI * (n * 7 % 2_000)).await;
            service.oneshot(request(n, 10)).await.map(|_| ())
        }
    }));
    let results = tokio::select! {
        results = calls => results,
        () = coming_and_going => unreachable!(),
    };
    assert!(results.iter().all(Result::is_ok));
    let mut times = HashMap::new();
    for id in peer.receipts() {
        *times.entry(id).or_insert(0) += 1;
    }
    assert_eq!(times.len(), 600);
    assert!(times.values().all(|&times| times == 1));
    let stats = at_rest(&handle).await;
    assert_eq!((stats.accepted, stats.delivered), (600, 600));
    assert!(stats.attempts > 600, "some came back");
}

/// The same by the real clock, with callers, peer and driver on threads of their own.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn threads_change_nothing() {
    let (peer, buffer, handle) = buffer(config().max_calls(5_000));
    let ways = (0..600).map(|n| match n % 50 {
        0 => Way::Lose { processed: false },
        1 => Way::RefuseAfter(MILLI),
        _ => Way::Answer,
    });
    peer.next(ways);
    let calls: Vec<_> = (0..3_000u64)
        .map(|n| {
            let service = buffer.clone();
            tokio::spawn(async move {
                sleep(MILLI * (n % 37) as u32).await;
                let call = service.oneshot(request(n, 10));
                match n % 5 {
                    0 => timeout(MILLI * (n % 11) as u32, call)
                        .await
                        .map_or(Ok(false), |answer| answer.map(|_| true)),
                    _ => call.await.map(|_| true),
                }
            })
        })
        .collect();
    for n in 0..12 {
        peer.set_up(n % 3 != 0);
        let stats = handle.stats();
        assert_eq!(sum(&stats), stats.accepted, "{stats:?}");
        sleep(5 * MILLI).await;
    }
    peer.set_up(true);
    let all = timeout(20 * SECOND, join_all(calls)).await;
    let answered = all
        .expect("nobody is stranded")
        .into_iter()
        .filter(|result| matches!(result, Ok(Ok(true))))
        .count();
    assert!(answered >= 2_400, "{answered}");
    let mut receipts = peer.receipts();
    let received = receipts.len();
    assert!(received >= answered);
    receipts.sort();
    receipts.dedup();
    assert_eq!(receipts.len(), received, "a call was received twice");
    let rest = async {
        while handle.stats().in_flight + handle.stats().waiting as u64 > 0 {
            sleep(MILLI).await;
        }
    };
    timeout(SECOND, rest).await.expect("nothing is left behind");
    let stats = handle.stats();
    assert_eq!((sum(&stats), stats.bytes), (stats.accepted, 0));
    assert!(stats.delivered >= answered as u64);
}

#[tokio::test(start_paused = true)]
async fn the_order_is_urgency_then_arrival() {
    let (peer, buffer, handle) = buffer(config());
    let mut calls = Vec::new();
    for (id, urgency) in [("a", 6), ("b", 3), ("c", 1), ("d", 3), ("e", 6), ("f", 0)] {
        calls.push(begun(&buffer, urgent(id, urgency)).await);
    }
    peer.set_up(true);
    join_all(calls).await;
    assert_eq!(peer.receipts(), ["f", "c", "b", "d", "a", "e"]);
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn an_abandoned_head_stalls_nobody() {
    // Dropped, or alive and never polled again: while it waits, and after it was handed over.
    for way in [Way::Answer, Way::Hang, Way::Refuse] {
        let (peer, buffer, handle) = buffer(config());
        peer.next([way]);
        let dropped = begun(&buffer, urgent("dropped", 0)).await;
        let idle = begun(&buffer, urgent("idle", 1)).await;
        let others = join_all([
            begun(&buffer, urgent("x", 3)).await,
            begun(&buffer, urgent("y", 3)).await,
        ]);
        drop(dropped);
        assert_eq!(handle.stats().waiting, 3, "left at once");
        peer.set_up(true);
        let results = timeout(5 * SECOND, others).await.expect("not stalled");
        assert!(results.iter().all(Result::is_ok));
        assert!(!peer.receipts().contains(&"dropped".to_owned()));
        drop(idle);
        assert_eq!(at_rest(&handle).await.accepted, 4);
    }
}

/// A service with room for one call at a time, below the buffer.
#[tokio::test(start_paused = true)]
async fn a_caller_who_does_not_poll_holds_no_permit_below() {
    let peer = Peer::default();
    let inner = ServiceBuilder::new()
        .concurrency_limit(1)
        .service(peer.clone());
    let config = config().build().expect("a configuration");
    let buffer = over(config, MethodConfig::new(), inner);
    let mut idle = Box::pin(buffer.clone().oneshot(request("idle", 1)));
    assert!(idle.as_mut().now_or_never().is_none());
    let other = tokio::spawn(buffer.clone().oneshot(request("other", 1)));
    tokio::task::yield_now().await;
    peer.set_up(true);
    let other = timeout(SECOND, other).await.expect("not stalled");
    other.expect("joined").expect("answered");
    assert_eq!(peer.receipts(), ["idle", "other"]);
    assert!(idle.await.is_ok(), "its answer was kept");
}

#[tokio::test(start_paused = true)]
async fn the_driver_keeps_no_permit_while_it_pauses() {
    let peer = Peer::default();
    peer.set_up(true);
    peer.next([Way::RefuseAfter(50 * MILLI)]);
    let inner = ServiceBuilder::new()
        .concurrency_limit(1)
        .service(peer.clone());
    let config = config().build().expect("a configuration");
    let buffer = over(config, MethodConfig::new(), inner);
    // The first has the only permit and is refused; the driver, which waits for the permit for the second, has to wait then.
    let first = tokio::spawn(buffer.clone().oneshot(request("first", 1)));
    tokio::task::yield_now().await;
    let second = tokio::spawn(buffer.clone().oneshot(request("second", 1)));
    sleep(51 * MILLI).await;
    let mut other = request("other", 1);
    *other.uri_mut() = "/test.Store/Get".parse().expect("a path");
    let other = timeout(5 * MILLI, buffer.oneshot(other)).await;
    other.expect("nobody uses the permit").expect("answered");
    assert!(first.await.expect("joined").is_ok() && second.await.expect("joined").is_ok());
    assert_eq!(peer.receipts(), ["other", "first", "second"]);
}

#[tokio::test(start_paused = true)]
async fn overflow_lets_go_whom_the_policy_says() {
    let cases = [
        (Overflow::RejectNewest, "new"),
        (Overflow::DropOldest, "first"),
        (Overflow::DropLowest, "bulk"),
    ];
    for (policy, loser) in cases {
        let (peer, buffer, handle) = buffer(config().max_calls(3).overflow(policy));
        let mut calls = Vec::new();
        for (id, urgency) in [("first", 1), ("bulk", 6), ("third", 3), ("new", 3)] {
            calls.push((id, begun(&buffer, urgent(id, urgency)).await));
        }
        peer.set_up(true);
        for (id, call) in calls {
            match call.await {
                Ok(_) => assert_ne!(id, loser, "{policy:?}"),
                Err(error) => {
                    assert_eq!(id, loser, "{policy:?}");
                    assert_eq!(code_of(&*error), Code::ResourceExhausted);
                    let fault = Fault::find(&*error).expect("a fault");
                    assert!(fault.origin() == Origin::Ours && fault.not_processed());
                    match reason(&error) {
                        BufferReason::TooManyCalls { limit: 3 } => assert_eq!(loser, "new"),
                        BufferReason::Displaced { .. } => assert_ne!(loser, "new"),
                        other => panic!("{other:?}"),
                    }
                }
            }
        }
        let stats = at_rest(&handle).await;
        assert_eq!(stats.dropped + stats.rejected, 1);
    }
}

#[tokio::test(start_paused = true)]
async fn bytes_are_bounded_and_freed_with_the_caller() {
    let (peer, buffer, handle) = buffer(config().max_bytes(100));
    let first = begun(&buffer, request("a", 60)).await;
    let _second = begun(&buffer, request("b", 40)).await;
    let error = begun(&buffer, request("c", 1))
        .await
        .await
        .expect_err("full");
    assert_eq!(reason(&error), BufferReason::TooManyBytes { limit: 100 });
    drop(first);
    assert_eq!(handle.stats().bytes, 40, "freed at once");
    let error = begun(&buffer, request("d", 101)).await.await;
    let error = error.expect_err("too large");
    assert_eq!(
        reason(&error),
        BufferReason::TooLarge {
            bytes: 101,
            limit: 100
        }
    );
    assert_eq!(code_of(&*error), Code::ResourceExhausted);
    // One that need not wait is not held, so its size does not matter.
    drop(_second);
    peer.set_up(true);
    assert!(begun(&buffer, request("e", 101)).await.await.is_ok());
    at_rest(&handle).await;
}

/// Nothing is known of the peer yet, so all go straight; then none gets through.
#[tokio::test(start_paused = true)]
async fn what_is_held_is_bounded_while_it_is_in_flight() {
    for (limit, full) in [
        (
            config().max_calls(10),
            BufferReason::TooManyCalls { limit: 10 },
        ),
        (
            config().max_bytes(75),
            BufferReason::TooManyBytes { limit: 75 },
        ),
    ] {
        let (peer, buffer, handle) = buffer(limit);
        peer.set_up(true);
        peer.always(Way::RefuseAfter(100 * MILLI));
        let mut calls = Vec::new();
        for n in 0..25 {
            calls.push(tokio::spawn(begun(&buffer, request(n, 7)).await));
        }
        assert_eq!(handle.stats().in_flight, 25, "none is refused");
        sleep(105 * MILLI).await;
        let stats = handle.stats();
        assert_eq!((stats.waiting, stats.failed), (10, 15));
        // All the room is taken by those who came back.
        let error = begun(&buffer, request("late", 7)).await.await;
        assert_eq!(reason(&error.expect_err("full")), full);
        peer.always(Way::Answer);
        for (n, call) in calls.into_iter().enumerate() {
            let result = call.await.expect("joined");
            if n < 10 {
                result.expect("answered");
                continue;
            }
            let error = result.expect_err("not held");
            assert_eq!(reason(&error), full);
            assert_eq!(code_of(&*error), Code::ResourceExhausted);
            let fault = Fault::find(&*error).expect("a fault");
            let told = fault.status().message();
            assert!(
                fault.not_processed() && told.ends_with("attempts: 1, the last one: no link"),
                "{told}"
            );
        }
        assert_eq!(peer.receipts().len(), 10);
        let stats = at_rest(&handle).await;
        assert_eq!((stats.accepted, stats.rejected), (25, 1));
    }
}

/// Those whom the driver sent count too, and what they leave is free again.
#[tokio::test(start_paused = true)]
async fn calls_that_waited_keep_their_room_until_they_are_answered() {
    let (peer, buffer, handle) = buffer(config().max_calls(3));
    peer.always(Way::AnswerAfter(SECOND));
    let mut calls = Vec::new();
    for n in 0..3 {
        calls.push(tokio::spawn(begun(&buffer, request(n, 1)).await));
    }
    peer.set_up(true);
    sleep(100 * MILLI).await;
    assert_eq!((handle.stats().waiting, handle.stats().in_flight), (0, 3));
    peer.set_up(false);
    let error = begun(&buffer, request("late", 1)).await.await;
    let full = BufferReason::TooManyCalls { limit: 3 };
    assert_eq!(reason(&error.expect_err("no room to wait")), full);
    for call in calls {
        call.await.expect("joined").expect("answered");
    }
    let waits = begun(&buffer, request("later", 1)).await;
    assert_eq!(handle.stats().waiting, 1);
    peer.set_up(true);
    waits.await.expect("answered");
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn a_ready_peer_s_calls_are_not_refused_however_many() {
    let (peer, buffer, handle) = buffer(config().max_calls(2).max_bytes(10));
    peer.set_up(true);
    peer.always(Way::AnswerAfter(SECOND));
    let calls = (0..100).map(|n| buffer.clone().oneshot(request(n, n)));
    for result in join_all(calls).await {
        result.expect("answered");
    }
    assert_eq!(at_rest(&handle).await.delivered, 100);
}

/// A transport that has sent a request has let go of it.
#[tokio::test(start_paused = true)]
async fn no_copy_is_kept_beyond_the_limits() {
    let inner = tower::service_fn(|request: Request<Body>| async move {
        drop(request);
        std::future::pending::<Result<Response<Body>, BoxError>>().await
    });
    let config = config().max_calls(2).build().expect("a configuration");
    let buffer = over(config, MethodConfig::new(), inner);
    let witnesses = [(); 4].map(|()| Arc::new(()));
    let mut calls = Vec::new();
    for witness in &witnesses {
        let mut request = request("a", 1);
        request.extensions_mut().insert(witness.clone());
        let mut call = Box::pin(buffer.clone().oneshot(request));
        assert!(call.as_mut().now_or_never().is_none());
        calls.push(call);
    }
    let kept = || witnesses.each_ref().map(|one| Arc::strong_count(one) > 1);
    assert_eq!(kept(), [true, true, false, false]);
    drop(calls);
    assert_eq!(kept(), [false; 4]);
    assert_eq!(buffer.handle().stats().cancelled, 4);
}

#[tokio::test(start_paused = true)]
async fn who_comes_back_too_late_is_told_which_time_it_was() {
    for waits in [false, true] {
        let (peer, buffer, handle) = buffer(config().ttl(10 * SECOND));
        peer.set_up(!waits);
        peer.next([Way::RefuseAfter(11 * SECOND); 2]);
        let mut hurried = request("a", 1);
        let deadline = Deadline::after(SECOND);
        hurried.extensions_mut().insert(deadline);
        let calls = [
            begun(&buffer, request("b", 1)).await,
            begun(&buffer, hurried).await,
        ];
        peer.set_up(true);
        let [ttl, late] = join_all(calls).await.try_into().expect("two");
        let (ttl, late) = (ttl.expect_err("expired"), late.expect_err("late"));
        let waited = 11 * SECOND;
        let limit = 10 * SECOND;
        assert!(
            matches!(reason(&ttl), BufferReason::Expired { waited: w, ttl } if w >= waited && ttl == limit)
        );
        assert!(matches!(reason(&late), BufferReason::DeadlinePassed { waited: w } if w >= waited));
        let codes = [&ttl, &late].map(|error| code_of(&**error));
        assert_eq!(codes, [Code::Unavailable, Code::DeadlineExceeded]);
        for error in [ttl, late] {
            let fault = Fault::find(&*error).expect("a fault");
            assert!(fault.status().message().contains("no link"), "{fault:?}");
        }
        assert_eq!(at_rest(&handle).await.expired, 2);
    }
}

/// A body that tells when it is freed.
#[tokio::test(start_paused = true)]
async fn a_caller_who_leaves_takes_the_call_along() {
    let (_peer, buffer, _handle) = buffer(config());
    let witness = Arc::new(());
    let mut one = request("a", 1);
    one.extensions_mut().insert(witness.clone());
    let call = begun(&buffer, one).await;
    assert!(Arc::strong_count(&witness) > 1);
    drop(call);
    assert_eq!(Arc::strong_count(&witness), 1);
}

#[tokio::test(start_paused = true)]
async fn time_to_live_is_kept_by_the_sweep() {
    let (_peer, buffer, handle) = buffer(config());
    let start = Instant::now();
    let error = begun(&buffer, request("a", 1)).await.await;
    let error = error.expect_err("expired");
    let waited = start.elapsed();
    assert!(
        (300 * SECOND..=305 * SECOND).contains(&waited),
        "{waited:?}"
    );
    assert_eq!(code_of(&*error), Code::Unavailable);
    assert!(error.to_string().contains("TTL 300 s"), "{error}");
    assert!(matches!(reason(&error), BufferReason::Expired { .. }));
    assert_eq!(at_rest(&handle).await.expired, 1);
}

#[tokio::test(start_paused = true)]
async fn a_deadline_ends_a_wait_to_the_millisecond() {
    let (_peer, buffer, handle) = buffer(config());
    let patient = begun(&buffer, request("patient", 1)).await;
    // The driver sleeps until its sweep by now.
    sleep(MILLI).await;
    // In the extensions, and in the header.
    let mut extension = request("a", 1);
    extension
        .extensions_mut()
        .insert(Deadline::after(1_200 * MILLI));
    let mut in_header = request("b", 1);
    header::write(in_header.headers_mut(), 700 * MILLI);
    let start = Instant::now();
    let calls = [
        (1_200 * MILLI, begun(&buffer, extension).await),
        (700 * MILLI, begun(&buffer, in_header).await),
    ];
    let ends = join_all(calls.map(|(after, call)| async move {
        let error = call.await.expect_err("too late");
        let late = start.elapsed().saturating_sub(after);
        assert!(late <= 2 * MILLI, "{late:?}");
        error
    }));
    for error in ends.await {
        assert_eq!(code_of(&*error), Code::DeadlineExceeded);
        assert!(matches!(
            reason(&error),
            BufferReason::DeadlinePassed { .. }
        ));
    }
    drop(patient);
    assert_eq!(at_rest(&handle).await.expired, 2);
}

#[tokio::test(start_paused = true)]
async fn the_peer_is_told_what_is_left_of_the_deadline() {
    let (peer, buffer, _handle) = buffer(config());
    let mut request = request("a", 1);
    header::write(request.headers_mut(), 10 * SECOND);
    let call = begun(&buffer, request).await;
    sleep(4 * SECOND).await;
    peer.set_up(true);
    call.await.expect("answered");
    let heads = peer.link.lock().expect("lock").heads.clone();
    let left = header::read(&heads[0]).expect("a timeout");
    assert!(left <= 6 * SECOND && left > 5_900 * MILLI, "{left:?}");
}

#[tokio::test(start_paused = true)]
async fn others_pass_by() {
    let (peer, buffer, handle) = buffer(config());
    let waits = begun(&buffer, request("waits", 1)).await;
    let mut other = request("other", 1);
    *other.uri_mut() = "/test.Store/Get".parse().expect("a path");
    let mut marked = request("marked", 1);
    *marked.uri_mut() = "/test.Store/Get".parse().expect("a path");
    marked.extensions_mut().insert(WaitForReady);
    let other = begun(&buffer, other).await;
    let marked = begun(&buffer, marked).await;
    assert_eq!(handle.stats().waiting, 2, "the listed and the marked one");
    peer.set_up(true);
    other.await.expect("answered");
    waits.await.expect("answered");
    marked.await.expect("answered");
    assert_eq!(at_rest(&handle).await.accepted, 2);
}

#[tokio::test(start_paused = true)]
async fn those_who_pass_by_may_have_a_way_of_their_own() {
    #[derive(Clone)]
    struct No<S>(S);
    impl<S: Service<Request<Body>, Response = Response<Body>>> Service<Request<Body>> for No<S> {
        type Response = Response<Body>;
        type Error = BoxError;
        type Future = std::future::Ready<Result<Response<Body>, BoxError>>;
        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
            Poll::Ready(Ok(()))
        }
        fn call(&mut self, _: Request<Body>) -> Self::Future {
            std::future::ready(Err(Status::unavailable("fails fast").into()))
        }
    }
    let peer = Peer::default();
    let config = config().build().expect("a configuration");
    let layer = serving(config, MethodConfig::new()).passing(tower::layer::layer_fn(No));
    let buffer = layer.layer(peer.clone());
    let waits = tokio::spawn(buffer.clone().oneshot(request("waits", 1)));
    let mut other = request("other", 1);
    *other.uri_mut() = "/test.Store/Get".parse().expect("a path");
    let error = buffer.clone().oneshot(other).await.expect_err("at once");
    assert_eq!(code_of(&*error), Code::Unavailable);
    peer.set_up(true);
    assert!(waits.await.expect("joined").is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_streaming_body_goes_straight_through() {
    let (peer, buffer, handle) = buffer(config());
    let (frames, stream) = tokio::sync::mpsc::channel(4);
    let body = StreamBody::new(tokio_stream::wrappers::ReceiverStream::new(stream));
    let mut streaming = request("stream", 0);
    *streaming.body_mut() = Body::new(body);
    let frame = |text: &'static str| {
        Ok::<_, Status>(http_body::Frame::data(Bytes::from_static(text.as_bytes())))
    };
    frames.send(frame("a")).await.expect("room");
    let call = begun(&buffer, streaming).await;
    assert_eq!(handle.stats().accepted, 0);
    peer.set_up(true);
    frames.send(frame("b")).await.expect("room");
    drop(frames);
    let response = call.await.expect("answered");
    let body = response.into_body().collect().await.expect("a body");
    assert_eq!(body.to_bytes(), "ab", "whole and in order");
}

#[tokio::test(start_paused = true)]
async fn an_empty_body_is_held_like_any_other() {
    let (peer, buffer, handle) = buffer(config());
    let mut empty = request("empty", 0);
    *empty.body_mut() = Body::empty();
    let call = begun(&buffer, empty).await;
    assert_eq!(handle.stats().waiting, 1);
    peer.set_up(true);
    call.await.expect("answered");
}

#[tokio::test(start_paused = true)]
async fn what_the_peer_answers_is_delivered_and_not_sent_again() {
    for waits in [false, true] {
        let (peer, buffer, handle) = buffer(config());
        peer.set_up(!waits);
        peer.next([Way::SayNo, Way::Plain(Code::Internal)]);
        peer.next([Way::Lose { processed: true }]);
        let mut calls = Vec::new();
        for id in ["answer", "error", "lost"] {
            calls.push(begun(&buffer, request(id, 1)).await);
        }
        peer.set_up(true);
        let mut results = join_all(calls).await.into_iter();
        let answer = results.next().expect("three").expect("a head");
        assert_eq!(answer.headers()["grpc-status"], "14");
        let codes: Vec<_> = results
            .map(|result| code_of(&*result.expect_err("an error")))
            .collect();
        assert_eq!(codes, [Code::Internal, Code::Unavailable]);
        assert_eq!(peer.receipts(), ["answer", "error", "lost"]);
        let stats = at_rest(&handle).await;
        assert_eq!((stats.failed, stats.attempts), (3, 3));
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_not_sent_is_sent_again_and_what_is_idempotent_too() {
    let unsent = [Way::Refuse, Way::Lose { processed: false }, Way::NotNow];
    let perhaps = [
        Way::Lose { processed: true },
        Way::Plain(Code::Unavailable),
        Way::Plain(Code::Unknown),
    ];
    for waits in [false, true] {
        let (peer, buffer, handle) = buffer(config());
        peer.set_up(!waits);
        peer.next(unsent);
        let call = begun(&buffer, request("a", 1)).await;
        peer.set_up(true);
        call.await.expect("answered");
        assert_eq!(peer.receipts(), ["a"]);
        assert_eq!(at_rest(&handle).await.attempts, 4);
    }
    // By the list, and by the call's own word.
    for listed in [true, false] {
        let (peer, buffer, handle) = buffer_of(config(), MethodConfig::new().idempotent(listed));
        peer.set_up(true);
        peer.next(perhaps);
        let mut call = request("a", 1);
        if !listed {
            call.extensions_mut().insert(Idempotent);
        }
        begun(&buffer, call).await.await.expect("answered");
        assert_eq!(peer.receipts(), ["a"; 4]);
        assert_eq!(at_rest(&handle).await.attempts, 4);
    }
}

/// Idempotent or not: it would wait out its whole time for nothing.
#[tokio::test(start_paused = true)]
async fn what_time_does_not_mend_is_delivered_at_once() {
    for waits in [false, true] {
        for method in [MethodConfig::new(), idempotent()] {
            let (peer, buffer, handle) = buffer_of(config(), method);
            peer.set_up(!waits);
            peer.next([
                Way::Undialled(Code::PermissionDenied),
                Way::Undialled(Code::Unauthenticated),
                Way::Closed,
            ]);
            let mut codes = Vec::new();
            for id in ["stranger", "nobody", "closed"] {
                let call = begun(&buffer, request(id, 1)).await;
                peer.set_up(true);
                let error = call.await.expect_err("at once");
                assert!(error.is::<Fault>(), "as it came: {error:?}");
                codes.push(code_of(&*error));
                peer.set_up(!waits);
            }
            assert_eq!(
                codes,
                [
                    Code::PermissionDenied,
                    Code::Unauthenticated,
                    Code::Unavailable
                ]
            );
            let stats = at_rest(&handle).await;
            assert_eq!((stats.failed, stats.attempts), (3, 3));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_may_have_arrived_is_never_said_to_be_unsent() {
    let (peer, buffer, _handle) = buffer_of(config(), idempotent());
    peer.set_up(true);
    peer.always(Way::Lose { processed: true });
    let error = begun(&buffer, request("a", 1)).await.await;
    let error = error.expect_err("expired");
    let fault = Fault::find(&*error).expect("a fault");
    assert!(!fault.not_processed());
    assert!(fault.status().message().contains("no link"), "{fault:?}");
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_always_refuses_is_not_spun_on() {
    let (peer, buffer, handle) = buffer(config());
    peer.set_up(true);
    peer.always(Way::Refuse);
    let calls: Vec<_> = join_all((0..50).map(|n| begun(&buffer, request(n, 1)))).await;
    sleep(100 * SECOND).await;
    let attempts = handle.stats().attempts;
    assert!((100..170).contains(&attempts), "{attempts}");
    // The first that gets through opens the way for all.
    peer.always(Way::Answer);
    let start = Instant::now();
    for result in join_all(calls).await {
        result.expect("answered");
    }
    assert!(start.elapsed() <= SECOND);
    // In the order of their arrival still.
    let expected: Vec<_> = (0..50).map(|n| n.to_string()).collect();
    assert_eq!(peer.receipts(), expected);
    at_rest(&handle).await;
}

/// As with two transports, one of them away: a selection below rejects the calls that may not go over the other one.
#[tokio::test(start_paused = true)]
async fn a_call_that_this_side_rejects_holds_up_no_other() {
    for waits in [false, true] {
        let (peer, buffer, handle) = buffer(config());
        peer.set_up(!waits);
        peer.always(Way::NotNowFor('x'));
        let stuck = [
            begun(&buffer, urgent("x1", 0)).await,
            begun(&buffer, urgent("x2", 3)).await,
        ];
        let stuck = tokio::spawn(join_all(stuck));
        let behind = begun(&buffer, urgent("behind", 3)).await;
        let start = Instant::now();
        peer.set_up(true);
        behind.await.expect("not held up by those that cannot go");
        assert_eq!(start.elapsed(), Duration::ZERO);
        // A new call need not even wait.
        sleep(10 * SECOND + MILLI).await;
        let new = begun(&buffer, urgent("new", 7)).await.now_or_never();
        new.expect("straight").expect("answered");
        assert_eq!(handle.stats().waiting, 2);
        let attempts = handle.stats().attempts;
        assert!((20..45).contains(&attempts), "no spinning: {attempts}");
        // What may go now goes within a second.
        peer.always(Way::Answer);
        let start = Instant::now();
        for result in stuck.await.expect("joined") {
            result.expect("answered");
        }
        assert!(start.elapsed() <= SECOND);
        at_rest(&handle).await;
    }
}

/// The peer is away, and one that cannot go has its turn to find out whether it is back.
#[tokio::test(start_paused = true)]
async fn a_rejection_on_this_side_slows_no_pace() {
    let (peer, buffer, handle) = buffer(config());
    peer.next([Way::Refuse; 8]);
    peer.always(Way::NotNowFor('x'));
    let calls = join_all([
        begun(&buffer, urgent("x", 3)).await,
        begun(&buffer, urgent("a", 3)).await,
    ]);
    let calls = tokio::spawn(calls);
    peer.set_up(true);
    // Eight refusals of the first, at a pace of a second by now; the ninth attempt is rejected.
    while handle.stats().attempts < 9 {
        sleep(MILLI).await;
    }
    sleep(10 * MILLI).await;
    assert_eq!(peer.receipts(), ["a"], "the next found out, and at once");
    handle.clear("the end");
    let results = calls.await.expect("joined");
    assert!(results[0].is_err() && results[1].is_ok());
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn attempts_that_may_have_arrived_are_capped() {
    for (config, limit) in [(config(), 5), (config().max_attempts(2), 2)] {
        for waits in [false, true] {
            let (peer, buffer, handle) = buffer_of(config.clone(), idempotent());
            peer.set_up(!waits);
            // What provably did not arrive is not counted.
            peer.next([Way::Refuse, Way::NotNow, Way::Lose { processed: false }]);
            peer.always(Way::Lose { processed: true });
            let call = begun(&buffer, request("poison", 1)).await;
            peer.set_up(true);
            let error = timeout(20 * SECOND, call).await.expect("not for its TTL");
            let error = error.expect_err("given up");
            assert_eq!(reason(&error), BufferReason::Attempts { limit });
            assert_eq!(code_of(&*error), Code::Unavailable);
            let fault = Fault::find(&*error).expect("a fault");
            assert!(!fault.not_processed());
            let told = fault.status().message();
            assert!(told.ends_with("the last one: no link"), "{told}");
            assert_eq!(peer.receipts().len(), limit as usize);
            assert_eq!(at_rest(&handle).await.failed, 1);
        }
    }
}

/// Nothing is sent while the service is not ready, however often its readiness fails.
#[tokio::test(start_paused = true)]
async fn a_readiness_that_fails_is_no_attempt_that_may_have_arrived() {
    #[derive(Clone)]
    struct Fails(Instant);
    impl Service<Request<Body>> for Fails {
        type Response = Response<Body>;
        type Error = BoxError;
        type Future = std::future::Ready<Result<Response<Body>, BoxError>>;
        fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
            Poll::Ready(if self.0 > Instant::now() {
                Err(Status::unavailable("not yet").into())
            } else {
                Ok(())
            })
        }
        fn call(&mut self, request: Request<Body>) -> Self::Future {
            std::future::ready(Ok(Response::new(request.into_body())))
        }
    }
    let config = config().build().expect("accepted");
    let fails = Fails(Instant::now() + 60 * SECOND);
    let buffer = over(config, idempotent(), fails);
    let answer = buffer.oneshot(request("a", 1)).await;
    answer.expect("answered when it was ready");
}

/// As a dial does: it fails later, and the wait for the next counts from then.
#[tokio::test(start_paused = true)]
async fn who_fails_later_is_followed_as_soon() {
    for waits in [false, true] {
        let (peer, buffer, handle) = buffer(config());
        peer.set_up(!waits);
        peer.next([Way::RefuseAfter(MILLI); 5]);
        let calls = join_all((0..3).map(|n| buffer.clone().oneshot(request(n, 1))));
        let calls = tokio::spawn(calls);
        tokio::task::yield_now().await;
        let start = Instant::now();
        peer.set_up(true);
        for result in calls.await.expect("joined") {
            result.expect("answered");
        }
        let took = start.elapsed();
        assert!(took < 400 * MILLI, "10, 20, 40, 80 and 160 ms: {took:?}");
        at_rest(&handle).await;
    }
}

#[tokio::test(start_paused = true)]
async fn flush_ends_a_wait_and_clear_ends_them_all() {
    let (peer, buffer, handle) = buffer(config());
    peer.set_up(true);
    peer.next([Way::Refuse; 10]);
    let call = begun(&buffer, request("a", 1)).await;
    let call = tokio::spawn(call);
    for _ in 0..10 {
        tokio::task::yield_now().await;
        handle.flush();
    }
    let start = Instant::now();
    while handle.stats().attempts < 11 {
        handle.flush();
        tokio::task::yield_now().await;
    }
    assert!(start.elapsed() < MILLI);
    call.await.expect("joined").expect("answered");

    peer.set_up(false);
    let call = begun(&buffer, request("b", 1)).await;
    assert_eq!(handle.clear("maintenance"), 1);
    let error = call.await.expect_err("cleared");
    assert_eq!(code_of(&*error), Code::Unavailable);
    assert!(error.to_string().contains("maintenance"));
    assert_eq!(at_rest(&handle).await.dropped, 1);
}

#[tokio::test(start_paused = true)]
async fn callers_outlive_the_service() {
    let (peer, buffer, handle) = buffer(config());
    let call = begun(&buffer, request("a", 1)).await;
    drop(buffer);
    sleep(SECOND).await;
    peer.set_up(true);
    call.await.expect("answered");
    at_rest(&handle).await;
}

#[test]
fn a_caller_learns_when_the_driver_s_runtime_has_ended() {
    let (_peer, buffer, handle) = buffer(config());
    let runtime = || {
        tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .build()
            .expect("a runtime")
    };
    let first = runtime();
    let call = first.block_on(begun(&buffer, request("a", 1)));
    first.block_on(tokio::task::yield_now());
    drop(first);
    let second = runtime();
    let error = second.block_on(call).expect_err("stranded");
    assert_eq!(reason(&error), BufferReason::Stopped);
    assert_eq!(handle.stats().dropped, 1);
    // The buffer works on, on the runtime of the next who waits.
    let call = second.block_on(begun(&buffer, request("b", 1)));
    assert_eq!(handle.stats().waiting, 1);
    drop((call, second));
    assert_eq!(handle.stats().waiting, 0);
    // Without any runtime there is nobody to deliver it, which is an answer and no panic.
    let call = buffer.oneshot(request("c", 1)).now_or_never();
    let error = call.expect("at once").expect_err("nobody there");
    assert_eq!(reason(&error), BufferReason::Stopped);
}

#[tokio::test(start_paused = true)]
async fn a_panic_below_is_told_to_all_who_wait() {
    let (peer, buffer, handle) = buffer(config());
    peer.next([Way::Panic]);
    let calls = [
        begun(&buffer, request("a", 1)).await,
        begun(&buffer, request("b", 1)).await,
    ];
    peer.set_up(true);
    let unsent = join_all(calls).await.into_iter().map(|result| {
        let error = result.expect_err("nobody delivers it");
        assert_eq!(reason(&error), BufferReason::Stopped);
        Fault::find(&*error).expect("a fault").not_processed()
    });
    assert_eq!(unsent.collect::<Vec<_>>(), [false, true]);
    begun(&buffer, request("c", 1))
        .await
        .await
        .expect("works on");
    at_rest(&handle).await;
}

#[tokio::test(start_paused = true)]
async fn the_code_survives_tower_s_buffer_and_boxes() {
    let (_peer, buffer, _handle) = buffer(config().max_calls(1));
    let _first = begun(&buffer, request("a", 1)).await;
    let boxed = tower::util::BoxService::new(tower::buffer::Buffer::new(buffer, 4));
    let error = boxed.oneshot(request("b", 1)).await.expect_err("full");
    assert_eq!(code_of(&*error), Code::ResourceExhausted);
    assert_eq!(Status::from_error(error).code(), Code::ResourceExhausted);
}

#[tokio::test(start_paused = true)]
async fn a_clone_carries_no_readiness() {
    // The peer asserts that each call was preceded by a readiness of the very handle that is called.
    let (peer, mut buffer, _handle) = buffer(config());
    peer.set_up(true);
    std::future::poll_fn(|cx| buffer.poll_ready(cx))
        .await
        .expect("always");
    let clone = buffer.clone();
    clone.oneshot(request("a", 1)).await.expect("answered");
    buffer.call(request("b", 1)).await.expect("answered");
}

#[tokio::test(start_paused = true)]
async fn sixty_idle_days() {
    let (peer, buffer, handle) = buffer(config());
    let call = begun(&buffer, request("a", 1)).await;
    peer.set_up(true);
    call.await.expect("answered");
    at_rest(&handle).await;
    let polls = peer.polls();
    tokio::time::advance(60 * 24 * 3600 * SECOND).await;
    assert_eq!(peer.polls(), polls);
    begun(&buffer, request("b", 1))
        .await
        .await
        .expect("answered");
    peer.set_up(false);
    let error = begun(&buffer, request("c", 1)).await.await;
    assert!(matches!(
        reason(&error.expect_err("expired")),
        BufferReason::Expired { .. }
    ));
    at_rest(&handle).await;
}

#[derive(Clone, Debug)]
enum Op {
    Call {
        urgency: u8,
        bytes: usize,
        deadline: Option<u64>,
    },
    Leave(prop::sample::Index),
    Pass(u64),
    Up(bool),
    Ways(Vec<u8>),
    Clear,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (0u8..8, 0usize..40, prop::option::of(1u64..20_000))
            .prop_map(|(urgency, bytes, deadline)| Op::Call { urgency, bytes, deadline }),
        2 => any::<prop::sample::Index>().prop_map(Op::Leave),
        4 => (0u64..6_000).prop_map(Op::Pass),
        3 => any::<bool>().prop_map(Op::Up),
        2 => prop::collection::vec(0u8..6, 1..4).prop_map(Op::Ways),
        1 => Just(Op::Clear),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    /// The sum at each step, one receipt at most for each call, one exactly for each answer, and nobody left behind.
    #[test]
    fn any_schedule_keeps_the_sum_and_loses_nobody(
        policy in prop_oneof![Just(Overflow::RejectNewest), Just(Overflow::DropOldest), Just(Overflow::DropLowest)],
        ops in prop::collection::vec(op(), 1..40),
    ) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let ttl = 30 * SECOND;
            let config = config().max_calls(6).max_bytes(100).ttl(ttl).overflow(policy);
            let (peer, buffer, handle) = buffer(config);
            let mut calls = Vec::new();
            let mut made = 0;
            for op in ops {
                match op {
                    Op::Call { urgency, bytes, deadline } => {
                        let mut request = request(made, bytes);
                        let urgency = Urgency::new(urgency).expect("in range");
                        request.extensions_mut().insert(urgency);
                        if let Some(millis) = deadline {
                            request.extensions_mut().insert(Deadline::after(Duration::from_millis(millis)));
                        }
                        let call = begun(&buffer, request).await;
                        calls.push((made, tokio::spawn(call)));
                        made += 1;
                    }
                    Op::Leave(index) if !calls.is_empty() => {
                        let (_, call) = calls.remove(index.index(calls.len()));
                        call.abort();
                    }
                    Op::Pass(millis) => sleep(Duration::from_millis(millis)).await,
                    Op::Up(up) => peer.set_up(up),
                    Op::Ways(ways) => {
                        peer.next(ways.into_iter().map(|way| match way {
                            0 => Way::Refuse,
                            1 => Way::Lose { processed: false },
                            2 => Way::Lose { processed: true },
                            3 => Way::AnswerAfter(500 * MILLI),
                            4 => Way::NotNow,
                            _ => Way::Answer,
                        }));
                    }
                    Op::Clear => {
                        handle.clear("test");
                    }
                    Op::Leave(_) => {}
                }
                let stats = handle.stats();
                prop_assert_eq!(sum(&stats), stats.accepted, "{:?}", stats);
                prop_assert!(stats.waiting <= 6 && stats.bytes <= 100);
            }
            let all = async {
                let mut answered = Vec::new();
                for (id, call) in calls {
                    match call.await.expect("joined") {
                        Ok(_) => answered.push(id.to_string()),
                        Err(error) => assert_ne!(code_of(&*error), Code::Unknown),
                    }
                }
                answered
            };
            // Whatever happens, nobody waits longer than the time to live and a sweep.
            let answered = timeout(ttl + 6 * SECOND, all).await;
            prop_assert!(answered.is_ok(), "stranded: {:?}", handle.stats());
            let mut receipts = peer.receipts();
            receipts.sort();
            let received = receipts.len();
            receipts.dedup();
            prop_assert_eq!(receipts.len(), received, "a call was received twice");
            for id in answered.expect("in time") {
                prop_assert!(receipts.contains(&id));
            }
            sleep(2 * SECOND).await;
            let stats = handle.stats();
            prop_assert_eq!(sum(&stats), stats.accepted);
            prop_assert_eq!((stats.waiting, stats.in_flight, stats.bytes), (0, 0, 0));
            prop_assert_eq!(tokio::runtime::Handle::current().metrics().num_alive_tasks(), 0);
            Ok(())
        })?;
    }
}

#[cfg(feature = "metrics")]
#[test]
fn its_metrics_follow_its_accounts() {
    use metrics_util::debugging::{DebugValue, DebuggingRecorder};

    let recorder = DebuggingRecorder::new();
    let snapshots = recorder.snapshotter();
    let read = || {
        let mut values: Vec<_> = snapshots
            .snapshot()
            .into_vec()
            .into_iter()
            .map(|(key, _, _, value)| {
                let key = key.key();
                let label = key.labels().next().map(|label| label.value().to_owned());
                let value = match value {
                    DebugValue::Counter(n) => n as f64,
                    DebugValue::Gauge(n) => n.into_inner(),
                    DebugValue::Histogram(_) => unreachable!("none here"),
                };
                (label.unwrap_or_else(|| key.name().to_owned()), value)
            })
            .filter(|(_, value)| *value != 0.0)
            .collect();
        values.sort_by(|a, b| a.0.cmp(&b.0));
        values
    };
    let named = |values: &[(&str, f64)]| -> Vec<(String, f64)> {
        let own = |&(name, value): &(&str, f64)| (name.to_owned(), value);
        values.iter().map(own).collect()
    };
    // Built before there is a recorder.
    let (peer, buffer, _handle) = buffer(config().max_calls(2));
    let _recording = metrics::set_default_local_recorder(&recorder);
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime");
    runtime.block_on(async {
        let leaves = begun(&buffer, request("a", 10)).await;
        let stays = begun(&buffer, request("b", 20)).await;
        assert!(begun(&buffer, request("c", 1)).await.await.is_err());
        let waiting = [
            ("rejected", 1.0),
            ("tower_iroh_buffer_bytes", 30.0),
            ("tower_iroh_buffer_waiting", 2.0),
        ];
        assert_eq!(read(), named(&waiting));
        drop(leaves);
        peer.set_up(true);
        stays.await.expect("answered");
        // The debugging recorder tells what has changed since the last look.
        let since = [
            ("cancelled", 1.0),
            ("delivered", 1.0),
            ("tower_iroh_buffer_bytes", -30.0),
            ("tower_iroh_buffer_waiting", -2.0),
        ];
        assert_eq!(read(), named(&since));
    });
}

/// A recorder that looks at the buffer while it is told of it.
#[cfg(feature = "metrics")]
mod recorder {
    use std::sync::{OnceLock, mpsc};

    use metrics::{
        Counter, CounterFn, Gauge, GaugeFn, Histogram, Key, KeyName, Metadata, Recorder,
        SharedString, Unit,
    };

    use super::*;

    #[derive(Clone, Default)]
    struct Curious(Arc<OnceLock<BufferHandle>>);

    impl Curious {
        fn look(&self) {
            self.0.get().expect("set").stats();
        }
    }

    impl CounterFn for Curious {
        fn increment(&self, _: u64) {
            self.look();
        }

        fn absolute(&self, _: u64) {}
    }

    impl GaugeFn for Curious {
        fn increment(&self, _: f64) {
            self.look();
        }

        fn decrement(&self, _: f64) {
            self.look();
        }

        fn set(&self, _: f64) {}
    }

    impl Recorder for Curious {
        fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

        fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

        fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

        fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
            self.look();
            Counter::from_arc(Arc::new(self.clone()))
        }

        fn register_gauge(&self, _: &Key, _: &Metadata<'_>) -> Gauge {
            self.look();
            Gauge::from_arc(Arc::new(self.clone()))
        }

        fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
            Histogram::noop()
        }
    }

    /// On a thread of its own: under the lock it would wait for itself, and for ever.
    #[test]
    fn the_recorder_is_not_called_under_the_lock() {
        let (done, waits) = mpsc::channel();
        std::thread::spawn(move || {
            let recorder = Curious::default();
            let (peer, buffer, handle) = buffer(config());
            recorder.0.set(handle.clone()).expect("once");
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_time()
                .start_paused(true)
                .build()
                .expect("a runtime");
            let _recording = metrics::set_default_local_recorder(&recorder);
            runtime.block_on(async {
                let call = begun(&buffer, request("a", 1)).await;
                peer.set_up(true);
                call.await.expect("answered");
            });
            done.send(handle.stats().delivered).expect("somebody waits");
        });
        let delivered = waits.recv_timeout(20 * SECOND);
        assert_eq!(delivered, Ok(1), "it waits for its own lock");
    }
}

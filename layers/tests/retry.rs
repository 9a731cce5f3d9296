//! Contracts of the retry layer, under paused time but for the last one.

use std::{
    collections::VecDeque,
    convert::Infallible,
    future::{Future, pending, poll_fn},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::{Body as _, Frame};
use http_body_util::{BodyExt, Full, StreamBody};
use proptest::prelude::*;
use tokio::time::{Instant, Sleep, sleep};
use tonic::{Code, Status, body::Body};
use tower::{Layer, Service, ServiceExt};
use tower_iroh_layers::{
    BoxError, Deadline, Fault, Incident, MethodConfig, Methods, Origin,
    deadline::header,
    fault::code_of,
    retry::{Idempotent, Retry, RetryError, RetryLayer, RetryPolicy, RetryPolicyBuilder},
};

const LISTED: &str = "/a.B/Listed";
const UNLISTED: &str = "/a.B/Unlisted";

/// How much of a request an attempt reads before it answers.
#[derive(Clone, Copy, Debug)]
enum Read {
    Frames(usize),
    All,
}

/// How an attempt ends.
enum Answer {
    Done,
    Says(Response<Body>),
    Fails(BoxError),
    Never,
}

struct Step {
    read: Read,
    answer: Answer,
}

fn step(answer: Answer) -> Step {
    Step {
        read: Read::All,
        answer,
    }
}

fn says(status: Status) -> Step {
    step(Answer::Says(status.into_http()))
}

fn unavailable() -> Step {
    says(Status::unavailable("busy"))
}

fn fails(fault: Fault) -> Step {
    step(Answer::Fails(Box::new(fault)))
}

fn refused() -> Step {
    Step {
        read: Read::Frames(0),
        ..fails(Fault::unsent(
            Origin::Refused,
            Status::unavailable("refused"),
        ))
    }
}

fn unreached() -> Step {
    let origin = Origin::Link(Incident::new());
    Step {
        read: Read::Frames(0),
        ..fails(Fault::unsent(origin, Status::unavailable("no way")))
    }
}

fn lost() -> Step {
    let origin = Origin::Link(Incident::new());
    fails(Fault::perhaps_sent(origin, Status::unavailable("lost")))
}

fn pushed_back(value: &str) -> Step {
    let mut response = Status::unavailable("busy").into_http::<Body>();
    response
        .headers_mut()
        .insert("grpc-retry-pushback-ms", value.parse().expect("a value"));
    step(Answer::Says(response))
}

/// What an attempt was.
struct Receipt {
    at: Instant,
    headers: HeaderMap,
    body: Vec<u8>,
}

#[derive(Default)]
struct Inner {
    script: VecDeque<Step>,
    receipts: Vec<Receipt>,
    /// What the attempts left of their bodies, which a transport may go on to poll.
    left_over: Vec<Body>,
    ready_after: Duration,
}

/// A peer that does as it is told, and `OK` from then on. A clone is ready a while after it was first asked.
#[derive(Default)]
struct Peer {
    inner: Arc<Mutex<Inner>>,
    asked: Option<Pin<Box<Sleep>>>,
}

impl Clone for Peer {
    fn clone(&self) -> Self {
        Self {
            inner: self.inner.clone(),
            asked: None,
        }
    }
}

impl Peer {
    fn new(script: impl IntoIterator<Item = Step>) -> Self {
        let peer = Self::default();
        peer.lock().script.extend(script);
        peer
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().expect("no panic")
    }

    fn receipts(&self) -> usize {
        self.lock().receipts.len()
    }

    /// The times between attempts, in milliseconds.
    fn waits(&self) -> Vec<u128> {
        let inner = self.lock();
        let pairs = inner.receipts.windows(2);
        pairs
            .map(|pair| (pair[1].at - pair[0].at).as_millis())
            .collect()
    }

    fn header(&self, name: &str) -> Vec<Option<String>> {
        let text = |receipt: &Receipt| {
            let value = receipt.headers.get(name)?;
            Some(value.to_str().expect("ascii").to_owned())
        };
        self.lock().receipts.iter().map(text).collect()
    }

    /// Polls whatever the attempts left of their bodies; how often that was an error.
    fn stragglers(&self) -> usize {
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let mut bodies = std::mem::take(&mut self.lock().left_over);
        let errors = bodies
            .iter_mut()
            .map(|body| Pin::new(body).poll_frame(&mut cx))
            .filter(|frame| matches!(frame, Poll::Ready(Some(Err(_)))))
            .count();
        self.lock().left_over = bodies;
        errors
    }
}

impl Service<Request<Body>> for Peer {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        let after = self.lock().ready_after;
        let asked = self.asked.get_or_insert_with(|| Box::pin(sleep(after)));
        asked.as_mut().poll(cx).map(Ok)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let asked = self.asked.take().expect("asked for readiness");
        assert!(asked.is_elapsed(), "called before it was ready");
        let (head, mut body) = request.into_parts();
        let (number, step) = {
            let mut inner = self.lock();
            inner.receipts.push(Receipt {
                at: Instant::now(),
                headers: head.headers,
                body: Vec::new(),
            });
            let step = inner.script.pop_front();
            (inner.receipts.len() - 1, step.unwrap_or_else(step_done))
        };
        let peer = self.clone();
        Box::pin(async move {
            let mut frames = match step.read {
                Read::Frames(frames) => frames,
                Read::All => usize::MAX,
            };
            while frames > 0 {
                frames -= 1;
                match body.frame().await {
                    Some(frame) => {
                        if let Ok(data) = frame?.into_data() {
                            peer.lock().receipts[number].body.extend_from_slice(&data);
                        }
                    }
                    None => break,
                }
            }
            peer.lock().left_over.push(body);
            match step.answer {
                Answer::Done => Ok(Response::new(Body::empty())),
                Answer::Says(response) => Ok(response),
                Answer::Fails(error) => Err(error),
                Answer::Never => pending().await,
            }
        })
    }
}

fn step_done() -> Step {
    step(Answer::Done)
}

fn policy() -> RetryPolicyBuilder {
    RetryPolicy::builder()
}

fn table(idempotent: &str) -> Methods {
    let config = MethodConfig::new().idempotent(true);
    let methods = Methods::builder().method(idempotent, config);
    methods.build().expect("valid")
}

fn layer(policy: RetryPolicyBuilder) -> RetryLayer {
    RetryLayer::new(policy.build().expect("valid")).methods(table(LISTED))
}

fn retry(peer: &Peer) -> Retry<Peer> {
    layer(policy().jitter(0.0)).layer(peer.clone())
}

fn request(path: &str) -> Request<Body> {
    let message = Full::new(Bytes::from_static(b"\0\0\0\0\x02hi"));
    let mut request = Request::new(Body::new(message));
    *request.uri_mut() = path.parse().expect("a path");
    request
}

async fn code(service: Retry<Peer>, request: Request<Body>) -> Code {
    match service.oneshot(request).await {
        Ok(response) => match response.headers().get("grpc-status") {
            Some(status) => Code::from_bytes(status.as_bytes()),
            None => Code::Ok,
        },
        Err(error) => code_of(&*error),
    }
}

#[tokio::test(start_paused = true)]
async fn a_listed_method_is_sent_again_with_backoff() {
    let peer = Peer::new([unavailable(), lost()]);
    assert_eq!(code(retry(&peer), request(LISTED)).await, Code::Ok);
    assert_eq!(peer.waits(), [100, 200]);
    for receipt in &peer.lock().receipts {
        assert_eq!(receipt.body, b"\0\0\0\0\x02hi");
    }
    let whole_service = layer(policy()).methods(table("/a.B/*"));
    let peer = Peer::new([unavailable()]);
    let service = whole_service.layer(peer.clone());
    assert_eq!(code(service, request(UNLISTED)).await, Code::Ok);
    assert_eq!(peer.receipts(), 2);
}

#[tokio::test(start_paused = true)]
async fn waits_are_within_their_jitter() {
    let mut distinct = std::collections::HashSet::new();
    for _ in 0..50 {
        let peer = Peer::new([unavailable(), unavailable()]);
        let service = layer(policy()).layer(peer.clone());
        assert_eq!(code(service, request(LISTED)).await, Code::Ok);
        let waits = peer.waits();
        assert!((80..=121).contains(&waits[0]) && (160..=241).contains(&waits[1]));
        distinct.insert(waits);
    }
    assert!(distinct.len() > 10, "{distinct:?}");
}

#[tokio::test(start_paused = true)]
async fn three_attempts_and_the_last_answer_is_the_caller_s() {
    let last = Status::unavailable("the third");
    let peer = Peer::new([unavailable(), unavailable(), says(last), step_done()]);
    let response = retry(&peer).oneshot(request(LISTED)).await.expect("a head");
    assert_eq!(peer.receipts(), 3);
    let status = Status::from_header_map(response.headers()).expect("a status");
    assert_eq!(
        (status.code(), status.message()),
        (Code::Unavailable, "the third")
    );

    let peer = Peer::new([lost(), lost(), lost()]);
    let error = retry(&peer)
        .oneshot(request(LISTED))
        .await
        .expect_err("lost");
    assert!(error.is::<Fault>(), "as it came: {error:?}");
    assert_eq!(code_of(&*error), Code::Unavailable);
}

#[tokio::test(start_paused = true)]
async fn an_unlisted_method_is_never_done_twice() {
    // A peer that answered may have begun the call, even where its fault says otherwise.
    let answered = fails(Fault::unsent(Origin::Peer, Status::unavailable("busy")));
    for perhaps_processed in [unavailable(), lost(), pushed_back("5"), answered] {
        let peer = Peer::new([perhaps_processed]);
        assert_eq!(
            code(retry(&peer), request(UNLISTED)).await,
            Code::Unavailable
        );
        assert_eq!(peer.receipts(), 1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_single_call_may_say_that_it_is_idempotent() {
    let peer = Peer::new([unavailable()]);
    let mut request = request(UNLISTED);
    request.extensions_mut().insert(Idempotent);
    assert_eq!(code(retry(&peer), request).await, Code::Ok);
    assert_eq!(peer.receipts(), 2);
}

#[tokio::test(start_paused = true)]
async fn what_was_not_begun_is_sent_again_whatever_the_method() {
    let peer = Peer::new([refused()]);
    assert_eq!(code(retry(&peer), request(UNLISTED)).await, Code::Ok);
    assert_eq!(peer.waits(), [0], "at once");

    let peer = Peer::new([refused(), refused()]);
    assert_eq!(code(retry(&peer), request(UNLISTED)).await, Code::Ok);
    assert_eq!(peer.waits(), [0, 100], "the second time something is wrong");

    let peer = Peer::new([unreached(), unreached()]);
    assert_eq!(code(retry(&peer), request(UNLISTED)).await, Code::Ok);
    assert_eq!(peer.waits(), [100, 200], "a dial does not succeed at once");
}

#[tokio::test(start_paused = true)]
async fn what_is_never_begun_does_not_spin() {
    for never in [refused as fn() -> Step, unreached] {
        let peer = Peer::new((0..100).map(|_| never()));
        assert_eq!(
            code(retry(&peer), request(UNLISTED)).await,
            Code::Unavailable
        );
        assert_eq!(peer.receipts(), 3);
        assert_eq!(
            peer.header("grpc-previous-rpc-attempts"),
            [None, None, None]
        );
    }
    let service = layer(policy().max_attempts(1));
    let peer = Peer::new([refused()]);
    assert_eq!(
        code(service.layer(peer.clone()), request(LISTED)).await,
        Code::Unavailable
    );
    assert_eq!(peer.receipts(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_dial_that_policy_refused_is_final() {
    let origin = Origin::Link(Incident::new());
    let peer = Peer::new([fails(Fault::unsent(
        origin,
        Status::permission_denied("not you"),
    ))]);
    assert_eq!(
        code(retry(&peer), request(LISTED)).await,
        Code::PermissionDenied
    );
    assert_eq!(peer.receipts(), 1);
}

#[tokio::test(start_paused = true)]
async fn who_has_waited_for_a_dial_is_not_made_to_wait_again() {
    let origin = Origin::Link(Incident::new());
    let fault = Fault::unsent(origin, Status::unavailable("no answer")).timed_out();
    let peer = Peer::new([fails(fault)]);
    assert_eq!(
        code(retry(&peer), request(UNLISTED)).await,
        Code::Unavailable
    );
    assert_eq!(peer.receipts(), 1);
}

#[tokio::test(start_paused = true)]
async fn our_own_rejections_are_final() {
    let peer = Peer::new([fails(Fault::unsent(
        Origin::Ours,
        Status::unavailable("full"),
    ))]);
    assert_eq!(code(retry(&peer), request(LISTED)).await, Code::Unavailable);
    assert_eq!(peer.receipts(), 1);
}

#[tokio::test(start_paused = true)]
async fn only_the_policy_s_codes_are_worth_it() {
    for status in [
        Status::internal(""),
        Status::resource_exhausted(""),
        Status::not_found(""),
    ] {
        let peer = Peer::new([says(status.clone())]);
        assert_eq!(code(retry(&peer), request(LISTED)).await, status.code());
        assert_eq!(peer.receipts(), 1);
    }
    let peer = Peer::new([says(Status::aborted(""))]);
    let service = layer(policy().codes([Code::Aborted])).layer(peer.clone());
    assert_eq!(code(service, request(LISTED)).await, Code::Ok);
}

#[tokio::test(start_paused = true)]
async fn a_proxy_s_503_is_unavailable() {
    let mut response = Response::new(Body::empty());
    *response.status_mut() = StatusCode::SERVICE_UNAVAILABLE;
    let peer = Peer::new([step(Answer::Says(response))]);
    assert_eq!(code(retry(&peer), request(LISTED)).await, Code::Ok);
    assert_eq!(peer.receipts(), 2);
}

#[tokio::test(start_paused = true)]
async fn pushback_is_honoured_and_resets_the_backoff() {
    let peer = Peer::new([unavailable(), pushed_back("1500"), unavailable()]);
    let service = layer(policy().jitter(0.0).max_attempts(4)).layer(peer.clone());
    assert_eq!(code(service, request(LISTED)).await, Code::Ok);
    assert_eq!(peer.waits(), [100, 1500, 100]);
    let peer = Peer::new([pushed_back("60000")]);
    assert_eq!(code(retry(&peer), request(LISTED)).await, Code::Ok);
    assert_eq!(peer.waits(), [60_000], "the longest that is waited for");
    for never in ["-1", "soon", "", "60001", "2147483647"] {
        let peer = Peer::new([pushed_back(never)]);
        assert_eq!(code(retry(&peer), request(LISTED)).await, Code::Unavailable);
        assert_eq!(peer.receipts(), 1, "{never:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn the_peer_is_told_of_previous_attempts() {
    let peer = Peer::new([unavailable(), refused(), unavailable()]);
    assert_eq!(code(retry(&peer), request(LISTED)).await, Code::Ok);
    let told = peer.header("grpc-previous-rpc-attempts");
    let told: Vec<_> = told.iter().map(Option::as_deref).collect();
    assert_eq!(told, [None, Some("1"), Some("1"), Some("2")]);
}

#[tokio::test(start_paused = true)]
async fn a_budget_shared_by_clones_withholds_retries() {
    let peer = Peer::new((0..1000).map(|_| unavailable()));
    let layer = layer(policy());
    let budget = layer.budget();
    for _ in 0..100 {
        let service = layer.clone().layer(peer.clone());
        assert_eq!(code(service, request(LISTED)).await, Code::Unavailable);
    }
    assert_eq!(peer.receipts(), 103, "a hundred calls and three retries");
    assert!(!budget.allows() && budget.withheld() > 90);
    // What was not begun is no burden to the peer.
    peer.lock().script = [refused(), refused()].into();
    assert_eq!(
        code(layer.layer(peer.clone()), request(UNLISTED)).await,
        Code::Ok
    );
    peer.lock().script.clear();
    while !budget.allows() {
        assert_eq!(
            code(layer.layer(peer.clone()), request(UNLISTED)).await,
            Code::Ok
        );
    }
    assert!(budget.tokens() > 5.0);
}

#[tokio::test(start_paused = true)]
async fn no_retry_after_the_deadline() {
    let with_deadline = |millis| {
        let mut request = request(LISTED);
        let deadline = Deadline::after(Duration::from_millis(millis));
        deadline.stamp(request.headers_mut());
        request.extensions_mut().insert(deadline);
        request
    };
    let peer = Peer::new([unavailable(), unavailable()]);
    let started = Instant::now();
    // The second wait, of 200 ms, would pass it.
    assert_eq!(
        code(retry(&peer), with_deadline(250)).await,
        Code::Unavailable
    );
    assert_eq!(peer.waits(), [100]);
    assert_eq!(
        started.elapsed().as_millis(),
        100,
        "the answer comes at once"
    );

    let peer = Peer::new([unavailable(), unavailable()]);
    assert_eq!(code(retry(&peer), with_deadline(1000)).await, Code::Ok);
    let left: Vec<_> = peer
        .lock()
        .receipts
        .iter()
        .map(|receipt| {
            header::read(&receipt.headers)
                .expect("a deadline")
                .as_millis()
        })
        .collect();
    assert_eq!(left, [1000, 900, 700]);

    // Only a header: it counts from the call.
    let peer = Peer::new([unavailable(), unavailable()]);
    let mut only_header = request(LISTED);
    header::write(only_header.headers_mut(), Duration::from_millis(150));
    assert_eq!(code(retry(&peer), only_header).await, Code::Unavailable);
    assert_eq!(peer.receipts(), 2);

    // An inner service that is not ready in time.
    let peer = Peer::new([unavailable()]);
    let mut service = retry(&peer);
    service.ready().await.expect("ready");
    peer.lock().ready_after = Duration::from_secs(5);
    let error = service
        .call(with_deadline(1000))
        .await
        .expect_err("too late");
    assert!(matches!(error.downcast_ref(), Some(RetryError::TooLate(_))));
    assert_eq!(code_of(&*error), Code::DeadlineExceeded);
    assert_eq!(peer.receipts(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_head_commits() {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "14".parse().expect("a value"));
    let frame = Ok::<_, Status>(Frame::trailers(trailers));
    let body = StreamBody::new(tokio_stream::iter([frame]));
    let peer = Peer::new([step(Answer::Says(Response::new(Body::new(body))))]);
    let response = retry(&peer).oneshot(request(LISTED)).await.expect("a head");
    let collected = response.into_body().collect().await.expect("a body");
    assert_eq!(collected.trailers().expect("trailers")["grpc-status"], "14");
    assert_eq!(peer.receipts(), 1);
}

/// A request body of the caller's that tells when it is gone.
fn stream(chunks: Vec<Option<Vec<u8>>>, alive: &Arc<()>) -> Body {
    let alive = alive.clone();
    let mut chunks = VecDeque::from(chunks);
    let stream = futures_util::stream::poll_fn(move |cx| {
        let _alive = &alive;
        match chunks.pop_front() {
            Some(Some(chunk)) => {
                Poll::Ready(Some(Ok::<_, Status>(Frame::data(Bytes::from(chunk)))))
            }
            Some(None) => {
                cx.waker().wake_by_ref();
                Poll::Pending
            }
            None => Poll::Ready(None),
        }
    });
    Body::new(StreamBody::new(stream))
}

fn with_body(path: &str, body: Body) -> Request<Body> {
    request(path).map(|_| body)
}

fn chunks(sizes: &[usize]) -> Vec<Option<Vec<u8>>> {
    let chunk = |(n, size): (usize, &usize)| Some(vec![n as u8; *size]);
    sizes.iter().enumerate().map(chunk).collect()
}

#[tokio::test(start_paused = true)]
async fn a_request_that_outgrew_the_limit_is_not_sent_again() {
    let alive = Arc::new(());
    let small = || layer(policy().max_buffered(1000));
    for (sizes, read, attempts) in [
        (&[400, 400][..], Read::All, 2),
        (&[400, 700], Read::All, 1),
        // What has not left is not lost.
        (&[400, 700], Read::Frames(1), 2),
        (&[1500], Read::Frames(0), 2),
        (&[1500], Read::All, 1),
        (&[1000], Read::All, 2),
        // Frames are not free.
        (&[0; 100], Read::All, 1),
    ] {
        let busy = Step {
            read,
            ..unavailable()
        };
        let peer = Peer::new([busy]);
        let body = stream(chunks(sizes), &alive);
        let answer = code(small().layer(peer.clone()), with_body(LISTED, body)).await;
        assert_eq!(peer.receipts(), attempts, "{sizes:?} {read:?}");
        assert_eq!(answer == Code::Ok, attempts == 2);
        let sent: usize = sizes.iter().sum();
        let inner = peer.lock();
        let last = inner.receipts.last().expect("one");
        assert!(attempts == 1 || last.body.len() == sent);
    }
}

#[tokio::test(start_paused = true)]
async fn a_request_that_failed_itself_is_final() {
    let frames = [
        Ok(Frame::data(Bytes::from_static(b"x"))),
        Err(Status::unavailable("mine")),
    ];
    let body = Body::new(StreamBody::new(tokio_stream::iter(frames)));
    let peer = Peer::new([]);
    let error = retry(&peer)
        .oneshot(with_body(LISTED, body))
        .await
        .expect_err("mine");
    assert_eq!(code_of(&*error), Code::Unavailable);
    assert_eq!(peer.receipts(), 1);
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_was_replaced_takes_no_more() {
    let alive = Arc::new(());
    let peer = Peer::new([Step {
        read: Read::Frames(2),
        ..unavailable()
    }]);
    let body = stream(chunks(&[1, 2, 3, 4, 5]), &alive);
    let mut call = Box::pin(retry(&peer).oneshot(with_body(LISTED, body)));
    // Through the first attempt, into the wait.
    assert!(poll_fn(|cx| Poll::Ready(call.as_mut().poll(cx).is_pending())).await);
    assert_eq!((peer.receipts(), peer.stragglers()), (1, 1));
    call.await.expect("the second");
    assert_eq!(peer.lock().receipts[1].body.len(), 15);
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_waits_for_the_caller_s_body_is_woken_to_let_go() {
    let (sender, receiver) = tokio::sync::mpsc::channel::<Result<Frame<Bytes>, Status>>(1);
    let source = tokio_stream::wrappers::ReceiverStream::new(receiver);
    let transport = Arc::new(Mutex::new(None));
    let inner = tower::service_fn({
        let transport = transport.clone();
        move |request: Request<Body>| {
            let transport = transport.clone();
            async move {
                if transport.lock().expect("no panic").is_some() {
                    return Ok::<_, Infallible>(Response::new(Body::empty()));
                }
                // A transport goes on with the body after the peer has answered, and the caller has nothing to say.
                let (waits, waiting) = tokio::sync::oneshot::channel();
                let mut waits = Some(waits);
                let mut body = request.into_body();
                let task = tokio::spawn(poll_fn(move |cx| {
                    let frame = Pin::new(&mut body).poll_frame(cx);
                    if let Some(waits) = waits.take() {
                        assert!(frame.is_pending() && waits.send(()).is_ok());
                    }
                    frame
                }));
                *transport.lock().expect("no panic") = Some(task);
                waiting.await.expect("polled");
                Ok(Status::unavailable("busy").into_http())
            }
        }
    });
    let request = with_body(LISTED, Body::new(StreamBody::new(source)));
    let service = layer(policy()).layer(inner);
    service.oneshot(request).await.expect("the second");
    let task = transport.lock().expect("no panic").take();
    let woken = tokio::time::timeout(Duration::from_secs(1), task.expect("a first"));
    let frame = woken.await.expect("woken").expect("no panic");
    assert!(frame.expect("not the end").is_err());
    drop(sender);
}

/// A peer that takes one call at a time; a call lasts as long as its response's body.
#[derive(Clone, Default)]
struct OneAtATime {
    open: Arc<Mutex<std::sync::Weak<()>>>,
    polls: u32,
}

impl Service<Request<Body>> for OneAtATime {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = std::future::Ready<Result<Response<Body>, Infallible>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.polls += 1;
        assert!(self.polls < 100, "the attempt before still has the place");
        if self.open.lock().expect("no panic").strong_count() == 0 {
            return Poll::Ready(Ok(()));
        }
        cx.waker().wake_by_ref();
        Poll::Pending
    }

    fn call(&mut self, _: Request<Body>) -> Self::Future {
        let held = Arc::new(());
        *self.open.lock().expect("no panic") = Arc::downgrade(&held);
        let stream = futures_util::stream::poll_fn(move |_| {
            let _held = &held;
            Poll::<Option<Result<Frame<Bytes>, Status>>>::Pending
        });
        let mut response = Response::new(Body::new(StreamBody::new(stream)));
        let status = "14".parse().expect("a value");
        response.headers_mut().insert("grpc-status", status);
        std::future::ready(Ok(response))
    }
}

#[tokio::test(start_paused = true)]
async fn a_failed_attempt_gives_its_place_back_before_the_next() {
    let service = layer(policy()).layer(OneAtATime::default());
    let response = service.oneshot(request(LISTED)).await.expect("a head");
    assert_eq!(response.headers()["grpc-status"], "14", "the third's");
}

#[tokio::test(start_paused = true)]
async fn a_call_dropped_at_any_await_leaves_nothing() {
    for cut in 0..40 {
        let alive = Arc::new(());
        let peer = Peer::new([
            Step {
                read: Read::Frames(1),
                ..unavailable()
            },
            Step {
                read: Read::Frames(3),
                ..lost()
            },
            step(Answer::Never),
        ]);
        peer.lock().ready_after = Duration::from_millis(30);
        let mut body = chunks(&[1, 2, 3, 4]);
        body.insert(2, None);
        let body = stream(body, &alive);
        let call = retry(&peer).oneshot(with_body(LISTED, body));
        let cut = Duration::from_millis(cut * 10);
        assert!(tokio::time::timeout(cut, call).await.is_err());
        // A transport that was reset drops the bodies that it has.
        peer.lock().left_over.clear();
        assert_eq!(Arc::strong_count(&alive), 1, "after {cut:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn replaced_attempts_do_not_keep_the_request_alive() {
    let alive = Arc::new(());
    let peer = Peer::new([Step {
        read: Read::Frames(1),
        ..unavailable()
    }]);
    let body = stream(chunks(&[1, 2]), &alive);
    retry(&peer)
        .oneshot(with_body(LISTED, body))
        .await
        .expect("the second");
    peer.stragglers();
    assert_eq!(
        Arc::strong_count(&alive),
        1,
        "the source is gone at its end"
    );
}

#[tokio::test(start_paused = true)]
async fn each_attempt_is_made_ready_for_itself() {
    // `Peer` refuses a call on a clone that was not asked.
    let peer = Peer::new([unavailable(), unavailable()]);
    peer.lock().ready_after = Duration::from_millis(50);
    let mut first = retry(&peer);
    first.ready().await.expect("ready");
    let mut second = first.clone();
    assert!(
        poll_fn(|cx| Poll::Ready(second.poll_ready(cx).is_pending())).await,
        "a clone carries no readiness"
    );
    assert!(first.call(request(LISTED)).await.is_ok());
    assert_eq!(peer.waits(), [150, 250]);
}

#[tokio::test(start_paused = true)]
async fn a_stack_of_boxes_keeps_the_code() {
    let peer = Peer::new((0..3).map(|_| lost()));
    let service = tower::buffer::Buffer::new(retry(&peer), 1);
    let error = service.oneshot(request(LISTED)).await.expect_err("lost");
    assert_eq!(Status::from_error(error).code(), Code::Unavailable);
}

fn paused() -> tokio::runtime::Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder
        .enable_time()
        .start_paused(true)
        .build()
        .expect("a runtime")
}

proptest! {
    /// Whatever the chunks and wherever the attempts fail, the attempt that succeeds sees what was sent.
    #[test]
    fn a_replay_is_byte_exact(
        script in proptest::collection::vec(proptest::option::of(proptest::collection::vec(any::<u8>(), 0..20)), 0..12),
        failures in proptest::collection::vec((0usize..14, 0usize..3), 0..3),
    ) {
        let sent: Vec<u8> = script.iter().flatten().flatten().copied().collect();
        let alive = Arc::new(());
        let steps = failures.iter().map(|(frames, kind)| Step {
            read: Read::Frames(*frames),
            ..[unavailable as fn() -> Step, lost, refused][*kind]()
        });
        let peer = Peer::new(steps);
        let request = with_body(LISTED, stream(script, &alive));
        let service = layer(policy().max_attempts(5)).layer(peer.clone());
        let answer = paused().block_on(code(service, request));
        prop_assert_eq!(answer, Code::Ok);
        peer.stragglers();
        let inner = peer.lock();
        prop_assert_eq!(inner.receipts.len(), failures.len() + 1);
        prop_assert_eq!(&inner.receipts.last().expect("one").body, &sent);
        for receipt in &inner.receipts {
            prop_assert!(sent.starts_with(&receipt.body), "a failed one saw a beginning");
        }
        prop_assert_eq!(Arc::strong_count(&alive), 1);
    }

    /// However attempts fail, a peer begins an unlisted method once.
    #[test]
    fn an_unlisted_method_is_begun_at_most_once(steps in proptest::collection::vec(0..4usize, 0..8)) {
        let kinds = [unavailable as fn() -> Step, lost, refused, unreached];
        let peer = Peer::new(steps.iter().map(|kind| kinds[*kind]()));
        let service = layer(policy()).layer(peer.clone());
        paused().block_on(code(service, request(UNLISTED)));
        let received = peer.receipts();
        let begun = steps.iter().chain(std::iter::repeat(&0)).take(received).filter(|kind| **kind < 2).count();
        prop_assert!(begun <= 1);
    }
}

#[cfg(feature = "metrics")]
#[test]
fn what_is_counted() {
    use metrics_util::debugging::{DebugValue, DebuggingRecorder};

    let recorder = DebuggingRecorder::new();
    let snapshotter = recorder.snapshotter();
    metrics::with_local_recorder(&recorder, || {
        paused().block_on(async {
            let peer = Peer::new([refused(), unavailable()]);
            assert_eq!(code(retry(&peer), request(LISTED)).await, Code::Ok);
            let peer = Peer::new((0..3).map(|_| unavailable()));
            assert_eq!(code(retry(&peer), request(LISTED)).await, Code::Unavailable);
        });
    });
    let all = snapshotter.snapshot().into_vec();
    let counted = |name: &str, reason: &str| {
        let found = all.iter().find(|(key, ..)| {
            let key = key.key();
            key.name() == name && key.labels().any(|label| label.value() == reason)
        });
        match found {
            Some((_, _, _, DebugValue::Counter(value))) => *value,
            other => panic!("{name} {reason}: {other:?}"),
        }
    };
    assert_eq!(counted("tower_iroh_retry_retries_total", "refused"), 1);
    assert_eq!(counted("tower_iroh_retry_retries_total", "code"), 3);
    assert_eq!(counted("tower_iroh_retry_given_up_total", "attempts"), 1);
}

mod over_tonic {
    use std::sync::atomic::{AtomicU32, Ordering};

    use tokio_stream::wrappers::TcpListenerStream;
    use tonic::transport::{Endpoint, Server};
    use tower_iroh_proto::{
        EchoService,
        echo::{EchoRequest, echo_client::EchoClient, echo_server::EchoServer},
    };

    use super::*;

    /// A server that has too much to do, but for each third call.
    #[derive(Clone)]
    struct Busy<S> {
        inner: S,
        calls: Arc<AtomicU32>,
    }

    impl<S> Service<Request<Body>> for Busy<S>
    where
        S: Service<Request<Body>, Response = Response<Body>>,
        S::Future: Send + 'static,
    {
        type Response = Response<Body>;
        type Error = S::Error;
        type Future = futures_util::future::Either<
            S::Future,
            std::future::Ready<Result<Response<Body>, S::Error>>,
        >;

        fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
            self.inner.poll_ready(cx)
        }

        fn call(&mut self, request: Request<Body>) -> Self::Future {
            if self.calls.fetch_add(1, Ordering::Relaxed) % 3 < 2 {
                let busy = Status::unavailable("busy").into_http();
                return futures_util::future::Either::Right(std::future::ready(Ok(busy)));
            }
            futures_util::future::Either::Left(self.inner.call(request))
        }
    }

    #[tokio::test]
    async fn unary_and_streaming_calls_over_a_real_channel() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .expect("a port");
        let address = listener.local_addr().expect("an address");
        let calls = Arc::<AtomicU32>::default();
        let counter = calls.clone();
        let server = Server::builder()
            .layer(tower::layer::layer_fn(move |inner| Busy {
                inner,
                calls: counter.clone(),
            }))
            .add_service(EchoServer::new(EchoService))
            .serve_with_incoming(TcpListenerStream::new(listener));
        let server = tokio::spawn(server);
        let channel = Endpoint::new(format!("http://{address}"))
            .expect("a uri")
            .connect_lazy();
        let policy = RetryPolicy::builder()
            .initial_backoff(Duration::from_millis(1))
            .build();
        let layer =
            RetryLayer::new(policy.expect("valid")).methods(table("tower_iroh.echo.v1.Echo"));
        // In a task, as users do: the call is Send, also through several layers.
        let channel = layer.layer(channel);
        #[cfg(feature = "deadline")]
        let channel = tower_iroh_layers::deadline::DeadlineLayer::new().layer(channel);
        let mut client = EchoClient::new(channel);
        let task = tokio::spawn(async move {
            let payload = Bytes::from_static(b"hello");
            let request = EchoRequest {
                payload: payload.clone(),
            };
            let response = client
                .echo(request.clone())
                .await
                .expect("the third attempt");
            assert_eq!(response.into_inner().payload, payload);
            let requests = tokio_stream::iter(vec![request; 100]);
            let summary = client
                .client_stream(requests)
                .await
                .expect("the third attempt");
            assert_eq!(summary.into_inner().bytes, 500);
        });
        task.await.expect("no panic");
        assert_eq!(calls.load(Ordering::Relaxed), 6);
        server.abort();
    }
}

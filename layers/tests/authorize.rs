//! The layer over a service in memory: denials, reloads and limits, in paused time.

use std::{
    cell::RefCell,
    future::{Future, pending},
    pin::Pin,
    sync::{
        Arc, Mutex, Once,
        atomic::{AtomicBool, AtomicU32, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::{Body as _, Frame};
use http_body_util::{BodyExt as _, StreamBody};
use tokio::{sync::mpsc, time::advance};
use tokio_stream::wrappers::ReceiverStream;
use tokio_test::{assert_pending, assert_ready, task};
use tonic::{Code, Status, body::Body};
use tower::{Layer as _, Service, ServiceExt as _, service_fn};
use tower_iroh_layers::{
    BoxError,
    authorize::{
        AccessPolicy, AccessPolicyBuilder, Authorize, AuthorizeLayer, DenialReason, Identity,
        Limits, PolicyHandle,
    },
};

/// What a transport proved, for a request.
#[derive(Clone)]
struct Proven(&'static str);

fn identify(extensions: &http::Extensions) -> Option<Identity> {
    extensions.get::<Proven>().map(|it| it.0.into())
}

const PATH: &str = "/p.S/M";

fn request(who: Option<&'static str>, body: Body) -> Request<Body> {
    listen();
    let mut request = Request::builder().uri(PATH).body(body).expect("a request");
    if let Some(who) = who {
        request.extensions_mut().insert(Proven(who));
    }
    request
}

fn alice() -> Request<Body> {
    request(Some("alice"), Body::empty())
}

fn base() -> AccessPolicyBuilder {
    AccessPolicy::builder()
        .role("caller", [PATH])
        .peer("alice", ["caller"])
}

fn permitting() -> PolicyHandle {
    PolicyHandle::new(base().build().expect("a policy"))
}

fn limited(limits: Limits) -> PolicyHandle {
    let policy = base().peer("bob", ["caller"]).limits(limits);
    PolicyHandle::new(policy.build().expect("a policy"))
}

fn nothing() -> AccessPolicy {
    AccessPolicy::from_toml("").expect("a policy")
}

fn status_of(headers: &HeaderMap) -> Status {
    Status::from_header_map(headers).expect("a status")
}

fn layer<F>(
    handle: &PolicyHandle,
    service: F,
) -> Authorize<F, impl tower_iroh_layers::authorize::Identify> {
    AuthorizeLayer::new(handle.clone(), identify).layer(service)
}

/// Notes when it is dropped.
struct Dropped(Arc<AtomicBool>);

impl Drop for Dropped {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

type Feed = mpsc::Sender<Result<Frame<Bytes>, Status>>;

/// Answers each call with a stream that others feed.
fn fed() -> (
    Feed,
    impl Service<Request<Body>, Response = Response<Body>, Error = BoxError, Future: Send>,
) {
    let (feed, stream) = mpsc::channel(8);
    let mut stream = Some(stream);
    let service = service_fn(move |_: Request<Body>| {
        let stream = ReceiverStream::new(stream.take().expect("one call"));
        async move { Ok(Response::new(Body::new(StreamBody::new(stream)))) }
    });
    (feed, service)
}

fn data() -> Frame<Bytes> {
    Frame::data(Bytes::from_static(b"\0\0\0\0\x01x"))
}

async fn ok(_: Request<Body>) -> Result<Response<Body>, BoxError> {
    Ok(Status::new(Code::Ok, "").into_http())
}

/// The code of a call that is answered at once.
async fn code(
    service: &(
         impl Service<Request<Body>, Response = Response<impl http_body::Body>, Error = BoxError> + Clone
     ),
    request: Request<Body>,
) -> Code {
    let response = service
        .clone()
        .oneshot(request)
        .await
        .expect("never an error");
    status_of(response.headers()).code()
}

/// A body that must not be read.
struct Unread(Arc<AtomicBool>, Dropped);

impl http_body::Body for Unread {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let _ = &self.1;
        self.0.store(true, Ordering::Relaxed);
        Poll::Pending
    }
}

#[tokio::test]
async fn a_denial_is_a_response_that_reads_no_body_and_reaches_no_handler() {
    let handle = permitting();
    let called = Arc::new(AtomicBool::default());
    let denials = Arc::new(Mutex::new(Vec::new()));
    let (note, seen) = (called.clone(), denials.clone());
    let service = AuthorizeLayer::new(handle, identify)
        .on_denial(move |denial| {
            let who = denial.identity().map(ToString::to_string);
            seen.lock().expect("no panic").push((
                who,
                denial.method().to_owned(),
                denial.reason(),
                denial.generation(),
            ));
        })
        .layer(service_fn(move |request| {
            note.store(true, Ordering::Relaxed);
            ok(request)
        }));
    for (who, code) in [
        (None, Code::Unauthenticated),
        (Some("mallory"), Code::PermissionDenied),
    ] {
        let (read, dropped) = (
            Arc::new(AtomicBool::default()),
            Arc::new(AtomicBool::default()),
        );
        let body = Body::new(Unread(read.clone(), Dropped(dropped.clone())));
        let response = service
            .clone()
            .oneshot(request(who, body))
            .await
            .expect("never an error");
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "application/grpc");
        assert_eq!(status_of(response.headers()).code(), code);
        assert!(response.body().is_end_stream());
        assert!(!read.load(Ordering::Relaxed) && dropped.load(Ordering::Relaxed));
    }
    assert!(!called.load(Ordering::Relaxed));
    assert_eq!(
        *denials.lock().expect("no panic"),
        [
            (None, PATH.to_owned(), DenialReason::Unauthenticated, 1),
            (
                Some("mallory".to_owned()),
                PATH.to_owned(),
                DenialReason::NotPermitted,
                1
            ),
        ]
    );
    assert_eq!(code(&service, alice()).await, Code::Ok);
    assert!(called.load(Ordering::Relaxed));
}

#[tokio::test]
async fn the_handler_finds_the_identity() {
    let service = layer(
        &permitting(),
        service_fn(|request: Request<Body>| {
            assert_eq!(
                request.extensions().get::<Identity>(),
                Some(&"alice".into())
            );
            ok(request)
        }),
    );
    assert_eq!(code(&service, alice()).await, Code::Ok);
}

#[tokio::test]
async fn an_empty_identity_is_no_identity() {
    let policy = |text: &str| {
        let role = "[roles.r]\nmethods = [\"*\"]\n";
        PolicyHandle::new(AccessPolicy::from_toml(&format!("{role}{text}")).expect("a policy"))
    };
    let empty = || request(Some(""), Body::empty());
    let service = layer(&policy("[authenticated]\nroles = [\"r\"]"), service_fn(ok));
    assert_eq!(code(&service, alice()).await, Code::Ok);
    assert_eq!(code(&service, empty()).await, Code::Unauthenticated);
    let service = layer(
        &policy("[anonymous]\nroles = [\"r\"]"),
        service_fn(|request: Request<Body>| {
            assert!(request.extensions().get::<Identity>().is_none());
            ok(request)
        }),
    );
    assert_eq!(code(&service, empty()).await, Code::Ok);
}

#[tokio::test(start_paused = true)]
async fn a_reload_ends_a_handler_that_never_answers() {
    let handle = permitting();
    let dropped = Arc::new(AtomicBool::default());
    let held = dropped.clone();
    let service = layer(
        &handle,
        service_fn(move |_: Request<Body>| {
            let held = Dropped(held.clone());
            async move {
                let _held = held;
                pending::<Result<Response<Body>, BoxError>>().await
            }
        }),
    );
    let mut call = task::spawn(service.oneshot(alice()));
    assert_pending!(call.poll());
    assert_pending!(call.poll());
    handle.reload(nothing());
    assert!(call.is_woken());
    let response = assert_ready!(call.poll()).expect("never an error");
    assert_eq!(status_of(response.headers()).code(), Code::PermissionDenied);
    assert!(
        dropped.load(Ordering::Relaxed),
        "before the future itself is"
    );
}

#[tokio::test(start_paused = true)]
async fn a_reload_ends_an_idle_server_stream_with_trailers_and_drops_its_source() {
    let handle = permitting();
    let (feed, service) = fed();
    let response = layer(&handle, service)
        .oneshot(alice())
        .await
        .expect("a head");
    let mut body = Box::pin(response.into_body());
    feed.send(Ok(data())).await.expect("room");
    assert!(
        body.frame()
            .await
            .expect("a frame")
            .expect("data")
            .is_data()
    );

    let mut next = task::spawn(std::future::poll_fn(|cx| body.as_mut().poll_frame(cx)));
    assert_pending!(next.poll());
    handle.reload(nothing());
    assert!(next.is_woken());
    let frame = assert_ready!(next.poll())
        .expect("a frame")
        .expect("trailers");
    assert_eq!(
        status_of(frame.trailers_ref().expect("trailers")).code(),
        Code::PermissionDenied
    );
    assert!(feed.is_closed(), "the handler's stream is gone");
    drop(next);
    assert!(body.is_end_stream());
    assert!(body.frame().await.is_none());
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_is_never_idle_ends_too() {
    let handle = permitting();
    let (feed, service) = fed();
    let response = layer(&handle, service)
        .oneshot(alice())
        .await
        .expect("a head");
    let mut body = Box::pin(response.into_body());
    for _ in 0..8 {
        feed.send(Ok(data())).await.expect("room");
    }
    assert!(
        body.frame()
            .await
            .expect("a frame")
            .expect("data")
            .is_data()
    );
    handle.reload(nothing());
    let frame = body.frame().await.expect("a frame").expect("trailers");
    assert!(frame.is_trailers());
}

#[tokio::test(start_paused = true)]
async fn a_reload_that_keeps_the_permission_keeps_the_stream_and_the_next_still_ends_it() {
    let handle = permitting();
    let (feed, service) = fed();
    let response = layer(&handle, service)
        .oneshot(alice())
        .await
        .expect("a head");
    let mut body = Box::pin(response.into_body());
    for _ in 0..3 {
        {
            let mut next = task::spawn(body.frame());
            assert_pending!(next.poll());
            handle.reload(base().role("more", ["*"]).build().expect("a policy"));
            assert_pending!(next.poll());
            assert_pending!(next.poll());
            // The same task again: it is still registered.
            handle.reload(base().build().expect("a policy"));
            assert!(next.is_woken());
            assert_pending!(next.poll());
        }
        feed.send(Ok(data())).await.expect("room");
        assert!(
            body.frame()
                .await
                .expect("a frame")
                .expect("data")
                .is_data()
        );
    }
    let mut next = task::spawn(body.frame());
    assert_pending!(next.poll());
    handle.reload(nothing());
    assert!(next.is_woken());
    let frame = assert_ready!(next.poll())
        .expect("a frame")
        .expect("trailers");
    assert!(frame.is_trailers());
}

#[tokio::test(start_paused = true)]
async fn a_reload_that_takes_the_method_only_ends_the_call_too() {
    let handle = permitting();
    let (_feed, service) = fed();
    let response = layer(&handle, service)
        .oneshot(alice())
        .await
        .expect("a head");
    handle
        .reload_toml("[roles.r]\nmethods = [\"/p.S/Other\"]\n[peers.alice]\nroles = [\"r\"]")
        .expect("a policy");
    let collected = response.into_body().collect().await.expect("trailers");
    assert_eq!(
        status_of(collected.trailers().expect("trailers")).code(),
        Code::PermissionDenied
    );
}

#[tokio::test(start_paused = true)]
async fn a_reload_ends_what_a_spawned_task_reads_of_the_request() {
    let handle = permitting();
    let (give, mut taken) = mpsc::channel(1);
    let service = layer(
        &handle,
        service_fn(move |request: Request<Body>| {
            give.try_send(request.into_body()).expect("room");
            ok(Request::new(Body::empty()))
        }),
    );
    let (_feed, stream) = mpsc::channel(1);
    let body = Body::new(StreamBody::new(ReceiverStream::<
        Result<Frame<Bytes>, Status>,
    >::new(stream)));
    service
        .oneshot(request(Some("alice"), body))
        .await
        .expect("a response");
    let mut body = taken.recv().await.expect("the body");
    let mut read = task::spawn(body.frame());
    assert_pending!(read.poll());
    handle.reload(nothing());
    assert!(read.is_woken());
    let error = assert_ready!(read.poll())
        .expect("a frame")
        .expect_err("an error");
    assert_eq!(error.code(), Code::PermissionDenied);
    drop(read);
    assert!(body.frame().await.is_none());
}

/// What the handler does in a poll that finds nothing: a reload between the look at the policy and the registration for the next.
#[tokio::test]
async fn whoever_waits_for_a_reload_is_told_of_its_generation() {
    let handle = permitting();
    let mut waits = task::spawn(handle.reloaded(handle.generation()));
    assert_pending!(waits.poll());
    handle.reload(nothing());
    assert!(waits.is_woken());
    assert_eq!(assert_ready!(waits.poll()), 2);
    // One that was before the wait is not missed.
    let mut late = task::spawn(handle.reloaded(1));
    assert_eq!(assert_ready!(late.poll()), 2);
}

#[tokio::test(start_paused = true)]
async fn a_reload_while_the_handler_is_polled_is_not_missed() {
    let handle = permitting();
    let reload = handle.clone();
    let service = layer(
        &handle,
        service_fn(move |_: Request<Body>| {
            let reload = reload.clone();
            std::future::poll_fn(move |_| {
                reload.reload(nothing());
                Poll::<Result<Response<Body>, BoxError>>::Pending
            })
        }),
    );
    let mut call = task::spawn(service.oneshot(alice()));
    let response = assert_ready!(call.poll()).expect("never an error");
    assert_eq!(status_of(response.headers()).code(), Code::PermissionDenied);
}

/// Many streams on several threads, and reloads at once with their registration: none is missed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_stream_misses_a_reload() {
    for _ in 0..200 {
        let handle = permitting();
        let streams: Vec<_> = (0..8)
            .map(|_| {
                let (feed, service) = fed();
                let service = layer(&handle, service);
                tokio::spawn(async move {
                    let response = service.oneshot(alice()).await.expect("never an error");
                    if response.headers().contains_key("grpc-status") {
                        return;
                    }
                    let all = response.into_body().collect().await.expect("trailers");
                    assert!(all.trailers().is_some());
                    drop(feed);
                })
            })
            .collect();
        for _ in 0..3 {
            handle.reload(base().build().expect("a policy"));
            tokio::task::yield_now().await;
        }
        handle.reload(nothing());
        for stream in streams {
            tokio::time::timeout(Duration::from_secs(10), stream)
                .await
                .expect("woken")
                .expect("no panic");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn the_rate_is_each_caller_s_own_and_a_refusal_says_when() {
    let handle = limited(Limits::new().rate(2.0, 3));
    let service = layer(&handle, service_fn(ok));
    for _ in 0..3 {
        assert_eq!(code(&service, alice()).await, Code::Ok);
    }
    let response = service
        .clone()
        .oneshot(alice())
        .await
        .expect("never an error");
    let status = status_of(response.headers());
    assert_eq!(status.code(), Code::ResourceExhausted);
    assert_eq!(response.headers()["grpc-retry-pushback-ms"], "500");
    assert_eq!(
        code(&service, request(Some("bob"), Body::empty())).await,
        Code::Ok
    );
    advance(Duration::from_millis(500)).await;
    assert_eq!(code(&service, alice()).await, Code::Ok);
    assert_eq!(code(&service, alice()).await, Code::ResourceExhausted);
    handle.reload(
        base()
            .limits(Limits::new().rate(2.0, 3))
            .build()
            .expect("a policy"),
    );
    assert_eq!(
        code(&service, alice()).await,
        Code::ResourceExhausted,
        "a reload is no refill"
    );
}

/// What a peer's own limits do not say is as for all, so that an entry for one of them does not lift the others.
#[tokio::test(start_paused = true)]
async fn a_peer_s_own_limits_stand_over_those_for_all_one_by_one() {
    let policy = |own: &str| {
        let text = format!(
            "[roles.caller]\nmethods = [\"*\"]\n[peers.alice]\nroles = [\"caller\"]\nlimits = {{ {own} }}\n\
             [limits]\nrate = 1.0\nburst = 2\nconcurrent = 1\nmax_message_bytes = 10"
        );
        PolicyHandle::new(AccessPolicy::from_toml(&text).expect("a policy"))
    };
    let in_a_row = async |own: &str| {
        let service = layer(&policy(own), service_fn(ok));
        let mut calls = 0;
        while calls < 20 && code(&service, alice()).await == Code::Ok {
            calls += 1;
        }
        calls
    };
    assert_eq!(in_a_row("concurrent = 5").await, 2, "the rate for all");
    assert_eq!(in_a_row("rate = 3.0").await, 3, "and its burst is its own");
    assert_eq!(in_a_row("rate = 1.0, burst = 9").await, 9);

    let handle = policy("rate = 100.0");
    let never = service_fn(|_: Request<Body>| pending::<Result<Response<Body>, BoxError>>());
    let mut open = task::spawn(layer(&handle, never).oneshot(alice()));
    assert_pending!(open.poll());
    let service = layer(&handle, service_fn(ok));
    assert_eq!(code(&service, alice()).await, Code::ResourceExhausted);
    drop(open);

    let read = service_fn(|request: Request<Body>| async {
        let read = request.into_body().collect().await.map(drop);
        Ok::<Response<Body>, BoxError>(match read {
            Ok(()) => Status::new(Code::Ok, "").into_http(),
            Err(status) => status.into_http(),
        })
    });
    let large = || {
        let body = http_body_util::Full::new(message(11));
        request(Some("alice"), Body::new(body))
    };
    let service = layer(&policy("concurrent = 5"), read);
    assert_eq!(code(&service, large()).await, Code::ResourceExhausted);
    let service = layer(&policy("max_message_bytes = 11"), read);
    assert_eq!(code(&service, large()).await, Code::Ok);
}

#[tokio::test(start_paused = true)]
async fn a_place_is_held_to_the_end_of_the_stream_and_returns_on_every_way_out() {
    let handle = limited(Limits::new().concurrent(1));
    let quick = layer(&handle, service_fn(ok));
    let full = |expected| {
        let quick = quick.clone();
        async move { assert_eq!(code(&quick, alice()).await, expected) }
    };

    let never = layer(
        &handle,
        service_fn(|_: Request<Body>| pending::<Result<Response<Body>, BoxError>>()),
    );
    let mut future = task::spawn(never.oneshot(alice()));
    assert_pending!(future.poll());
    full(Code::ResourceExhausted).await;
    assert_eq!(
        code(&quick, request(Some("bob"), Body::empty())).await,
        Code::Ok
    );
    drop(future);
    full(Code::Ok).await;

    let (feed, service) = fed();
    let response = layer(&handle, service)
        .oneshot(alice())
        .await
        .expect("a head");
    full(Code::ResourceExhausted).await;
    drop(response);
    full(Code::Ok).await;
    drop(feed);

    let (feed, service) = fed();
    let response = layer(&handle, service)
        .oneshot(alice())
        .await
        .expect("a head");
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", "0".parse().expect("a value"));
    feed.send(Ok(Frame::trailers(trailers)))
        .await
        .expect("room");
    let mut body = Box::pin(response.into_body());
    full(Code::ResourceExhausted).await;
    assert!(
        body.frame()
            .await
            .expect("a frame")
            .expect("trailers")
            .is_trailers()
    );
    full(Code::Ok).await;
    drop(body);
    full(Code::Ok).await;

    let failing = layer(
        &handle,
        service_fn(|_: Request<Body>| async { Err::<Response<Body>, BoxError>("lost".into()) }),
    );
    assert!(failing.oneshot(alice()).await.is_err());
    full(Code::Ok).await;

    let (_feed, service) = fed();
    let response = layer(&handle, service)
        .oneshot(alice())
        .await
        .expect("a head");
    handle.reload(nothing());
    let mut body = Box::pin(response.into_body());
    assert!(
        body.frame()
            .await
            .expect("a frame")
            .expect("trailers")
            .is_trailers()
    );
    handle.reload(
        base()
            .limits(Limits::new().concurrent(1))
            .build()
            .expect("a policy"),
    );
    full(Code::Ok).await;
}

#[tokio::test]
async fn anonymous_callers_are_one_caller() {
    let policy = AccessPolicy::builder()
        .role("r", ["*"])
        .anonymous(["r"])
        .limits(Limits::new().rate(0.001, 2));
    let handle = PolicyHandle::new(policy.build().expect("a policy"));
    let service = layer(&handle, service_fn(ok));
    let mut codes = Vec::new();
    for _ in 0..3 {
        codes.push(code(&service, request(None, Body::empty())).await);
    }
    assert_eq!(codes, [Code::Ok, Code::Ok, Code::ResourceExhausted]);
}

fn message(len: usize) -> Bytes {
    let mut bytes = vec![0];
    bytes.extend(u32::try_from(len).expect("small").to_be_bytes());
    bytes.resize(5 + len, 7);
    bytes.into()
}

#[tokio::test]
async fn a_message_above_the_limit_fails_the_stream_before_it_is_read() {
    let handle = limited(Limits::new().max_message_bytes(10));
    let service = layer(
        &handle,
        service_fn(|request: Request<Body>| async {
            let mut body = request.into_body();
            let mut read = 0;
            loop {
                match body.frame().await {
                    Some(Ok(frame)) => read += frame.into_data().map_or(0, |data| data.len()),
                    Some(Err(status)) => {
                        assert!(body.frame().await.is_none());
                        let mut response = status.into_http::<Body>();
                        response.headers_mut().insert("read", read.into());
                        return Ok(response);
                    }
                    None => return Ok::<_, BoxError>(Status::new(Code::Ok, "").into_http()),
                }
            }
        }),
    );
    let send = |frames: Vec<Bytes>| {
        let frames = frames
            .into_iter()
            .map(|data| Ok::<_, Status>(Frame::data(data)));
        let body = Body::new(StreamBody::new(tokio_stream::iter(
            frames.collect::<Vec<_>>(),
        )));
        service.clone().oneshot(request(Some("alice"), body))
    };
    let response = send(vec![message(10), message(0), message(9)])
        .await
        .expect("a response");
    assert_eq!(status_of(response.headers()).code(), Code::Ok);

    let both = [message(10), message(11)].concat();
    let large = message(1 << 20);
    for frames in [
        vec![message(10), message(11)],
        vec![both.clone().into()],
        vec![message(10), large.slice(..5), large.slice(5..)],
    ] {
        let response = send(frames).await.expect("a response");
        let status = status_of(response.headers());
        assert_eq!(status.code(), Code::ResourceExhausted);
        assert!(status.message().contains("above the 10"), "{status}");
        assert_eq!(response.headers()["read"], "15", "what came before it");
    }
    let response = send(both.chunks(3).map(Bytes::copy_from_slice).collect())
        .await
        .expect("a response");
    assert_eq!(
        status_of(response.headers()).code(),
        Code::ResourceExhausted
    );
}

#[tokio::test]
async fn a_reload_changes_the_size_that_an_open_stream_may_send() {
    let handle = permitting();
    let (give, mut taken) = mpsc::channel(1);
    let service = layer(
        &handle,
        service_fn(move |request: Request<Body>| {
            give.try_send(request.into_body()).expect("room");
            ok(Request::new(Body::empty()))
        }),
    );
    let frames = [
        Ok::<_, Status>(Frame::data(message(20))),
        Ok(Frame::data(message(20))),
    ];
    let body = Body::new(StreamBody::new(tokio_stream::iter(frames)));
    service
        .oneshot(request(Some("alice"), body))
        .await
        .expect("a response");
    let mut body = taken.recv().await.expect("the body");
    assert!(body.frame().await.expect("a frame").is_ok());
    handle.reload(
        base()
            .limits(Limits::new().max_message_bytes(10))
            .build()
            .expect("a policy"),
    );
    assert!(body.frame().await.expect("a frame").is_err());
}

/// The limit comes while a message is under way: what follows it begins where the message ends, wherever frames are cut.
#[tokio::test]
async fn a_limit_that_a_reload_sets_in_mid_message_finds_where_the_next_begins() {
    for cut in [3, 5, 12] {
        let handle = permitting();
        let (give, mut taken) = mpsc::channel(1);
        let service = layer(
            &handle,
            service_fn(move |request: Request<Body>| {
                give.try_send(request.into_body()).expect("room");
                ok(Request::new(Body::empty()))
            }),
        );
        let small = [message(8), message(4)].concat();
        let frames = [&small[..cut], &small[cut..], &message(11)]
            .map(|data| Ok::<_, Status>(Frame::data(Bytes::copy_from_slice(data))));
        let body = Body::new(StreamBody::new(tokio_stream::iter(frames)));
        service
            .oneshot(request(Some("alice"), body))
            .await
            .expect("a response");
        let mut body = taken.recv().await.expect("the body");
        assert!(body.frame().await.expect("a frame").is_ok());
        handle.reload(
            base()
                .limits(Limits::new().max_message_bytes(10))
                .build()
                .expect("a policy"),
        );
        let rest = body.frame().await.expect("a frame").expect("all small");
        assert_eq!(rest.into_data().expect("data").len(), small.len() - cut);
        let large = body.frame().await.expect("a frame").expect_err("too large");
        assert_eq!(large.code(), Code::ResourceExhausted, "cut at {cut}");
    }
}

/// A service that is ready once per poll, and counts.
#[derive(Clone, Default)]
struct Polled(Arc<AtomicU32>);

impl Service<Request<Body>> for Polled {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        Box::pin(ok(request))
    }
}

#[tokio::test]
async fn readiness_is_the_inner_service_s() {
    let inner = Polled::default();
    let mut service = layer(&permitting(), inner.clone());
    std::future::poll_fn(|cx| service.poll_ready(cx))
        .await
        .expect("ready");
    assert_eq!(inner.0.load(Ordering::Relaxed), 1);
}

thread_local! {
    /// The fields of each event of the audit that came from this thread.
    static EVENTS: RefCell<Vec<String>> = const { RefCell::new(Vec::new()) };
}

struct Events;

/// One subscriber for all tests, and before there is any call: tracing keeps for each callsite whether somebody wants it, and may ask
/// only the thread that comes there first.
fn listen() {
    static LISTENING: Once = Once::new();
    LISTENING.call_once(|| {
        let subscriber = tracing_subscriber::layer::SubscriberExt::with(
            tracing_subscriber::Registry::default(),
            Events,
        );
        tracing::subscriber::set_global_default(subscriber).expect("the only one");
    });
}

impl<S: tracing::Subscriber> tracing_subscriber::Layer<S> for Events {
    fn on_event(&self, event: &tracing::Event<'_>, _: tracing_subscriber::layer::Context<'_, S>) {
        struct Fields(String);
        impl tracing::field::Visit for Fields {
            fn record_debug(&mut self, field: &tracing::field::Field, value: &dyn std::fmt::Debug) {
                self.0 += &format!(" {}={value:?}", field.name());
            }
        }
        let mut fields = Fields(event.metadata().target().to_owned());
        event.record(&mut fields);
        EVENTS.with_borrow_mut(|events| events.push(fields.0));
    }
}

#[tokio::test(start_paused = true)]
async fn each_denial_is_an_event_and_a_flood_of_them_is_counted_instead() {
    let take = || EVENTS.take();
    take();
    let handle = permitting();
    let service = layer(&handle, service_fn(ok));
    let mut secret = request(Some("mallory"), Body::empty());
    secret
        .headers_mut()
        .insert("authorization", "secret".parse().expect("a value"));
    code(&service, secret).await;
    code(&service, request(None, Body::empty())).await;
    code(&service, alice()).await;
    handle.reload(nothing());
    code(&service, alice()).await;
    let event = |who: &str, reason: &str, generation: u32| {
        format!(
            "tower_iroh::audit message=call denied{who} method=\"{PATH}\" reason=\"{reason}\" generation={generation} left_out=0"
        )
    };
    assert_eq!(
        take(),
        [
            event(" identity=\"mallory\"", "not_permitted", 1),
            event("", "unauthenticated", 1),
            event(" identity=\"alice\"", "not_permitted", 2),
        ]
    );

    let mut long = request(Some("mallory"), Body::empty());
    *long.uri_mut() = format!("/{}", "\u{e9}x".repeat(1000))
        .parse()
        .unwrap_or_else(|_| "/x".repeat(1000).parse().expect("a uri"));
    code(&service, long).await;
    assert!(take()[0].len() < 400);

    for _ in 0..5000 {
        code(&service, alice()).await;
    }
    assert!(take().len() <= 1000);
    advance(Duration::from_secs(1)).await;
    code(&service, alice()).await;
    let last = take();
    let left_out: u64 = last[0]
        .rsplit('=')
        .next()
        .expect("a number")
        .parse()
        .expect("a number");
    assert!(left_out >= 4000, "{last:?}");
}

/// Who needs no identity to make a flood, and who makes up one for each call, keep no event about a peer out of the log.
#[tokio::test(start_paused = true)]
async fn a_flood_of_strangers_hides_no_event_about_a_peer() {
    EVENTS.take();
    let has = |what: &str| {
        let events = EVENTS.take().into_iter();
        events
            .filter(|it| it.contains(what) && it.ends_with("left_out=0"))
            .count()
    };
    let policy = || base().peer("outcast", [""; 0]);
    let handle = PolicyHandle::new(policy().build().expect("a policy"));
    let service = layer(&handle, service_fn(ok));
    let (_feed, streaming) = fed();
    let open = layer(&handle, streaming)
        .oneshot(alice())
        .await
        .expect("a head");
    let flood = async |who| {
        for _ in 0..2000 {
            code(&service, request(who, Body::empty())).await;
        }
    };
    flood(None).await;
    assert!(has("unauthenticated") > 0);
    code(&service, request(Some("mallory"), Body::empty())).await;
    assert_eq!(has("mallory"), 1);
    flood(Some("mallory")).await;
    assert!(has("mallory") < 2000);
    code(&service, request(Some("outcast"), Body::empty())).await;
    assert_eq!(has("outcast"), 1);
    // Whom a reload takes everything from is not listed any more, and no stranger for that.
    handle.reload(nothing());
    open.into_body().collect().await.expect("trailers");
    assert_eq!(has("revoked"), 1);
}

/// The response and a request's stream, which some task may hold when the response is over: who sees a revocation first notes it.
#[tokio::test(start_paused = true)]
async fn a_revocation_is_noted_once_whoever_sees_it() {
    for is_answered in [true, false] {
        let handle = permitting();
        let denials = Arc::new(Mutex::new(Vec::new()));
        let noted = denials.clone();
        let (give, mut taken) = mpsc::channel(1);
        let (_feed, stream) = mpsc::channel::<Result<Frame<Bytes>, Status>>(1);
        let mut stream = Some(stream);
        let service = AuthorizeLayer::new(handle.clone(), identify)
            .on_denial(move |denial| noted.lock().expect("no panic").push(denial.reason()))
            .layer(service_fn(move |request: Request<Body>| {
                give.try_send(request.into_body()).expect("room");
                let stream = ReceiverStream::new(stream.take().expect("one call"));
                async move {
                    Ok::<_, BoxError>(Response::new(if is_answered {
                        Body::empty()
                    } else {
                        Body::new(StreamBody::new(stream))
                    }))
                }
            }));
        let (_upload, stream) = mpsc::channel::<Result<Frame<Bytes>, Status>>(1);
        let body = Body::new(StreamBody::new(ReceiverStream::new(stream)));
        let response = service.oneshot(request(Some("alice"), body)).await;
        let response = response.expect("a head");
        let mut upload = taken.recv().await.expect("the body");
        handle.reload(nothing());
        assert!(upload.frame().await.expect("a frame").is_err());
        response.into_body().collect().await.expect("a body");
        assert_eq!(*denials.lock().expect("no panic"), [DenialReason::Revoked]);
    }
}

#[test]
fn what_is_shown_for_debugging_names_nobody() {
    let handle = limited(Limits::new().rate(1.0, 1));
    let shown = format!("{:?}", AuthorizeLayer::new(handle.clone(), identify));
    assert!(
        shown.contains("generation: 1, peers: 2, accounts: 0"),
        "{shown}"
    );
    assert!(
        !shown.contains("alice") && !shown.contains("p.S"),
        "{shown}"
    );
}

#[cfg(feature = "metrics")]
#[tokio::test]
async fn denials_are_counted_by_reason() {
    let recorder = metrics_util::debugging::DebuggingRecorder::new();
    let _guard = metrics::set_default_local_recorder(&recorder);
    let service = layer(&permitting(), service_fn(ok));
    for _ in 0..3 {
        code(&service, request(None, Body::empty())).await;
    }
    code(&service, request(Some("mallory"), Body::empty())).await;
    let mut counts: Vec<_> = recorder
        .snapshotter()
        .snapshot()
        .into_vec()
        .into_iter()
        .filter(|(_, _, _, value)| *value != metrics_util::debugging::DebugValue::Counter(0))
        .map(|(key, _, _, value)| (key.key().to_string(), format!("{value:?}")))
        .collect();
    counts.sort();
    let key = |reason: &str| format!("Key(tower_iroh_authorize_denied_total, [reason = {reason}])");
    assert_eq!(
        counts,
        [
            (key("not_permitted"), "Counter(1)".to_owned()),
            (key("unauthenticated"), "Counter(3)".to_owned())
        ]
    );
}

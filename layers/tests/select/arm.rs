//! An arm that plays a part.

use std::{
    future::{Future, poll_fn},
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, Waker},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt, Full, StreamBody};
use tokio::time::sleep;
use tonic::{Code, Status, body::Body};
use tower::{Service, ServiceExt};
use tower_iroh_layers::{
    BoxError, Fault, Incident, MethodConfig, Methods, Origin,
    select::{
        Arm, Choice, Select, SelectBody, SelectConfig, SelectHandle, SelectPolicy, SelectReason,
        Selected,
    },
};

pub(crate) const SECOND: Duration = Duration::from_secs(1);
pub(crate) const MS: Duration = Duration::from_millis(1);

/// A table that chooses the arms of these methods.
pub(crate) fn table<const N: usize>(choices: [(&str, Choice); N]) -> Methods {
    let builder = choices
        .into_iter()
        .fold(Methods::builder(), |builder, (pattern, choice)| {
            builder.method(pattern, MethodConfig::new().transport(choice))
        });
    builder.build().expect("a table")
}

/// What becomes of a call.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Part {
    /// The answer has this code in its trailers.
    Answer(Code),
    /// The way to the peer is not there.
    Unreached,
    /// The peer refuses to take it.
    Refused,
    /// The connection is lost while the peer works on it.
    Lost,
    /// A full lane: this side has no room.
    Full,
    /// Nothing ever.
    Hangs,
    /// A stream that goes on until it is dropped.
    Streams,
}

pub(crate) struct Script {
    ready: AtomicBool,
    readiness_fails: AtomicBool,
    part: Mutex<Part>,
    latency: Mutex<Duration>,
    /// One call in so many fails with UNAVAILABLE in its trailers.
    fails_every: AtomicU64,
    wakers: Mutex<Vec<Waker>>,
    pub(crate) polls: AtomicU64,
    /// Calls that it was given.
    pub(crate) calls: AtomicU64,
    /// Those that the peer began: what a server would have done something for.
    pub(crate) begun: AtomicU64,
    /// What the peer read of their requests.
    pub(crate) bytes: AtomicU64,
    /// Futures and bodies that are alive.
    pub(crate) alive: AtomicU64,
}

impl Script {
    fn new() -> Arc<Self> {
        Arc::new(Self {
            ready: AtomicBool::new(true),
            readiness_fails: AtomicBool::new(false),
            part: Mutex::new(Part::Answer(Code::Ok)),
            latency: Mutex::new(Duration::ZERO),
            fails_every: AtomicU64::new(0),
            wakers: Mutex::default(),
            polls: AtomicU64::new(0),
            calls: AtomicU64::new(0),
            begun: AtomicU64::new(0),
            bytes: AtomicU64::new(0),
            alive: AtomicU64::new(0),
        })
    }

    pub(crate) fn ready(&self, ready: bool) {
        self.ready.store(ready, Ordering::Relaxed);
        for waker in std::mem::take(&mut *self.wakers.lock().expect("no panic")) {
            waker.wake();
        }
    }

    pub(crate) fn readiness_fails(&self, fails: bool) {
        self.readiness_fails.store(fails, Ordering::Relaxed);
    }

    pub(crate) fn plays(&self, part: Part) {
        *self.part.lock().expect("no panic") = part;
    }

    pub(crate) fn takes(&self, latency: Duration) {
        *self.latency.lock().expect("no panic") = latency;
    }

    pub(crate) fn fails_every(&self, calls: u64) {
        self.fails_every.store(calls, Ordering::Relaxed);
    }

    pub(crate) fn calls(&self) -> u64 {
        self.calls.load(Ordering::Relaxed)
    }

    pub(crate) fn begun(&self) -> u64 {
        self.begun.load(Ordering::Relaxed)
    }

    pub(crate) fn polls(&self) -> u64 {
        self.polls.load(Ordering::Relaxed)
    }

    pub(crate) fn alive(&self) -> u64 {
        self.alive.load(Ordering::Relaxed)
    }

    /// How many tasks wait for its readiness.
    pub(crate) fn waits(&self) -> usize {
        self.wakers.lock().expect("no panic").len()
    }
}

/// Ready when its script says so; asserts that it was asked before it is called.
pub(crate) struct Actor {
    script: Arc<Script>,
    was_ready: bool,
}

impl Clone for Actor {
    fn clone(&self) -> Self {
        Self {
            script: self.script.clone(),
            was_ready: false,
        }
    }
}

struct Alive(Arc<Script>);

impl Alive {
    fn new(script: &Arc<Script>) -> Self {
        script.alive.fetch_add(1, Ordering::Relaxed);
        Self(script.clone())
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        self.0.alive.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Service<Request<Body>> for Actor {
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        let script = &self.script;
        script.polls.fetch_add(1, Ordering::Relaxed);
        if script.readiness_fails.load(Ordering::Relaxed) {
            return Poll::Ready(Err(Status::internal("broken").into()));
        }
        let mut wakers = script.wakers.lock().expect("no panic");
        if script.ready.load(Ordering::Relaxed) {
            self.was_ready = true;
            return Poll::Ready(Ok(()));
        }
        wakers.push(cx.waker().clone());
        Poll::Pending
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        assert!(std::mem::take(&mut self.was_ready), "called unready");
        let script = self.script.clone();
        let number = script.calls.fetch_add(1, Ordering::Relaxed) + 1;
        let alive = Alive::new(&script);
        Box::pin(async move {
            let part = *script.part.lock().expect("no panic");
            let latency = *script.latency.lock().expect("no panic");
            if !latency.is_zero() {
                sleep(latency).await;
            }
            let code = match part {
                Part::Unreached => {
                    return Err(fault(Origin::Link(Incident::new()), Code::Unavailable).into());
                }
                Part::Refused => return Err(fault(Origin::Refused, Code::Unavailable).into()),
                Part::Full => return Err(fault(Origin::Ours, Code::ResourceExhausted).into()),
                Part::Hangs => std::future::pending().await,
                Part::Answer(code) => code,
                Part::Lost | Part::Streams => Code::Ok,
            };
            script.begun.fetch_add(1, Ordering::Relaxed);
            if part == Part::Streams {
                return Ok(endless(alive));
            }
            let read = request.into_body().collect().await?.to_bytes();
            script.bytes.fetch_add(read.len() as u64, Ordering::Relaxed);
            if part == Part::Lost {
                let fault = fault(Origin::Link(Incident::new()), Code::Unavailable);
                return Err(fault.perhaps_processed().into());
            }
            let every = script.fails_every.load(Ordering::Relaxed);
            let fails = every > 0 && number.is_multiple_of(every);
            Ok(answer(if fails { Code::Unavailable } else { code }))
        })
    }
}

fn fault(origin: Origin, code: Code) -> Fault {
    Fault::unsent(origin, Status::new(code, "as the script says"))
}

fn answer(code: Code) -> Response<Body> {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", (code as i32).into());
    let frames = [
        Frame::data(Bytes::from_static(b"\0\0\0\0\0")),
        Frame::trailers(trailers),
    ];
    let frames = frames.map(Ok::<_, Status>);
    Response::new(Body::new(StreamBody::new(tokio_stream::iter(frames))))
}

/// A frame every 100 ms.
fn endless(alive: Alive) -> Response<Body> {
    let frames = futures_util::stream::unfold(alive, |alive| async {
        sleep(MS * 100).await;
        let frame = Frame::data(Bytes::from_static(b"\0\0\0\0\0"));
        Some((Ok::<_, Status>(frame), alive))
    });
    Response::new(Body::new(StreamBody::new(frames)))
}

pub(crate) type Client = Select<Actor, Actor>;

/// Both arms, and a service over them.
pub(crate) struct Stage {
    pub(crate) client: Client,
    pub(crate) actors: (Actor, Actor),
    pub(crate) handle: SelectHandle,
    pub(crate) iroh: Arc<Script>,
    pub(crate) tcp: Arc<Script>,
}

pub(crate) fn stage(policy: impl Into<SelectPolicy>) -> Stage {
    stage_with(policy, SelectConfig::default())
}

pub(crate) fn stage_with(policy: impl Into<SelectPolicy>, config: SelectConfig) -> Stage {
    let handle = SelectHandle::with_config(policy, config).named(["iroh", "tcp"]);
    let (iroh, tcp) = (Script::new(), Script::new());
    let actor = |script: &Arc<Script>| Actor {
        script: script.clone(),
        was_ready: false,
    };
    Stage {
        client: Select::new(actor(&iroh), actor(&tcp), handle.clone()),
        actors: (actor(&iroh), actor(&tcp)),
        handle,
        iroh,
        tcp,
    }
}

pub(crate) fn request(path: &str) -> Request<Body> {
    let message = Full::new(Bytes::from_static(b"\0\0\0\0\x03abc"));
    let mut request = Request::new(Body::new(message));
    *request.uri_mut() = format!("http://peer{path}").parse().expect("a URI");
    request
}

/// One call to its response's head.
pub(crate) async fn send(
    client: &mut Client,
    request: Request<Body>,
) -> Result<Response<SelectBody<Body>>, BoxError> {
    client
        .ready()
        .await
        .expect("never an error")
        .call(request)
        .await
}

/// One unary call to its end: over which arm and why, and how it ended.
pub(crate) async fn call(client: &mut Client) -> Result<(Arm, SelectReason), BoxError> {
    call_to(client, request("/a.B/C")).await
}

pub(crate) async fn call_to(
    client: &mut Client,
    request: Request<Body>,
) -> Result<(Arm, SelectReason), BoxError> {
    let response = send(client, request).await?;
    let Selected { arm, reason, .. } = *response.extensions().get().expect("selected");
    let end = response.into_body().collect().await?;
    let code = end.trailers().expect("trailers")["grpc-status"].clone();
    assert!(code == "0" || code == "14", "{code:?}");
    Ok((arm, reason))
}

pub(crate) async fn is_ready(client: &mut Client) -> bool {
    poll_fn(|cx| Poll::Ready(client.poll_ready(cx).is_ready())).await
}

pub(crate) fn tasks() -> usize {
    tokio::runtime::Handle::current()
        .metrics()
        .num_alive_tasks()
}

pub(crate) async fn settle() {
    for _ in 0..5 {
        tokio::task::yield_now().await;
    }
}

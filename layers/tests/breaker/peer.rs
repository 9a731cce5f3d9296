//! A peer that plays a script, and a caller.

use std::{
    collections::VecDeque,
    future::{Future, poll_fn},
    pin::Pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode};
use http_body::{Body, Frame};
use http_body_util::BodyExt;
use tokio::time::Instant;
use tonic::{Code, Status};
use tower::{Service, ServiceExt};
use tower_iroh_layers::{
    BoxError, Fault, Incident, Origin,
    breaker::{Breaker, BreakerConfig, BreakerConfigBuilder, Circuit},
};

/// How one call goes.
#[derive(Clone, Debug)]
pub(crate) enum Reply {
    /// Data, then trailers.
    Trailers(Code),
    /// A head that is trailers too.
    Head(Code),
    /// UNAVAILABLE, and not before so long.
    Pushback(Duration),
    /// RESOURCE_EXHAUSTED, and not before so long.
    Full(Duration),
    /// A proxy's answer.
    Http(u16),
    /// Data, and no trailers.
    NoStatus,
    /// Data, and then the stream is reset.
    Reset,
    /// No response.
    Error(Fault),
    /// Never a response.
    Hang,
    /// A head, and nothing after it.
    HangAfterHead,
    /// A head, data, and nothing after them.
    HangAfterData,
    /// So long after it is called.
    Late(Duration, Box<Reply>),
}

pub(crate) const OK: Reply = Reply::Trailers(Code::Ok);
pub(crate) const FAIL: Reply = Reply::Trailers(Code::Unavailable);

pub(crate) fn link(incident: Incident) -> Reply {
    let status = Status::unavailable("lost");
    Reply::Error(Fault::unsent(Origin::Link(incident), status))
}

/// What the peer plays next; it says OK when the script is over.
#[derive(Default)]
pub(crate) struct Peer {
    pub(crate) script: Arc<Mutex<VecDeque<Reply>>>,
    pub(crate) calls: Arc<AtomicU32>,
    /// How often its readiness was asked for.
    pub(crate) polls: Arc<AtomicU32>,
    /// Readiness fails so often.
    pub(crate) unready: Arc<AtomicU32>,
    was_ready: bool,
}

impl Clone for Peer {
    /// A clone carries no readiness.
    fn clone(&self) -> Self {
        Self {
            script: self.script.clone(),
            calls: self.calls.clone(),
            polls: self.polls.clone(),
            unready: self.unready.clone(),
            was_ready: false,
        }
    }
}

impl Peer {
    pub(crate) fn new(script: impl IntoIterator<Item = Reply>) -> Self {
        let peer = Self::default();
        peer.plays(script);
        peer
    }

    pub(crate) fn plays(&self, script: impl IntoIterator<Item = Reply>) {
        self.script.lock().expect("no panic").extend(script);
    }

    pub(crate) fn calls(&self) -> u32 {
        self.calls.load(Ordering::Relaxed)
    }
}

impl Service<Request<()>> for Peer {
    type Response = Response<Script>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Script>, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.polls.fetch_add(1, Ordering::Relaxed);
        let less = |left: u32| left.checked_sub(1);
        let ordering = Ordering::Relaxed;
        if self.unready.fetch_update(ordering, ordering, less).is_ok() {
            return Poll::Ready(Err(Status::unavailable("not ready").into()));
        }
        self.was_ready = true;
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: Request<()>) -> Self::Future {
        assert!(std::mem::take(&mut self.was_ready), "called unready");
        self.calls.fetch_add(1, Ordering::Relaxed);
        let next = self.script.lock().expect("no panic").pop_front();
        Box::pin(play(next.unwrap_or(OK)))
    }
}

async fn play(mut reply: Reply) -> Result<Response<Script>, BoxError> {
    while let Reply::Late(wait, then) = reply {
        tokio::time::sleep(wait).await;
        reply = *then;
    }
    let mut head = HeaderMap::new();
    let mut http = StatusCode::OK;
    let data = Some(Ok(Frame::data(Bytes::from_static(b"\0\0\0\0\0"))));
    let status = |code: Code, headers: &mut HeaderMap| {
        headers.insert("grpc-status", (code as i32).into());
    };
    let script: Vec<_> = match reply {
        Reply::Trailers(code) => {
            let mut trailers = HeaderMap::new();
            status(code, &mut trailers);
            vec![data, Some(Ok(Frame::trailers(trailers)))]
        }
        Reply::Head(code) => {
            status(code, &mut head);
            vec![]
        }
        Reply::Pushback(wait) | Reply::Full(wait) => {
            let code = match reply {
                Reply::Full(_) => Code::ResourceExhausted,
                _ => Code::Unavailable,
            };
            status(code, &mut head);
            let millis = wait.as_millis().to_string();
            head.insert("grpc-retry-pushback-ms", millis.parse().expect("a value"));
            vec![]
        }
        Reply::Http(code) => {
            http = StatusCode::from_u16(code).expect("a status");
            vec![]
        }
        Reply::NoStatus => vec![data],
        Reply::Reset => vec![data, Some(Err(h2::Reason::INTERNAL_ERROR.into()))],
        Reply::Error(fault) => return Err(fault.into()),
        Reply::Hang => std::future::pending().await,
        Reply::HangAfterHead => vec![None],
        Reply::HangAfterData => vec![data, None],
        Reply::Late(..) => unreachable!("played above"),
    };
    let mut response = Response::new(Script(script.into()));
    *response.headers_mut() = head;
    *response.status_mut() = http;
    Ok(response)
}

/// A body that plays a script; `None` is a frame that never comes.
pub(crate) struct Script(VecDeque<Option<Result<Frame<Bytes>, h2::Error>>>);

impl Body for Script {
    type Data = Bytes;
    type Error = h2::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        match self.0.front() {
            Some(None) => Poll::Pending,
            _ => Poll::Ready(self.0.pop_front().flatten()),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.0.is_empty()
    }
}

pub(crate) type Client = Breaker<Peer>;

pub(crate) fn client(peer: &Peer, config: BreakerConfigBuilder) -> Client {
    let config = config.build().expect("accepted");
    Breaker::new(peer.clone(), Circuit::new(config))
}

pub(crate) fn config() -> BreakerConfigBuilder {
    BreakerConfig::builder()
}

pub(crate) const SECOND: Duration = Duration::from_secs(1);

/// One call to its end; the breaker must be ready in time.
pub(crate) async fn call(client: &mut Client) {
    ready(client).await;
    finish(client.call(Request::new(()))).await;
}

pub(crate) async fn calls(client: &mut Client, times: usize) {
    for _ in 0..times {
        call(client).await;
    }
}

/// Waits for readiness, which is never an error.
pub(crate) async fn ready(client: &mut Client) {
    ServiceExt::<Request<()>>::ready(client)
        .await
        .expect("never an error");
}

/// Reads a response to its end, whatever that is.
pub(crate) async fn finish<B: Body<Data = Bytes>>(
    future: impl Future<Output = Result<Response<B>, BoxError>>,
) {
    if let Ok(response) = future.await {
        let _ = response.into_body().collect().await;
    }
}

pub(crate) async fn is_ready(client: &mut Client) -> bool {
    poll_fn(|cx| Poll::Ready(Service::<Request<()>>::poll_ready(client, cx).is_ready())).await
}

/// How long the client is not ready.
pub(crate) async fn wait(client: &mut Client) -> Duration {
    let start = Instant::now();
    ready(client).await;
    start.elapsed()
}

/// A client whose circuit has just opened by failures that the peer answered with.
pub(crate) async fn opened(peer: &Peer) -> Client {
    let mut client = client(peer, config());
    peer.plays(vec![FAIL; 5]);
    calls(&mut client, 5).await;
    assert!(!client.circuit().state().is_closed());
    client
}

/// A client that is ready, and whose next call is the probe.
pub(crate) async fn half_open(peer: &Peer) -> Client {
    let mut client = opened(peer).await;
    ready(&mut client).await;
    assert_eq!(client.circuit().state().name(), "half_open");
    client
}

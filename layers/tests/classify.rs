//! The table of verdicts, one case per row and ending, and that a body stays what it is.

use std::{
    collections::VecDeque,
    convert::Infallible,
    future::{pending, ready},
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderMap, Response};
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt as _;
use proptest::prelude::*;
use tokio::time::{Instant, advance};
use tonic::{Code, Status};
use tower_iroh_layers::{
    BoxError, Deadline, Fault, Incident, Origin,
    classify::{Ending, Outcome, Pushback, TrackedBody, Verdict, track},
};

/// A body that plays a script; what has no more to say is pending.
#[derive(Default)]
struct Script {
    frames: VecDeque<Result<Frame<Bytes>, Status>>,
    ends: bool,
}

impl Script {
    fn ending(frames: impl IntoIterator<Item = Result<Frame<Bytes>, Status>>) -> Self {
        Self {
            frames: frames.into_iter().collect(),
            ends: true,
        }
    }

    fn going_on(frames: impl IntoIterator<Item = Result<Frame<Bytes>, Status>>) -> Self {
        Self {
            ends: false,
            ..Self::ending(frames)
        }
    }
}

impl Body for Script {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match self.frames.pop_front() {
            None if !self.ends => Poll::Pending,
            frame => Poll::Ready(frame),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.ends && self.frames.is_empty()
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.frames.len() as u64)
    }
}

/// Every outcome that was told.
#[derive(Clone, Default)]
struct Told(Arc<Mutex<Vec<Outcome>>>);

impl Told {
    fn observer(&self) -> impl FnOnce(&Outcome) + use<> {
        let told = self.0.clone();
        move |outcome| told.lock().expect("no panic").push(*outcome)
    }

    fn is_silent(&self) -> bool {
        self.0.lock().expect("no panic").is_empty()
    }

    /// The one that there must be.
    fn one(&self) -> Outcome {
        let told = self.0.lock().expect("no panic");
        assert_eq!(told.len(), 1, "{told:?}");
        told[0]
    }
}

fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
    let mut map = HeaderMap::new();
    for (name, value) in pairs {
        map.insert(*name, value.parse().expect("a value"));
    }
    map
}

fn head(pairs: &[(&'static str, &'static str)], body: Script) -> Response<Script> {
    let mut response = Response::new(body);
    *response.headers_mut() = headers(pairs);
    response
}

fn data() -> Result<Frame<Bytes>, Status> {
    Ok(Frame::data(Bytes::from_static(b"\0\0\0\0\x01x")))
}

fn trailers(status: &'static str) -> Result<Frame<Bytes>, Status> {
    Ok(Frame::trailers(headers(&[("grpc-status", status)])))
}

type Followed<O> = Result<Response<TrackedBody<Script, O>>, BoxError>;

/// Reads the response to its end, as a client does.
async fn read(response: Response<Script>) -> Outcome {
    let told = Told::default();
    let future = track(ready(Ok::<_, Infallible>(response)), told.observer(), None);
    let response = future.await.expect("a response");
    let mut body = response.into_body();
    while let Some(Ok(_)) = body.frame().await {}
    let outcome = told.one();
    drop(body);
    told.one();
    outcome
}

async fn failed(error: impl Into<BoxError>) -> Outcome {
    let told = Told::default();
    let result: Followed<_> = track(ready(Err(error.into())), told.observer(), None).await;
    assert!(result.is_err());
    told.one()
}

#[tokio::test]
async fn trailers_only_decides_at_the_head() {
    let told = Told::default();
    let response = head(&[("grpc-status", "14")], Script::default());
    let _response: Followed<_> =
        track(ready(Ok::<_, Infallible>(response)), told.observer(), None).await;
    let outcome = told.one();
    assert_eq!(
        (outcome.ending(), outcome.code()),
        (Ending::Head, Code::Unavailable)
    );
    assert_eq!(outcome.verdict(None), Verdict::Failure);
    let outcome = read(head(&[("grpc-status", "0")], Script::ending([]))).await;
    assert_eq!(
        (outcome.ending(), outcome.verdict(None)),
        (Ending::Head, Verdict::Success)
    );
}

#[tokio::test]
async fn every_code_in_the_trailers_has_the_table_s_verdict() {
    for code in 0..=16 {
        let status: &'static str = code.to_string().leak();
        let outcome = read(head(&[], Script::ending([data(), trailers(status)]))).await;
        assert_eq!(outcome.ending(), Ending::Trailers);
        let expected = match Code::from(code) {
            Code::Unavailable => Verdict::Failure,
            // The application's own, and the peer is there.
            Code::Internal | Code::DataLoss | Code::Unknown => Verdict::Application,
            Code::ResourceExhausted => Verdict::Overload,
            // Without a deadline of the caller's they are the handler's own.
            Code::Cancelled | Code::DeadlineExceeded => Verdict::Neutral,
            _ => Verdict::Success,
        };
        assert_eq!(outcome.verdict(None), expected, "{code}");
    }
}

#[tokio::test]
async fn an_end_without_a_status_is_a_failure() {
    let quiet = Script::ending([data()]);
    let empty = Script::ending([]);
    let bare = Script::ending([data(), Ok(Frame::trailers(headers(&[("a", "b")])))]);
    for body in [quiet, empty, bare] {
        let outcome = read(head(&[("content-type", "application/grpc")], body)).await;
        assert_eq!(
            (outcome.ending(), outcome.code()),
            (Ending::NoStatus, Code::Unknown)
        );
        assert_eq!(outcome.verdict(None), Verdict::Failure);
    }
}

#[tokio::test]
async fn what_is_not_grpc_is_a_failure() {
    let mut response = head(&[], Script::ending([data()]));
    *response.status_mut() = http::StatusCode::BAD_GATEWAY;
    let outcome = read(response).await;
    assert_eq!(
        outcome.ending(),
        Ending::Http(http::StatusCode::BAD_GATEWAY)
    );
    assert_eq!(outcome.code(), Code::Unavailable);
    assert_eq!(outcome.verdict(None), Verdict::Failure);
    let outcome = read(head(
        &[("content-type", "text/html")],
        Script::ending([data()]),
    ))
    .await;
    assert_eq!(
        (outcome.ending(), outcome.verdict(None)),
        (Ending::NotGrpc, Verdict::Failure)
    );
    for (status, verdict) in [
        // About the caller or its request, as a proxy says it.
        (400, Verdict::Neutral),
        (401, Verdict::Neutral),
        (403, Verdict::Neutral),
        (404, Verdict::Neutral),
        (413, Verdict::Neutral),
        (431, Verdict::Neutral),
        (429, Verdict::Overload),
        (302, Verdict::Failure),
        (408, Verdict::Failure),
        (500, Verdict::Failure),
        (503, Verdict::Failure),
    ] {
        let mut response = head(&[], Script::ending([data()]));
        *response.status_mut() = http::StatusCode::from_u16(status).expect("a status");
        assert_eq!(read(response).await.verdict(None), verdict, "{status}");
    }
    // A gRPC status outranks the HTTP one.
    let mut response = head(&[("grpc-status", "7")], Script::ending([]));
    *response.status_mut() = http::StatusCode::FORBIDDEN;
    assert_eq!(read(response).await.verdict(None), Verdict::Success);
}

#[tokio::test]
async fn a_reset_in_the_middle_has_its_own_code() {
    let body = Script::ending([data(), Err(Status::internal("reset"))]);
    let outcome = read(head(&[], body)).await;
    assert_eq!(
        (outcome.ending(), outcome.code()),
        (Ending::BodyError, Code::Internal)
    );
    assert_eq!(outcome.verdict(None), Verdict::Failure);
}

#[tokio::test]
async fn whose_failure_it_is_decides() {
    let incident = Incident::new();
    for (origin, verdict) in [
        (Origin::Refused, Verdict::Neutral),
        (Origin::Ours, Verdict::Neutral),
        (Origin::Link(incident), Verdict::Link(incident)),
        (Origin::Peer, Verdict::Failure),
    ] {
        let outcome = failed(Fault::unsent(origin, Status::unavailable(""))).await;
        assert_eq!(outcome.verdict(None), verdict, "{origin:?}");
        assert_eq!(
            (outcome.ending(), outcome.code()),
            (Ending::Error, Code::Unavailable)
        );
        assert!(outcome.not_processed());
    }
    let lost = Fault::perhaps_sent(Origin::Link(incident), Status::unavailable(""));
    assert!(!failed(lost).await.not_processed());
    assert_eq!(
        failed("no code at all").await.verdict(None),
        Verdict::Failure
    );
    // A failure that comes as a body's error is no less one.
    let told = Told::default();
    let fault = Fault::unsent(Origin::Link(incident), Status::unavailable(""));
    let body = Script::ending([Err(Status::from_error(Box::new(fault)))]);
    let response: Followed<_> = track(
        ready(Ok::<_, Infallible>(head(&[], body))),
        told.observer(),
        None,
    )
    .await;
    let _ = response.expect("a head").into_body().collect().await;
    assert_eq!(told.one().verdict(None), Verdict::Link(incident));
}

#[tokio::test]
async fn a_caller_who_leaves_says_nothing_and_one_who_had_enough_is_content() {
    let told = Told::default();
    let future = track(
        pending::<Result<Response<Script>, Infallible>>(),
        told.observer(),
        None,
    );
    assert!(told.is_silent());
    drop(future);
    assert_eq!(told.one().ending(), Ending::FutureDropped);
    assert_eq!(
        (told.one().code(), told.one().verdict(None)),
        (Code::Cancelled, Verdict::Neutral)
    );

    for (frames, after_data, verdict) in [
        (vec![], false, Verdict::Neutral),
        (vec![data()], true, Verdict::Success),
    ] {
        let told = Told::default();
        let response = head(&[], Script::going_on(frames));
        let response: Followed<_> =
            track(ready(Ok::<_, Infallible>(response)), told.observer(), None).await;
        let mut body = response.expect("a head").into_body();
        if after_data {
            body.frame().await.expect("a frame").expect("data");
        }
        assert!(told.is_silent());
        drop(body);
        assert_eq!(told.one().ending(), Ending::BodyDropped { after_data });
        assert_eq!(told.one().verdict(None), verdict);
    }
}

#[tokio::test(start_paused = true)]
async fn a_missed_deadline_counts_when_it_was_a_fair_one() {
    let s = Duration::from_secs;
    let ms = Duration::from_millis;
    for (limit, rtt, verdict) in [
        (ms(985), None, Verdict::Neutral),
        // A second, of which the layers above have taken a moment.
        (ms(999), None, Verdict::Failure),
        (s(1), None, Verdict::Failure),
        (s(1), Some(ms(250)), Verdict::Failure),
        (s(1), Some(ms(251)), Verdict::Neutral),
        (s(2), Some(ms(500)), Verdict::Failure),
    ] {
        // The layer above drops what it waits for no longer.
        let told = Told::default();
        let never = pending::<Result<Response<Script>, Infallible>>();
        let future = track(never, told.observer(), Some(Deadline::after(limit)));
        advance(limit).await;
        drop(future);
        assert_eq!(told.one().code(), Code::DeadlineExceeded);
        assert_eq!(told.one().verdict(rtt), verdict, "{limit:?} {rtt:?}");

        // A peer that goes by its own clock: tonic's servers say CANCELLED.
        for (status, left, timely) in [
            ("4", ms(4), true),
            // The handler's own, about something else.
            ("4", limit / 2, false),
            ("1", ms(4), true),
            ("1", limit / 2, false),
        ] {
            let told = Told::default();
            let response = head(&[("grpc-status", status)], Script::ending([]));
            let deadline = Deadline::after(limit);
            let future = track(
                ready(Ok::<_, Infallible>(response)),
                told.observer(),
                Some(deadline),
            );
            advance(limit - left).await;
            let _: Followed<_> = future.await;
            let expected = if timely { verdict } else { Verdict::Neutral };
            assert_eq!(
                told.one().verdict(rtt),
                expected,
                "{status} {left:?} before {limit:?}"
            );
        }
    }
    // How long the attempt had counts, not how long the call had.
    let deadline = Deadline::at(Instant::now() + s(60));
    advance(ms(59_500)).await;
    let told = Told::default();
    let never = pending::<Result<Response<Script>, Infallible>>();
    let future = track(never, told.observer(), Some(deadline));
    advance(ms(500)).await;
    drop(future);
    assert_eq!(told.one().verdict(None), Verdict::Neutral);
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_delivers_until_its_deadline_is_no_failure() {
    let s = Duration::from_secs;
    // Our clock, and the peer's by what it says.
    for (last, messages, verdict) in [
        (None, 0, Verdict::Failure),
        (None, 1, Verdict::Neutral),
        (Some(trailers("4")), 1, Verdict::Neutral),
        (Some(trailers("1")), 1, Verdict::Neutral),
        (Some(Err(Status::cancelled("timeout"))), 1, Verdict::Neutral),
        (Some(trailers("4")), 0, Verdict::Failure),
    ] {
        let told = Told::default();
        let ended_by_peer = last.is_some();
        let frames = (0..messages).map(|_| data()).chain(last);
        let response = head(&[], Script::going_on(frames));
        let deadline = Deadline::after(s(10));
        let future = track(
            ready(Ok::<_, Infallible>(response)),
            told.observer(),
            Some(deadline),
        );
        let response: Followed<_> = future.await;
        let mut body = response.expect("a head").into_body();
        for _ in 0..messages {
            body.frame().await.expect("a frame").expect("data");
        }
        advance(s(10)).await;
        if ended_by_peer {
            let _ = body.frame().await;
        }
        drop(body);
        assert_eq!(told.one().code(), Code::DeadlineExceeded);
        assert_eq!(told.one().verdict(None), verdict, "{:?}", told.one());
    }
}

#[tokio::test]
async fn pushback_is_read_wherever_the_status_is() {
    let second = Some(Pushback::After(Duration::from_secs(1)));
    let pairs: [(&str, &str); 2] = [("grpc-status", "8"), ("grpc-retry-pushback-ms", "1000")];
    let outcome = read(head(&pairs, Script::ending([]))).await;
    assert_eq!(
        (outcome.verdict(None), outcome.pushback()),
        (Verdict::Overload, second)
    );
    let body = Script::ending([data(), Ok(Frame::trailers(headers(&pairs)))]);
    assert_eq!(read(head(&[], body)).await.pushback(), second);
    let mut status = Status::resource_exhausted("later");
    status
        .metadata_mut()
        .insert("grpc-retry-pushback-ms", "1000".parse().expect("a value"));
    assert_eq!(failed(status).await.pushback(), second);
}

#[tokio::test]
async fn a_followed_body_has_the_size_and_the_end_of_its_own() {
    let told = Told::default();
    let response = head(&[], Script::ending([data(), trailers("0")]));
    let response: Followed<_> =
        track(ready(Ok::<_, Infallible>(response)), told.observer(), None).await;
    let mut body = response.expect("a head").into_body();
    assert_eq!(body.size_hint().exact(), Some(2));
    assert!(!body.is_end_stream());
    body.frame().await;
    assert_eq!(body.size_hint().exact(), Some(1));
    assert!(told.is_silent() && !body.is_end_stream());
    body.frame().await;
    assert!(body.is_end_stream());
    assert_eq!(told.one().verdict(None), Verdict::Success);
}

proptest! {
    /// Whatever a server says and wherever the caller stops, there is one outcome.
    #[test]
    fn one_outcome_whatever_happens(
        status in proptest::option::of(proptest::collection::vec(0x20u8..0x7f, 0..4)),
        http in 200u16..600,
        frames in 0usize..4,
        ends in any::<bool>(),
        taken in 0usize..6,
    ) {
        let told = Told::default();
        let frames = (0..frames).map(|_| data()).collect::<Vec<_>>();
        let body = if ends { Script::ending(frames) } else { Script::going_on(frames) };
        let mut response = head(&[], body);
        *response.status_mut() = http::StatusCode::from_u16(http).expect("in range");
        if let Some(status) = status {
            let value = http::HeaderValue::from_bytes(&status).expect("visible ASCII");
            response.headers_mut().insert("grpc-status", value);
        }
        let mut cx = Context::from_waker(std::task::Waker::noop());
        let mut future = Box::pin(track(ready(Ok::<_, Infallible>(response)), told.observer(), None));
        let Poll::Ready(Ok(response)) = future.as_mut().poll(&mut cx) else {
            panic!("it is ready");
        };
        let mut body = response.into_body();
        for _ in 0..taken {
            let _ = Pin::new(&mut body).poll_frame(&mut cx);
        }
        drop(body);
        told.one();
    }
}

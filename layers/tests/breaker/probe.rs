//! Half-open: one permit, and who has a say.

use std::{
    future::Future,
    pin::pin,
    task::{Context, Poll, Waker},
};

use http::Request;
use http_body_util::BodyExt;
use tokio::time::Instant;
use tonic::{Code, Status};
use tower::Service;
use tower_iroh_layers::{Fault, Origin, breaker::BreakerLayer};

use crate::peer::*;

fn request() -> Request<()> {
    Request::new(())
}

#[tokio::test(start_paused = true)]
async fn a_probe_decides() {
    for (reply, state) in [
        (OK, "closed"),
        (Reply::Head(Code::NotFound), "closed"),
        (FAIL, "open"),
        (Reply::NoStatus, "open"),
        // Answers: the peer is there.
        (Reply::Head(Code::ResourceExhausted), "closed"),
        (Reply::Trailers(Code::Internal), "closed"),
        (Reply::Trailers(Code::DeadlineExceeded), "closed"),
        (Reply::Http(403), "closed"),
        (Reply::Trailers(Code::Cancelled), "half_open"),
        (
            Reply::Error(Fault::unsent(Origin::Ours, Status::unavailable(""))),
            "half_open",
        ),
    ] {
        let peer = Peer::default();
        let mut client = half_open(&peer).await;
        peer.plays([reply.clone()]);
        call(&mut client).await;
        assert_eq!(client.circuit().state().name(), state, "{reply:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_probe_cancelled_at_every_await_point_lets_the_next_in() {
    // At each number of polls, of the future or of its body, and never polled at all.
    for reply in [Reply::Hang, Reply::HangAfterHead, Reply::HangAfterData] {
        for polls in 0..4 {
            let peer = Peer::default();
            let mut client = half_open(&peer).await;
            let mut next = client.clone();
            peer.plays([reply.clone()]);
            let mut probe = Box::pin(client.call(request()));
            assert!(!is_ready(&mut next).await, "the permit is taken");
            let mut cx = Context::from_waker(Waker::noop());
            let mut body = None;
            for _ in 0..polls {
                match &mut body {
                    None => {
                        if let Poll::Ready(response) = probe.as_mut().poll(&mut cx) {
                            body = Some(Box::pin(response.expect("a head").into_body()));
                        }
                    }
                    Some(body) => {
                        let _ = http_body::Body::poll_frame(body.as_mut(), &mut cx);
                    }
                }
            }
            assert!(!is_ready(&mut next).await);
            let mut woken = tokio_test::task::spawn(async { ready(&mut next).await });
            assert!(woken.poll().is_pending());
            drop((probe, body));
            assert!(woken.is_woken(), "{reply:?} after {polls} polls");
            assert!(woken.poll().is_ready());
            drop(woken);
            call(&mut next).await;
            assert!(next.circuit().state().is_closed());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_straggler_decides_nothing() {
    // Six calls begin while it is closed; five of them open it.
    for late in [OK, FAIL] {
        let peer = Peer::new([Reply::Late(SECOND * 60, Box::new(late))]);
        let mut client = client(&peer, config());
        ready(&mut client).await;
        let straggler = client.call(request());
        peer.plays(vec![FAIL; 5]);
        calls(&mut client, 5).await;
        client.circuit().force_open();
        let before = client.circuit().statistics();
        finish(straggler).await;
        let after = client.circuit().statistics();
        assert_eq!(
            (after.state, after.codes, after.opened),
            (before.state, before.codes, before.opened)
        );
    }
    // One that began before the trip ends while a probe is under way.
    let peer = Peer::new([Reply::Late(SECOND * 2, Box::new(OK))]);
    let mut client = client(&peer, config());
    ready(&mut client).await;
    let straggler = client.call(request());
    peer.plays(vec![FAIL; 5]);
    calls(&mut client, 5).await;
    ready(&mut client).await;
    peer.plays([Reply::Hang]);
    let probe = client.call(request());
    finish(straggler).await;
    assert_eq!(client.circuit().state().name(), "half_open");
    assert!(!is_ready(&mut client).await, "the permit is the probe's");
    drop(probe);
    assert!(is_ready(&mut client).await);
}

#[tokio::test(start_paused = true)]
async fn who_loses_the_race_waits_in_its_future_and_does_not_fail() {
    let peer = Peer::default();
    let mut first = half_open(&peer).await;
    let mut second = first.clone();
    let mut third = first.clone();
    ready(&mut second).await;
    ready(&mut third).await;
    peer.plays([Reply::Late(SECOND, Box::new(OK))]);
    let begun = peer.calls();
    let probe = tokio::spawn(finish(first.call(request())));
    let lost = tokio::spawn(finish(second.call(request())));
    let gone = third.call(request());
    tokio::time::advance(SECOND / 2).await;
    assert_eq!(peer.calls() - begun, 1);
    assert!(!lost.is_finished());
    drop(gone);
    probe.await.expect("no panic");
    lost.await.expect("no panic");
    assert_eq!(peer.calls() - begun, 2);
    assert!(first.circuit().state().is_closed());
}

#[tokio::test(start_paused = true)]
async fn a_call_that_loses_the_race_is_not_held_for_longer_than_its_wait() {
    for (limit, fails) in [(Some(SECOND * 2), true), (None, false)] {
        let peer = Peer::default();
        let mut first = half_open(&peer).await.max_wait(limit);
        let mut second = first.clone();
        ready(&mut second).await;
        // The peer stays away: each probe fails, and another call is always first to the next.
        peer.plays([Reply::Hang]);
        let probe = first.call(request());
        let began = peer.calls();
        let mut lost = tokio_test::task::spawn(second.call(request()));
        assert!(lost.poll().is_pending());
        tokio::time::advance(SECOND * 199 / 100).await;
        assert!(lost.poll().is_pending());
        tokio::time::advance(SECOND / 50).await;
        assert_eq!(lost.poll().is_ready(), fails, "{limit:?}");
        assert_eq!(peer.calls(), began, "it was not sent");
        drop((probe, lost));
        assert_eq!(first.circuit().statistics().waiting, 0);
        assert!(is_ready(&mut first).await, "the permit is there");
    }
    // What it is told, where it is the stack's own wait.
    let peer = Peer::default();
    let mut first = half_open(&peer).await;
    let mut second = first.clone();
    ready(&mut second).await;
    peer.plays([Reply::Hang]);
    let _probe = first.call(request());
    let began = Instant::now();
    let error = second.call(request()).await.map(drop).expect_err("held");
    assert_eq!(began.elapsed(), BreakerLayer::MAX_WAIT);
    let fault = Fault::find(&*error).expect("a fault");
    assert!(fault.origin() == Origin::Ours && fault.not_processed() && fault.is_temporary());
    let status = fault.status();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("circuit breaker"), "{status:?}");
}

#[tokio::test(start_paused = true)]
async fn who_was_told_ready_before_the_trip_waits_too() {
    let peer = Peer::default();
    let mut early = client(&peer, config());
    let mut other = early.clone();
    ready(&mut early).await;
    peer.plays(vec![FAIL; 5]);
    calls(&mut other, 5).await;
    let begun = peer.calls();
    let mut call = pin!(finish(early.call(request())));
    let mut cx = Context::from_waker(Waker::noop());
    assert!(call.as_mut().poll(&mut cx).is_pending());
    assert_eq!(peer.calls(), begun);
    call.await;
    assert_eq!(peer.calls(), begun + 1, "it was the probe");
    assert!(early.circuit().state().is_closed());
}

#[tokio::test(start_paused = true)]
async fn a_stream_that_goes_on_and_a_probe_that_hangs_hold_nobody_for_ever() {
    let peer = Peer::default();
    let mut client = half_open(&peer).await;
    peer.plays([Reply::HangAfterHead]);
    let stream = client.call(request()).await.expect("a head");
    assert_eq!(client.circuit().state().name(), "half_open");
    assert!(wait(&mut client).await <= SECOND * 11 / 10);
    assert!(client.circuit().state().is_closed(), "it goes well");
    drop(stream);

    let mut client = half_open(&peer).await;
    peer.plays([Reply::Hang]);
    let hangs = client.call(request());
    let waited = wait(&mut client).await;
    assert!((29..=31).contains(&waited.as_secs()), "{waited:?}");
    call(&mut client).await;
    assert!(client.circuit().state().is_closed());
    drop(hangs);
    assert!(client.circuit().state().is_closed());
}

#[tokio::test(start_paused = true)]
async fn a_panic_in_the_inner_call_gives_the_permit_back() {
    let peer = Peer::default();
    let client = half_open(&peer).await;
    let mut broken = client.clone();
    // Its inner service was never ready, and asserts that it was.
    let panics = std::panic::AssertUnwindSafe(|| drop(broken.call(request())));
    std::panic::catch_unwind(panics).expect_err("called unready");
    let mut client = client;
    assert!(is_ready(&mut client).await);
    let response = client.call(request()).await.expect("a head");
    response.into_body().collect().await.expect("a body");
    assert!(client.circuit().state().is_closed());
}

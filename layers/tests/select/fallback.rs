//! Arms that fail.

use bytes::Bytes;
use http::Request;
use http_body::Frame;
use http_body_util::StreamBody;
use tokio::time::Instant;
use tonic::{Code, Status, body::Body};
use tower_iroh_layers::{
    Deadline,
    fault::code_of,
    select::{Arm, Choice, SelectConfig, SelectPolicy, SelectReason},
};

use crate::arm::{MS, Part, SECOND, call, call_to, request, stage, stage_with, table};

fn prefer_iroh() -> SelectPolicy {
    let policy = SelectPolicy::builder(Choice::Prefer(Arm::First))
        .methods(&table([("x.Y", Choice::Fixed(Arm::First))]));
    policy.build().expect("accepted")
}

#[tokio::test(start_paused = true)]
async fn what_was_not_sent_goes_over_the_other_arm_once() {
    for part in [Part::Unreached, Part::Refused] {
        let mut stage = stage(prefer_iroh());
        stage.iroh.plays(part);
        let over = call(&mut stage.client).await.expect("answered");
        assert_eq!(over, (Arm::Second, SelectReason::FailedUnsent), "{part:?}");
        assert_eq!((stage.iroh.begun(), stage.tcp.begun()), (0, 1));
        // All of the request.
        assert_eq!(
            stage.tcp.bytes.load(std::sync::atomic::Ordering::Relaxed),
            8
        );
        let failed = stage.handle.statistics(Arm::First);
        assert_eq!((failed.calls, failed.failures), (1, 1), "{part:?}");

        // The other one fails as well: that is the answer, and no third attempt.
        stage.tcp.plays(part);
        let error = call(&mut stage.client).await.expect_err("both");
        assert_eq!(code_of(&*error), Code::Unavailable);
        assert_eq!((stage.iroh.calls(), stage.tcp.calls()), (2, 2));
    }
}

#[tokio::test(start_paused = true)]
async fn nothing_that_may_have_been_sent_is_sent_again() {
    for (part, code) in [
        (Part::Lost, Code::Unavailable),
        (Part::Full, Code::ResourceExhausted),
    ] {
        let mut stage = stage(prefer_iroh());
        stage.iroh.plays(part);
        let error = call(&mut stage.client).await.expect_err("as it came");
        assert_eq!(code_of(&*error), code, "{part:?}");
        assert_eq!((stage.iroh.calls(), stage.tcp.calls()), (1, 0), "{part:?}");
        assert_eq!(stage.handle.decisions().fallbacks(), 0);
    }
    // An answer that says UNAVAILABLE is an answer.
    let mut stage = stage(prefer_iroh());
    stage.iroh.plays(Part::Answer(Code::Unavailable));
    let over = call(&mut stage.client).await.expect("answered");
    assert_eq!(over, (Arm::First, SelectReason::Preferred));
    assert_eq!(stage.tcp.calls(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_fixed_arm_has_no_other() {
    let mut stage = stage(prefer_iroh());
    stage.iroh.plays(Part::Unreached);
    let error = call_to(&mut stage.client, request("/x.Y/Z")).await;
    assert_eq!(code_of(&*error.expect_err("unreached")), Code::Unavailable);
    assert_eq!(stage.tcp.calls(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_other_arm_is_waited_for_no_longer_than_it_may_be_away() {
    let mut stage = stage(prefer_iroh());
    stage.iroh.plays(Part::Unreached);
    stage.tcp.ready(false);
    let start = Instant::now();
    let error = call(&mut stage.client).await.expect_err("in vain");
    assert_eq!(start.elapsed(), SECOND * 2);
    let said = Status::from_error(error);
    assert_eq!(said.message(), "as the script says", "how it failed first");
    // It has been away for long: at once.
    let error = call(&mut stage.client).await.expect_err("in vain");
    assert_eq!(
        (start.elapsed(), code_of(&*error)),
        (SECOND * 2, Code::Unavailable)
    );

    // In time.
    stage.tcp.ready(true);
    call(&mut stage.client).await.expect("answered");
    stage.tcp.ready(false);
    let mut client = stage.client.clone();
    let waits = tokio::spawn(async move { call(&mut client).await });
    tokio::time::sleep(SECOND).await;
    stage.tcp.ready(true);
    let over = waits.await.expect("no panic").expect("answered");
    assert_eq!(over, (Arm::Second, SelectReason::FailedUnsent));
}

#[tokio::test(start_paused = true)]
async fn the_time_that_an_arm_took_is_the_call_s() {
    let mut stage = stage(prefer_iroh());
    stage.iroh.plays(Part::Unreached);
    stage.iroh.takes(SECOND);
    let mut late = request("/a.B/C");
    late.extensions_mut().insert(Deadline::after(MS * 500));
    let error = call_to(&mut stage.client, late).await.expect_err("late");
    assert_eq!(code_of(&*error), Code::Unavailable);
    assert_eq!(stage.tcp.calls(), 0);
    let mut early = request("/a.B/C");
    early.extensions_mut().insert(Deadline::after(SECOND * 5));
    let over = call_to(&mut stage.client, early).await.expect("answered");
    assert_eq!(over.0, Arm::Second);
}

/// A request that is a stream, of which the arm that fails has read some.
fn streaming(frames: usize) -> Request<Body> {
    let frames = (0..frames).map(|_| Ok::<_, Status>(Frame::data(Bytes::from(vec![0; 1000]))));
    let body = StreamBody::new(tokio_stream::iter(frames));
    request("/a.B/C").map(|_| Body::new(body))
}

#[tokio::test(start_paused = true)]
async fn a_stream_of_requests_falls_back_too_as_long_as_all_of_it_is_there() {
    let config = SelectConfig::builder().max_buffered(2000);
    let mut stage = stage_with(prefer_iroh(), config.build().expect("accepted"));
    stage.iroh.plays(Part::Unreached);
    let over = call_to(&mut stage.client, streaming(10)).await;
    assert_eq!(over.expect("answered").0, Arm::Second);
    let bytes = stage.tcp.bytes.load(std::sync::atomic::Ordering::Relaxed);
    assert_eq!(bytes, 10_000, "nothing had been read");
}

#[tokio::test(start_paused = true)]
async fn adaptive_and_canary_fall_back_as_well_but_not_onto_what_is_tried_out() {
    use tower_iroh_layers::select::Canary;
    let policy = |share| {
        let canary = Canary::builder("n", Arm::First).share(share);
        let canary = Choice::Canary(canary.build().expect("accepted"));
        let policy = SelectPolicy::builder(canary)
            .methods(&table([("x.Y", Choice::Adaptive(Default::default()))]));
        policy.build().expect("accepted")
    };
    let mut stage = stage(policy(10_000));
    stage.iroh.plays(Part::Unreached);
    for path in ["/a.B/C", "/x.Y/Z"] {
        let over = call_to(&mut stage.client, request(path)).await;
        assert_eq!(
            over.expect("answered"),
            (Arm::Second, SelectReason::FailedUnsent)
        );
    }
    stage.handle.swap(policy(0));
    stage.iroh.plays(Part::Answer(Code::Ok));
    stage.tcp.plays(Part::Unreached);
    let calls = stage.iroh.calls();
    call(&mut stage.client).await.expect_err("unreached");
    assert_eq!(stage.iroh.calls(), calls, "nobody is in the canary");
}

//! With the layers that stand around it.
#![cfg(all(feature = "breaker", feature = "fail-fast"))]

use http_body_util::BodyExt;
use tonic::Status;
use tower::{Layer, Service, ServiceExt};
use tower_iroh_layers::{
    breaker::{BreakerConfig, BreakerLayer, Circuit},
    fail_fast::{FailFast, FailFastConfig},
    select::{
        Arm, Choice, Select, SelectConfig, SelectHandle, SelectPolicy, SelectReason, Selected,
    },
};

use crate::arm::{MS, Part, SECOND, request, stage, table};

fn policy(default: Choice) -> SelectPolicy {
    let policy =
        SelectPolicy::builder(default).methods(&table([("x.Y", Choice::Fixed(Arm::First))]));
    policy.build().expect("accepted")
}

/// Each arm has a circuit of its own, and a fail-fast stands above both.
macro_rules! stacked {
    ($stage:expr, $circuits:expr, $handle:expr) => {{
        let [iroh, tcp] = $circuits;
        let (first, second) = $stage.actors.clone();
        let select = Select::new(
            BreakerLayer::new(iroh.clone()).layer(first),
            BreakerLayer::new(tcp.clone()).layer(second),
            $handle,
        );
        FailFast::new(select, FailFastConfig::default())
    }};
}

#[tokio::test(start_paused = true)]
async fn an_open_breaker_falls_back_and_the_half_open_one_is_probed_and_returned_to() {
    let stage = stage(policy(Choice::Prefer(Arm::First)));
    let config = BreakerConfig::builder().first_wait(SECOND * 30);
    let config = config.build().expect("accepted");
    let circuits = [(); 2].map(|()| Circuit::new(config.clone()));
    let why = circuits.clone();
    let config = SelectConfig::builder().why(move |arm| why[arm as usize].why());
    let config = config.build().expect("accepted");
    let handle = SelectHandle::with_config(policy(Choice::Prefer(Arm::First)), config)
        .named(["iroh", "tcp"]);
    let mut client = stacked!(stage, &circuits, handle.clone());

    // Two dials that fail open it. Each call is answered, and none of them twice.
    stage.iroh.plays(Part::Unreached);
    let mut answered = 0;
    while circuits[0].state().is_closed() {
        let ready = ServiceExt::<http::Request<_>>::ready(&mut client).await;
        let response = ready.expect("ready").call(request("/a.B/C")).await;
        let response = response.expect("answered");
        let selected: Selected = *response.extensions().get().expect("selected");
        assert_eq!(selected.arm, Arm::Second);
        response.into_body().collect().await.expect("a body");
        answered += 1;
    }
    assert_eq!(
        (answered, stage.iroh.calls(), stage.iroh.begun()),
        (2, 2, 0)
    );
    circuits[0].force_open();

    // Open: straight to the other one, and who must go there is told why not.
    for _ in 0..50 {
        let ready = ServiceExt::<http::Request<_>>::ready(&mut client).await;
        let response = ready.expect("ready").call(request("/a.B/C")).await;
        let selected: Selected = *response
            .expect("answered")
            .extensions()
            .get()
            .expect("selected");
        assert_eq!(
            (selected.arm, selected.reason),
            (Arm::Second, SelectReason::NotReady)
        );
    }
    assert_eq!(stage.iroh.calls(), 2);
    let ready = ServiceExt::<http::Request<_>>::ready(&mut client).await;
    let error = ready.expect("ready").call(request("/x.Y/Z")).await;
    let status = Status::from_error(error.map(drop).expect_err("open"));
    assert!(status.message().contains("forced open"), "{status:?}");

    // By its own rule it becomes half-open, and the call that looks is its probe.
    circuits[0].release();
    stage.iroh.plays(Part::Answer(tonic::Code::Ok));
    let start = tokio::time::Instant::now();
    let mut reasons = Vec::new();
    while reasons.last() != Some(&SelectReason::Preferred) {
        let ready = ServiceExt::<http::Request<_>>::ready(&mut client).await;
        let response = ready.expect("ready").call(request("/a.B/C")).await;
        let response = response.expect("answered");
        let selected: Selected = *response.extensions().get().expect("selected");
        response.into_body().collect().await.expect("a body");
        if reasons.last() != Some(&selected.reason) {
            reasons.push(selected.reason);
        }
        tokio::time::sleep(MS * 10).await;
        assert!(start.elapsed() < SECOND * 120, "{reasons:?}");
    }
    assert!(circuits[0].state().is_closed());
    let expected = [
        SelectReason::NotReady,
        SelectReason::Probe,
        SelectReason::Returning,
    ];
    assert!(reasons.starts_with(&expected), "{reasons:?}");
    assert!(start.elapsed() >= SECOND * 5);
}

#[tokio::test(start_paused = true)]
async fn with_both_circuits_open_the_layer_above_fails_fast() {
    let stage = stage(policy(Choice::Prefer(Arm::First)));
    let circuits = [(); 2].map(|()| Circuit::new(BreakerConfig::default()));
    let handle = SelectHandle::new(policy(Choice::Prefer(Arm::First))).named(["iroh", "tcp"]);
    let mut client = stacked!(stage, &circuits, handle);
    circuits.iter().for_each(Circuit::force_open);
    let start = tokio::time::Instant::now();
    for _ in 0..3 {
        let ready = ServiceExt::<http::Request<_>>::ready(&mut client).await;
        let error = ready.expect("ready").call(request("/a.B/C")).await;
        error.map(drop).expect_err("fails fast");
        assert_eq!(start.elapsed(), SECOND * 2);
    }
    assert!(client.is_failing());
    circuits[1].force_closed();
    tokio::time::sleep(MS).await;
    assert!(!client.is_failing(), "noticed without a call");
    let ready = ServiceExt::<http::Request<_>>::ready(&mut client).await;
    let response = ready.expect("ready").call(request("/a.B/C")).await;
    let selected: Selected = *response
        .expect("answered")
        .extensions()
        .get()
        .expect("selected");
    assert_eq!(selected.arm, Arm::Second);
}

/// A full lane is not visible in readiness, and what it rejects stays rejected.
/// Who edits the policy because a transport is broken helps those calls too that fail fast already.
#[tokio::test(start_paused = true)]
async fn another_policy_ends_failing_fast() {
    let stage = stage(Arm::First);
    let circuits = [(); 2].map(|()| Circuit::new(BreakerConfig::default()));
    let handle = SelectHandle::new(Arm::First).named(["iroh", "tcp"]);
    let mut client = stacked!(stage, &circuits, handle.clone());
    circuits[0].force_open();
    let error = tower::util::Oneshot::new(client.clone(), request("/a.B/C")).await;
    error.map(drop).expect_err("open");
    let error = tower::util::Oneshot::new(client.clone(), request("/a.B/C")).await;
    error.map(drop).expect_err("at once");

    handle.swap(Arm::Second);
    crate::arm::settle().await;
    let ready = ServiceExt::<http::Request<_>>::ready(&mut client).await;
    let response = ready.expect("ready").call(request("/a.B/C")).await;
    response.expect("answered");
    assert_eq!(stage.tcp.calls(), 1);
}

#[tokio::test(start_paused = true)]
async fn a_full_lane_causes_no_fallback() {
    let stage = stage(policy(Choice::Prefer(Arm::First)));
    let circuits = [(); 2].map(|()| Circuit::new(BreakerConfig::default()));
    let handle = SelectHandle::new(policy(Choice::Prefer(Arm::First))).named(["iroh", "tcp"]);
    let mut client = stacked!(stage, &circuits, handle.clone());
    stage.iroh.plays(Part::Full);
    for _ in 0..50 {
        let ready = ServiceExt::<http::Request<_>>::ready(&mut client).await;
        let error = ready.expect("ready").call(request("/a.B/C")).await;
        let status = Status::from_error(error.map(drop).expect_err("full"));
        assert_eq!(status.code(), tonic::Code::ResourceExhausted);
    }
    assert_eq!((stage.iroh.calls(), stage.tcp.calls()), (50, 0));
    assert_eq!(handle.decisions().fallbacks(), 0);
    assert!(circuits[0].state().is_closed());
    // And one that takes long to let a call in: the call waits there.
    stage.iroh.plays(Part::Answer(tonic::Code::Ok));
    stage.iroh.takes(SECOND);
    let ready = ServiceExt::<http::Request<_>>::ready(&mut client).await;
    ready
        .expect("ready")
        .call(request("/a.B/C"))
        .await
        .expect("answered");
    assert_eq!(stage.tcp.calls(), 0);
}

/// The retry keeps the request, and sends it over the other arm at the selection's word: at once, and no more often than without it.
#[cfg(feature = "retry")]
mod below_a_retry {
    use tokio::time::Instant;
    use tonic::body::Body;
    use tower_iroh_layers::{
        BoxError, Fault,
        retry::{Retry, RetryLayer, RetryPolicy},
    };

    use super::*;
    use crate::arm::{Client, Stage};

    fn retrying(stage: &Stage) -> Retry<Client> {
        RetryLayer::new(RetryPolicy::default()).layer(stage.client.clone())
    }

    async fn call(
        client: &mut Retry<Client>,
        request: http::Request<Body>,
    ) -> Result<Selected, BoxError> {
        let response = client.ready().await.expect("ready").call(request).await?;
        let selected: Selected = *response.extensions().get().expect("selected");
        response.into_body().collect().await.expect("a body");
        Ok(selected)
    }

    #[tokio::test(start_paused = true)]
    async fn it_goes_over_the_other_arm_at_once() {
        for part in [Part::Unreached, Part::Refused] {
            let stage = stage(policy(Choice::Prefer(Arm::First)));
            stage.iroh.plays(part);
            let start = Instant::now();
            let over = call(&mut retrying(&stage), request("/a.B/C")).await;
            let expected = Selected {
                arm: Arm::Second,
                name: "tcp",
                reason: SelectReason::FailedUnsent,
            };
            assert_eq!(over.expect("answered"), expected);
            assert_eq!(start.elapsed(), std::time::Duration::ZERO, "no backoff");
            assert_eq!((stage.iroh.calls(), stage.tcp.begun()), (1, 1));
            let bytes = stage.tcp.bytes.load(std::sync::atomic::Ordering::Relaxed);
            assert_eq!(bytes, 8, "all of the request");
            let decisions = stage.handle.decisions();
            assert_eq!(decisions.count(Arm::Second, SelectReason::FailedUnsent), 1);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn each_attempt_of_the_retry_has_both_arms_and_the_last_failure_is_the_caller_s() {
        let stage = stage(policy(Choice::Prefer(Arm::First)));
        stage.iroh.plays(Part::Unreached);
        stage.tcp.plays(Part::Unreached);
        let error = call(&mut retrying(&stage), request("/a.B/C")).await;
        let error = error.expect_err("both");
        assert!(error.is::<Fault>(), "as the arm said it: {error:?}");
        // As a retry does with what never left: twice more, each over both.
        assert_eq!((stage.iroh.calls(), stage.tcp.calls()), (3, 3));
        assert_eq!((stage.iroh.begun(), stage.tcp.begun()), (0, 0));
    }

    /// The other arm has been away for long. That is no reason to give up: the first one is tried again as if there were no other.
    #[tokio::test(start_paused = true)]
    async fn an_other_arm_that_is_away_takes_no_attempt_away() {
        let stage = stage(policy(Choice::Prefer(Arm::First)));
        stage.tcp.ready(false);
        call(&mut retrying(&stage), request("/a.B/C"))
            .await
            .expect("answered");
        tokio::time::sleep(SECOND * 3).await;
        stage.iroh.plays(Part::Unreached);
        let mut client = retrying(&stage);
        let waits = tokio::spawn(async move { call(&mut client, request("/a.B/C")).await });
        while stage.iroh.calls() < 2 {
            tokio::task::yield_now().await;
        }
        stage.iroh.plays(Part::Answer(tonic::Code::Ok));
        let over = waits.await.expect("no panic").expect("answered");
        assert_eq!((over.arm, stage.tcp.calls()), (Arm::First, 0));

        stage.iroh.plays(Part::Unreached);
        let error = call(&mut retrying(&stage), request("/a.B/C")).await;
        let status = Status::from_error(error.expect_err("neither"));
        assert_eq!(
            status.message(),
            "as the script says",
            "how it failed first"
        );
    }

    /// The buffer sends a call again by itself, so it is the selection below it that has to know of the other arm.
    #[cfg(feature = "buffer")]
    #[tokio::test(start_paused = true)]
    async fn a_buffer_in_between_does_not_take_the_other_arm_away() {
        use tower_iroh_layers::buffer::{Buffer, BufferConfig, WaitForReady};

        for part in [Part::Unreached, Part::Refused] {
            let stage = stage(policy(Choice::Prefer(Arm::First)));
            stage.iroh.plays(part);
            let buffer = Buffer::new(BufferConfig::default(), stage.client.clone());
            let mut client = RetryLayer::new(RetryPolicy::default()).layer(buffer);
            let mut request = request("/a.B/C");
            request.extensions_mut().insert(WaitForReady);
            let start = Instant::now();
            let ready = ServiceExt::<http::Request<_>>::ready(&mut client).await;
            let answer = ready.expect("ready").call(request).await;
            let answer = answer.expect("answered");
            let selected: &Selected = answer.extensions().get().expect("selected");
            assert_eq!(
                (selected.arm, selected.reason),
                (Arm::Second, SelectReason::FailedUnsent)
            );
            assert_eq!(start.elapsed(), std::time::Duration::ZERO, "{part:?}");
            assert_eq!((stage.iroh.calls(), stage.tcp.begun()), (1, 1));
        }
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_that_may_have_been_sent_moves() {
        for part in [Part::Lost, Part::Full] {
            let stage = stage(policy(Choice::Prefer(Arm::First)));
            stage.iroh.plays(part);
            let error = call(&mut retrying(&stage), request("/a.B/C")).await;
            assert!(error.expect_err("as it came").is::<Fault>());
            assert_eq!((stage.iroh.calls(), stage.tcp.calls()), (1, 0), "{part:?}");
        }
        // And a fixed arm has no other, retry or not.
        let stage = stage(policy(Choice::Prefer(Arm::First)));
        stage.iroh.plays(Part::Unreached);
        let error = call(&mut retrying(&stage), request("/x.Y/Z")).await;
        assert!(error.expect_err("unreached").is::<Fault>());
        assert_eq!((stage.iroh.calls(), stage.tcp.calls()), (3, 0));
    }
}

/// A buffer above holds calls while neither arm is ready, and those whose own arm is not.
#[cfg(feature = "buffer")]
#[tokio::test(start_paused = true)]
async fn a_buffer_above_holds_its_calls_until_an_arm_is_there() {
    use tower_iroh_layers::buffer::{Buffer, BufferConfig, WaitForReady};

    let stage = stage(policy(Choice::Prefer(Arm::First)));
    let mut client = Buffer::new(BufferConfig::default(), stage.client.clone());
    stage.iroh.ready(false);
    stage.tcp.ready(false);
    let mut call = |path| {
        let mut request = request(path);
        request.extensions_mut().insert(WaitForReady);
        tokio::spawn(client.call(request))
    };
    let either = call("/a.B/C");
    tokio::time::sleep(SECOND * 30).await;
    assert!(!either.is_finished());
    stage.tcp.ready(true);
    let over = either.await.expect("no panic").expect("answered");
    let selected: &Selected = over.extensions().get().expect("selected");
    assert_eq!(
        (selected.arm, selected.reason),
        (Arm::Second, SelectReason::NotReady)
    );

    let fixed = call("/x.Y/Z");
    tokio::time::sleep(SECOND * 30).await;
    assert!(!fixed.is_finished());
    // Those that have a way are not held up by it, whether they come while it waits or have waited behind it.
    let other = call("/a.B/C");
    crate::arm::settle().await;
    assert!(other.is_finished(), "its arm is there");
    stage.tcp.ready(false);
    tokio::time::sleep(SECOND * 30).await;
    let behind = call("/a.B/C");
    tokio::time::sleep(SECOND * 5).await;
    assert!(!behind.is_finished(), "neither arm is there");
    stage.tcp.ready(true);
    tokio::time::sleep(SECOND).await;
    assert!(behind.is_finished());
    stage.iroh.ready(true);
    let over = fixed.await.expect("no panic").expect("answered");
    let selected: &Selected = over.extensions().get().expect("selected");
    assert_eq!(
        (selected.arm, selected.reason),
        (Arm::First, SelectReason::Method)
    );
    assert_eq!((stage.iroh.begun(), stage.tcp.begun()), (1, 3));
}

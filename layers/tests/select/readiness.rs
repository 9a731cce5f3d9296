//! Arms that are not ready.

use tokio::time::{Instant, advance, sleep};
use tonic::{Code, Status};
use tower::{Service, ServiceExt};
use tower_iroh_layers::{
    Fault, Origin,
    select::{Arm, ArmState, Choice, NotReady, SelectConfig, SelectPolicy, SelectReason},
};

use crate::arm::{
    MS, Part, SECOND, call, call_to, is_ready, request, settle, stage, stage_with, table, tasks,
};

fn prefer_iroh() -> SelectPolicy {
    let policy = SelectPolicy::builder(Choice::Prefer(Arm::First))
        .methods(&table([("x.Y", Choice::Fixed(Arm::First))]));
    policy.build().expect("accepted")
}

#[tokio::test(start_paused = true)]
async fn who_prefers_an_arm_that_is_away_goes_over_the_other_at_once_and_returns_after_the_dwell() {
    let mut stage = stage(prefer_iroh());
    let client = &mut stage.client;
    assert_eq!(
        call(client).await.expect("answered"),
        (Arm::First, SelectReason::Preferred)
    );
    stage.iroh.ready(false);
    let start = Instant::now();
    for _ in 0..100 {
        let over = call(client).await.expect("answered");
        assert_eq!(over, (Arm::Second, SelectReason::NotReady));
    }
    assert_eq!(start.elapsed(), std::time::Duration::ZERO);
    assert!(matches!(stage.handle.state().first, ArmState::Away { .. }));
    // One look by a caller, one by the task, and it sleeps.
    let polls = stage.iroh.polls();
    for _ in 0..100 {
        call(client).await.expect("answered");
        advance(MS).await;
    }
    assert!(stage.iroh.polls() - polls <= 1);
    assert_eq!(tasks(), 1);

    // Noticed without a call.
    stage.iroh.ready(true);
    settle().await;
    assert!(matches!(
        stage.handle.state().first,
        ArmState::Returning { .. }
    ));
    assert_eq!(tasks(), 0);
    // One call a second looks how it does, until the dwell is over.
    let back = Instant::now();
    let mut reasons = Vec::new();
    while back.elapsed() < SECOND * 6 {
        let (arm, reason) = call(client).await.expect("answered");
        assert_eq!(arm == Arm::Second, reason == SelectReason::Returning);
        if reasons.last() != Some(&reason) {
            reasons.push(reason);
        }
        if reason == SelectReason::Preferred {
            assert_eq!(back.elapsed(), SECOND * 5);
            break;
        }
        sleep(MS * 10).await;
    }
    assert_eq!(
        reasons
            .iter()
            .filter(|r| **r == SelectReason::Probe)
            .count(),
        5
    );
    assert_eq!(reasons.last(), Some(&SelectReason::Preferred));
    let decisions = stage.handle.decisions();
    assert_eq!(decisions.count(Arm::First, SelectReason::Probe), 5);
    assert_eq!(decisions.count(Arm::Second, SelectReason::NotReady), 200);
}

#[tokio::test(start_paused = true)]
async fn a_probe_that_fails_begins_the_dwell_anew() {
    let mut stage = stage(prefer_iroh());
    assert!(is_ready(&mut stage.client).await, "both are");
    stage.iroh.ready(false);
    call(&mut stage.client).await.expect("answered");
    stage.iroh.plays(Part::Unreached);
    stage.iroh.ready(true);
    settle().await;
    // The probe's call is answered all the same.
    for _ in 0..30 {
        call(&mut stage.client).await.expect("answered");
        sleep(SECOND).await;
    }
    assert_eq!(stage.iroh.calls(), 30, "one a second, none that stays");
    stage.iroh.plays(Part::Answer(Code::Ok));
    let healed = Instant::now();
    while call(&mut stage.client).await.expect("answered").1 != SelectReason::Preferred {
        sleep(MS * 100).await;
    }
    assert!(healed.elapsed() >= SECOND * 4 && healed.elapsed() <= SECOND * 5);
}

/// What a program sees when it starts: the first connection of the arm that it prefers takes a moment.
#[tokio::test(start_paused = true)]
async fn a_first_connection_has_no_dwell() {
    let mut stage = stage(prefer_iroh());
    stage.iroh.ready(false);
    let over = call(&mut stage.client).await.expect("answered");
    assert_eq!(over, (Arm::Second, SelectReason::NotReady));
    stage.iroh.ready(true);
    settle().await;
    let over = call(&mut stage.client).await.expect("answered");
    assert_eq!(over, (Arm::First, SelectReason::Preferred));

    // The second is one that was missed.
    stage.iroh.ready(false);
    call(&mut stage.client).await.expect("answered");
    stage.iroh.ready(true);
    settle().await;
    let over = call(&mut stage.client).await.expect("answered");
    assert_eq!(over, (Arm::First, SelectReason::Probe));
}

#[tokio::test(start_paused = true)]
async fn an_arm_that_nobody_missed_has_no_dwell() {
    let mut stage = stage(prefer_iroh());
    stage.iroh.ready(false);
    assert!(is_ready(&mut stage.client).await, "tcp is");
    stage.iroh.ready(true);
    settle().await;
    let over = call(&mut stage.client).await.expect("answered");
    assert_eq!(over, (Arm::First, SelectReason::Preferred));
}

#[tokio::test(start_paused = true)]
async fn an_arm_that_comes_and_goes_is_used_at_most_once_per_dwell() {
    let mut stage = stage(prefer_iroh());
    assert!(is_ready(&mut stage.client).await, "both are");
    let mut left = None;
    for n in 0..2000u32 {
        // Away for one second of three.
        stage.iroh.ready(n % 30 >= 10);
        settle().await;
        let (arm, reason) = call(&mut stage.client).await.expect("answered");
        match reason {
            SelectReason::Preferred => {
                assert!(left.is_none_or(|left: Instant| left.elapsed() >= SECOND * 5));
                left = None;
            }
            SelectReason::NotReady => left = Some(Instant::now()),
            _ => assert!(arm == Arm::Second || reason == SelectReason::Probe),
        }
        sleep(MS * 100).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_fixed_arm_that_is_away_is_waited_for_and_then_fails_fast() {
    let config = SelectConfig::builder().why(|arm| format!("{arm} has gone fishing"));
    let mut stage = stage_with(prefer_iroh(), config.build().expect("accepted"));
    stage.iroh.ready(false);
    let start = Instant::now();
    let error = call_to(&mut stage.client, request("/x.Y/Z")).await;
    let error = error.expect_err("not ready");
    assert_eq!(start.elapsed(), SECOND * 2);
    let typed: &NotReady = error.downcast_ref().expect("typed");
    assert_eq!((typed.arm(), typed.waited()), (Arm::First, SECOND * 2));
    let fault = Fault::find(&*error).expect("a fault");
    assert!(fault.origin() == Origin::Ours && fault.not_processed() && fault.is_temporary());
    let status = Status::from_error(error);
    assert_eq!(status.code(), Code::Unavailable);
    assert!(
        status.message().contains("first has gone fishing"),
        "{status:?}"
    );
    assert!(status.message().contains("2.0 s"), "{status:?}");

    // The next one at once, and the others as ever.
    let start = Instant::now();
    let error = call_to(&mut stage.client, request("/x.Y/Z")).await;
    error.expect_err("at once");
    call(&mut stage.client).await.expect("answered");
    assert_eq!(start.elapsed(), std::time::Duration::ZERO);
    assert_eq!((stage.iroh.calls(), stage.tcp.calls()), (0, 1));
}

#[tokio::test(start_paused = true)]
async fn a_fixed_arm_that_comes_in_time_gets_its_call() {
    let mut stage = stage(prefer_iroh());
    stage.iroh.ready(false);
    let mut client = stage.client.clone();
    let waits = tokio::spawn(async move { call_to(&mut client, request("/x.Y/Z")).await });
    sleep(SECOND).await;
    stage.iroh.ready(true);
    let over = waits.await.expect("no panic").expect("answered");
    assert_eq!(over, (Arm::First, SelectReason::Method));
    // Nobody was diverted, so all are back.
    let over = call(&mut stage.client).await.expect("answered");
    assert_eq!(over, (Arm::First, SelectReason::Preferred));
}

#[tokio::test(start_paused = true)]
async fn neither_is_ready_as_long_as_none_is() {
    let mut stage = stage(prefer_iroh());
    stage.iroh.ready(false);
    stage.tcp.ready(false);
    assert!(!is_ready(&mut stage.client).await);
    assert!(!is_ready(&mut stage.client.clone()).await);
    settle().await;
    assert_eq!(tasks(), 2, "one for each");
    let mut client = stage.client.clone();
    let waits = tokio::spawn(async move { call(&mut client).await });
    sleep(SECOND * 60).await;
    assert!(!waits.is_finished(), "its caller's business");
    stage.tcp.ready(true);
    let over = waits.await.expect("no panic").expect("answered");
    assert_eq!(over, (Arm::Second, SelectReason::NotReady));
    assert_eq!(tasks(), 1, "iroh is away still");
    stage.iroh.ready(true);
    settle().await;
    assert_eq!(tasks(), 0);
}

#[tokio::test(start_paused = true)]
async fn who_was_told_ready_and_finds_neither_waits_no_longer_than_that() {
    let mut stage = stage(prefer_iroh());
    stage.client.ready().await.expect("ready");
    // Its readiness is that of another policy, and the arms that this one uses are away.
    let mut late = stage.client.clone();
    late.ready().await.expect("ready");
    stage.handle.swap(Arm::Second);
    let mut other = stage.client.clone();
    other.ready().await.expect("ready");
    stage.iroh.ready(false);
    stage.handle.swap(prefer_iroh());
    // `other` knows nothing of iroh, and finds out in its future.
    let over = other.call(request("/a.B/C")).await.expect("answered");
    assert_eq!(stage.tcp.calls(), 1);
    drop(over);
    let start = Instant::now();
    let error = other
        .ready()
        .await
        .expect("ready")
        .call(request("/x.Y/Z"))
        .await;
    error.map(drop).expect_err("not ready");
    assert_eq!(start.elapsed(), SECOND * 2);
}

#[tokio::test(start_paused = true)]
async fn only_the_arms_of_the_policy_decide_readiness() {
    let mut stage = stage(Arm::First);
    stage.tcp.ready(false);
    assert!(is_ready(&mut stage.client).await);
    assert_eq!((stage.tcp.polls(), tasks()), (0, 0));
    stage.handle.swap(Arm::Second);
    assert!(!is_ready(&mut stage.client).await);
    stage.handle.swap(Arm::First);
    assert!(is_ready(&mut stage.client).await);
}

#[tokio::test(start_paused = true)]
async fn who_waits_for_an_arm_is_woken_by_a_policy_with_another() {
    let stage = stage(Arm::First);
    stage.iroh.ready(false);
    let callers = [(); 2].map(|()| {
        let mut client = stage.client.clone();
        tokio::spawn(async move { call(&mut client).await })
    });
    settle().await;
    // One that leads nowhere either, and then one that does.
    stage.tcp.ready(false);
    stage.handle.swap(Arm::Second);
    settle().await;
    stage.handle.swap(Arm::First);
    settle().await;
    stage.tcp.ready(true);
    stage.handle.swap(Arm::Second);
    for caller in callers {
        let over = tokio::time::timeout(SECOND, caller).await;
        let over = over.expect("woken").expect("no panic");
        assert_eq!(over.expect("answered"), (Arm::Second, SelectReason::Fixed));
    }
}

#[tokio::test(start_paused = true)]
async fn a_dial_may_have_a_head_start() {
    let config = SelectConfig::builder().head_start(MS * 100);
    let mut stage = stage_with(prefer_iroh(), config.build().expect("accepted"));
    stage.iroh.ready(false);
    let mut client = stage.client.clone();
    let first = tokio::spawn(async move { call(&mut client).await });
    sleep(MS * 50).await;
    stage.iroh.ready(true);
    let over = first.await.expect("no panic").expect("answered");
    assert_eq!(over, (Arm::First, SelectReason::Preferred));

    stage.iroh.ready(false);
    let start = Instant::now();
    let over = call(&mut stage.client).await.expect("answered");
    assert_eq!(over, (Arm::Second, SelectReason::NotReady));
    assert_eq!(start.elapsed(), MS * 100);
    // The start is the arm's, not each call's.
    let over = call(&mut stage.client).await.expect("answered");
    assert_eq!(over, (Arm::Second, SelectReason::NotReady));
    assert_eq!(start.elapsed(), MS * 100);
}

#[tokio::test(start_paused = true)]
async fn a_readiness_that_fails_is_a_call_s_failure_and_never_the_service_s() {
    let mut stage = stage(prefer_iroh());
    stage.iroh.readiness_fails(true);
    let over = call(&mut stage.client).await.expect("answered");
    assert_eq!(over, (Arm::Second, SelectReason::FailedUnsent));
    let error = call_to(&mut stage.client, request("/x.Y/Z")).await;
    let status = Status::from_error(error.expect_err("broken"));
    assert_eq!(status.code(), Code::Internal);
    stage.iroh.readiness_fails(false);
    let over = call(&mut stage.client).await.expect("answered");
    assert_eq!(over, (Arm::First, SelectReason::Preferred));
    assert_eq!(tasks(), 0);
}

#[tokio::test(start_paused = true)]
async fn the_last_clone_ends_the_task_and_a_handle_does_not_keep_it() {
    let mut stage = stage(prefer_iroh());
    stage.iroh.ready(false);
    call(&mut stage.client).await.expect("answered");
    let other = stage.client.clone();
    settle().await;
    assert_eq!((tasks(), stage.iroh.waits() > 0), (1, true));
    drop(stage.client);
    settle().await;
    assert_eq!(tasks(), 1);
    drop(other);
    settle().await;
    assert_eq!(tasks(), 0);
    assert!(stage.handle.decisions().fallbacks() == 1);
    // A service that is made with the handle afterwards looks for itself.
    stage.iroh.ready(true);
}

#[test]
fn a_runtime_that_ends_takes_the_task_along_and_nobody_waits_for_it() {
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder
            .enable_time()
            .start_paused(true)
            .build()
            .expect("a runtime")
    };
    let mut stage = stage(prefer_iroh());
    let first = runtime();
    first.block_on(async {
        assert!(is_ready(&mut stage.client).await, "both are");
        stage.iroh.ready(false);
        call(&mut stage.client).await.expect("answered");
        settle().await;
    });
    drop(first);
    stage.iroh.ready(true);
    runtime().block_on(async {
        let over = call(&mut stage.client).await.expect("answered");
        assert_eq!(over, (Arm::First, SelectReason::Probe), "looked at again");
    });
}

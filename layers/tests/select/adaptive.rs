//! By what is measured, with calls and time.

use tokio::time::{Instant, sleep};
use tower_iroh_layers::select::{Adaptive, Arm, Choice, SelectPolicy, SelectReason};

use crate::arm::{MS, SECOND, Stage, call, stage};

fn adaptive(adaptive: Adaptive) -> SelectPolicy {
    let policy = SelectPolicy::builder(Choice::Adaptive(adaptive));
    policy.build().expect("accepted")
}

/// A hundred calls a second for so long; the arms' shares of the last second, and how often the arm in use changed.
async fn run(stage: &mut Stage, seconds: u32) -> (u64, u32) {
    let (mut last, mut switches, mut in_use) = (0, 0, None);
    for n in 0..seconds * 100 {
        if n == (seconds - 1) * 100 {
            last = stage.iroh.calls();
        }
        let start = Instant::now();
        let (arm, reason) = call(&mut stage.client).await.expect("answered");
        if reason != SelectReason::Probe {
            switches += u32::from(in_use.is_some_and(|before| before != arm));
            in_use = Some(arm);
        }
        sleep((MS * 10).saturating_sub(start.elapsed())).await;
    }
    (stage.iroh.calls() - last, switches)
}

#[tokio::test(start_paused = true)]
async fn it_leaves_an_arm_that_became_slow_probes_it_and_returns() {
    let mut stage = stage(adaptive(Adaptive::default()));
    stage.iroh.takes(MS);
    stage.tcp.takes(MS);
    let (share, switches) = run(&mut stage, 20).await;
    assert!(share >= 97 && switches == 0, "{share} {switches}");

    stage.iroh.takes(MS * 31);
    let (share, switches) = run(&mut stage, 20).await;
    assert_eq!(switches, 1);
    assert!(share <= 3, "probes: {share}");

    stage.iroh.takes(MS);
    let (share, switches) = run(&mut stage, 20).await;
    assert!(share >= 97 && switches == 1, "{share} {switches}");
    let decisions = stage.handle.decisions();
    assert!(decisions.count(Arm::First, SelectReason::Probe) >= 15);
    assert_eq!(decisions.fallbacks(), 0);
    // Each call once.
    let begun = stage.iroh.begun() + stage.tcp.begun();
    assert_eq!(
        begun,
        decisions.arm(Arm::First) + decisions.arm(Arm::Second)
    );
}

#[tokio::test(start_paused = true)]
async fn below_its_threshold_the_preferred_arm_keeps_the_calls() {
    let config = Adaptive::builder().latency_threshold(MS * 20);
    let mut stage = stage(adaptive(config.build().expect("accepted")));
    stage.iroh.takes(MS * 15);
    stage.tcp.takes(MS);
    let (share, switches) = run(&mut stage, 20).await;
    assert!(share >= 60 && switches == 0, "{share} {switches}");
    stage.iroh.takes(MS * 25);
    let (share, switches) = run(&mut stage, 20).await;
    assert!(share <= 3 && switches == 1, "{share} {switches}");
}

#[tokio::test(start_paused = true)]
async fn an_arm_that_fails_or_is_away_loses_and_comes_back() {
    let mut stage = stage(adaptive(Adaptive::default()));
    stage.iroh.fails_every(2);
    let (share, switches) = run(&mut stage, 10).await;
    // One in a hundred, give or take.
    assert!(share <= 6 && switches == 1, "{share} {switches}");
    stage.iroh.fails_every(0);
    let (share, _) = run(&mut stage, 25).await;
    assert!(share >= 97, "{share}");

    stage.iroh.ready(false);
    let calls = stage.iroh.calls();
    run(&mut stage, 10).await;
    assert_eq!(stage.iroh.calls(), calls);
    stage.iroh.ready(true);
    let (share, _) = run(&mut stage, 30).await;
    assert!(share >= 97, "{share}");
}

/// With few calls probes alone never tell enough of the arm that is not in use.
#[tokio::test(start_paused = true)]
async fn with_few_calls_too_it_returns_within_two_minutes() {
    for every in [SECOND * 5, SECOND, MS * 200] {
        for threshold in [false, true] {
            let mut config = Adaptive::builder();
            if threshold {
                config = config.latency_threshold(MS * 50);
            }
            let mut stage = stage(adaptive(config.build().expect("accepted")));
            stage.iroh.takes(MS);
            stage.tcp.takes(MS);
            let mut in_use = async |seconds: u32, until: Option<Arm>| {
                let start = Instant::now();
                let mut last = None;
                while start.elapsed() < SECOND * seconds {
                    let (arm, reason) = call(&mut stage.client).await.expect("answered");
                    if reason == SelectReason::Adaptive {
                        last = Some(arm);
                    }
                    if until.is_some() && last == until {
                        break;
                    }
                    sleep(every).await;
                }
                last
            };
            assert_eq!(in_use(60, None).await, Some(Arm::First), "{every:?}");
            stage.iroh.ready(false);
            assert_eq!(in_use(10, None).await, Some(Arm::Second), "{every:?}");
            stage.iroh.ready(true);
            let returned = in_use(120, Some(Arm::First)).await;
            assert_eq!(returned, Some(Arm::First), "{every:?} {threshold}");
        }
    }
}

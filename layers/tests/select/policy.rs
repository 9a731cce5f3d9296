//! Who decides, and who is told.

use http_body_util::BodyExt;
use tower_iroh_layers::{
    Urgency,
    select::{Arm, Choice, SelectConfig, SelectPolicy, SelectReason, Selected},
};

use crate::arm::{MS, Part, SECOND, call, call_to, request, send, stage, stage_with, table};

const IROH: Choice = Choice::Fixed(Arm::First);
const TCP: Choice = Choice::Fixed(Arm::Second);

#[tokio::test(start_paused = true)]
async fn each_rule_has_its_calls_and_its_reason() {
    let policy = SelectPolicy::builder(Choice::Prefer(Arm::Second))
        .methods(&table([("/a.B/C", IROH)]))
        .urgency(..=Urgency::CONTROL, IROH);
    let mut stage = stage(policy.build().expect("accepted"));
    let client = &mut stage.client;
    let mut urgent = request("/x.Y/Z");
    urgent.extensions_mut().insert(Urgency::CONTROL);
    let over = |arm, reason| (arm, reason);
    assert_eq!(
        call(client).await.expect("answered"),
        over(Arm::First, SelectReason::Method)
    );
    assert_eq!(
        call_to(client, urgent).await.expect("answered"),
        over(Arm::First, SelectReason::Class)
    );
    assert_eq!(
        call_to(client, request("/x.Y/Z")).await.expect("answered"),
        over(Arm::Second, SelectReason::Preferred)
    );
    let decisions = stage.handle.decisions();
    assert_eq!(decisions.count(Arm::First, SelectReason::Method), 1);
    assert_eq!(decisions.count(Arm::Second, SelectReason::Preferred), 1);
    assert_eq!((decisions.arm(Arm::First), decisions.fallbacks()), (2, 0));
    // Each call was read to its end by one peer.
    assert_eq!((stage.iroh.begun(), stage.tcp.begun()), (2, 1));
    let seen = stage.handle.statistics(Arm::First);
    assert_eq!(
        (seen.calls, seen.failures, seen.latencies.count()),
        (2, 0, 2)
    );
}

#[tokio::test(start_paused = true)]
async fn the_header_is_there_only_if_it_is_asked_for() {
    let mut silent = stage(Arm::First);
    let response = send(&mut silent.client, request("/a.B/C")).await;
    let response = response.expect("answered");
    assert!(response.headers().get("tower-iroh-selected").is_none());
    let selected = Selected {
        arm: Arm::First,
        name: "iroh",
        reason: SelectReason::Fixed,
    };
    assert_eq!(response.extensions().get(), Some(&selected));

    let config = SelectConfig::builder().response_header(true);
    let mut tells = stage_with(Arm::Second, config.build().expect("accepted"));
    let response = send(&mut tells.client, request("/a.B/C")).await;
    let headers = response.expect("answered").headers().clone();
    assert_eq!(headers["tower-iroh-selected"], "tcp; reason=fixed");
}

#[tokio::test(start_paused = true)]
async fn a_stream_stays_on_its_arm_whatever_the_policy_says_later() {
    let mut stage = stage(Arm::First);
    stage.iroh.plays(Part::Streams);
    let stream = send(&mut stage.client, request("/a.B/C")).await;
    let mut stream = stream.expect("answered").into_body();
    stream.frame().await.expect("a frame").expect("data");

    let before = stage.handle.swap(Arm::Second);
    assert_eq!(before.choice("", Urgency::default()), &IROH);
    assert_eq!(stage.handle.policy().choice("", Urgency::default()), &TCP);
    assert_eq!(stage.handle.state().generation, 2);
    let over = call(&mut stage.client).await.expect("answered");
    assert_eq!(over, (Arm::Second, SelectReason::Fixed));
    // The arm goes away for those who come, not for the stream.
    stage.iroh.ready(false);
    for _ in 0..10 {
        stream.frame().await.expect("a frame").expect("data");
    }
    assert_eq!((stage.iroh.calls(), stage.tcp.calls()), (1, 1));
    assert_eq!(stage.iroh.alive(), 1);
    drop(stream);
    assert_eq!(stage.iroh.alive(), 0);
}

/// Fifty callers for ten seconds, while the policy changes at every moment: each call is answered once.
#[tokio::test(start_paused = true)]
async fn policies_are_swapped_under_load() {
    let stage = stage(Arm::First);
    stage.iroh.takes(MS * 7);
    stage.tcp.takes(MS * 3);
    let callers: Vec<_> = (0..50)
        .map(|_| {
            let mut client = stage.client.clone();
            tokio::spawn(async move {
                let mut answered = 0;
                let end = tokio::time::Instant::now() + SECOND * 10;
                while tokio::time::Instant::now() < end {
                    call(&mut client).await.expect("answered");
                    answered += 1;
                }
                answered
            })
        })
        .collect();
    let adaptive = || Choice::Adaptive(Default::default());
    for n in 0..1000 {
        tokio::time::sleep(MS * 10).await;
        let choice = match n % 5 {
            0 => TCP,
            1 => Choice::Prefer(Arm::First),
            2 => adaptive(),
            3 => Choice::Prefer(Arm::Second),
            _ => IROH,
        };
        let policy = SelectPolicy::builder(choice).build().expect("accepted");
        stage.handle.swap(policy);
    }
    let mut answered = 0;
    for caller in callers {
        answered += caller.await.expect("no panic");
    }
    assert_eq!(stage.iroh.begun() + stage.tcp.begun(), answered);
    assert!(stage.iroh.begun() > 1000 && stage.tcp.begun() > 1000);
    assert_eq!(stage.handle.decisions().fallbacks(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_rule_that_stays_keeps_what_it_has_measured() {
    let policy = |tcp| {
        let policy =
            SelectPolicy::builder(tcp).methods(&table([("a.B", Choice::Prefer(Arm::First))]));
        policy.build().expect("accepted")
    };
    let mut stage = stage(policy(TCP));
    call(&mut stage.client).await.expect("answered");
    stage.handle.swap(policy(IROH));
    assert_eq!(stage.handle.statistics(Arm::First).calls, 1);
    stage.handle.swap(Arm::Second);
    assert_eq!(stage.handle.statistics(Arm::First).calls, 0);
}

/// Five thousand a second: all are counted, and some are timed.
#[tokio::test(start_paused = true)]
async fn where_there_are_very_many_some_are_timed_and_all_are_counted() {
    let mut stage = stage(Arm::First);
    stage.iroh.fails_every(50);
    for _ in 0..50 * 4 {
        for _ in 0..100 {
            call(&mut stage.client).await.expect("answered");
        }
        tokio::time::sleep(MS * 20).await;
    }
    let seen = stage.handle.statistics(Arm::First);
    assert_eq!((seen.calls, seen.failures), (20_000, 400));
    let timed = seen.latencies.count();
    assert!((20_000 / 16..10_000).contains(&timed), "{timed}");
    // It notices that there are few again, and times each.
    tokio::time::sleep(SECOND * 20).await;
    for _ in 0..116 {
        call(&mut stage.client).await.expect("answered");
        tokio::time::sleep(MS).await;
    }
    let timed = stage.handle.statistics(Arm::First).latencies.count();
    // The first of them may be late: one in each sixteen, while the rate is still thought to be high.
    assert!((85..=116).contains(&timed), "{timed}");
}

//! Sticky shares.

use std::collections::HashMap;

use tower_iroh_layers::select::{
    Arm, Canary, Choice, SelectConfig, SelectPolicy, SelectReason, StickyKey,
};

use crate::arm::{MS, SECOND, Stage, call_to, is_ready, request, settle, stage, stage_with};

fn policy(share: u32) -> SelectPolicy {
    let canary = Canary::builder("to-iroh", Arm::First).share(share);
    let canary = canary.key_header("x-tenant").build().expect("accepted");
    let policy = SelectPolicy::builder(Choice::Canary(canary));
    policy.build().expect("accepted")
}

/// Where each of the tenants goes now.
async fn arms(stage: &mut Stage, tenants: u32) -> HashMap<u32, Arm> {
    let mut arms = HashMap::new();
    for n in 0..tenants {
        let mut request = request("/a.B/C");
        let tenant = format!("tenant-{n}");
        // Half of them say it one way, half the other.
        match n % 2 {
            0 => {
                let key = StickyKey::new(&tenant);
                request.extensions_mut().insert(key);
            }
            _ => {
                let value = tenant.parse().expect("a value");
                request.headers_mut().insert("x-tenant", value);
            }
        }
        let (arm, reason) = call_to(&mut stage.client, request).await.expect("answered");
        let expected = match arm {
            Arm::First => SelectReason::CanaryIn,
            Arm::Second => SelectReason::CanaryOut,
        };
        assert_eq!(reason, expected);
        arms.insert(n, arm);
    }
    arms
}

#[tokio::test(start_paused = true)]
async fn a_key_stays_and_a_growing_share_only_adds_keys() {
    const TENANTS: u32 = 2000;
    let mut stage = stage(policy(0));
    let mut before = arms(&mut stage, TENANTS).await;
    assert!(before.values().all(|arm| *arm == Arm::Second));
    for share in [500, 2500, 5000, 10_000] {
        stage.handle.set_share("to-iroh", share).expect("there");
        let now = arms(&mut stage, TENANTS).await;
        assert_eq!(now, arms(&mut stage, TENANTS).await, "it stays");
        for (tenant, arm) in &now {
            assert!(
                *arm == Arm::First || before[tenant] == Arm::Second,
                "{tenant}"
            );
        }
        let within = now.values().filter(|arm| **arm == Arm::First).count() as u32;
        let expected = TENANTS * share / 10_000;
        assert!(within.abs_diff(expected) <= 60, "{within} of {expected}");
        before = now;
    }
    // Another process, another day.
    let mut other = crate::arm::stage(policy(2500));
    let there = arms(&mut other, TENANTS).await;
    stage.handle.set_share("to-iroh", 2500).expect("there");
    assert_eq!(there, arms(&mut stage, TENANTS).await);
}

#[tokio::test(start_paused = true)]
async fn calls_without_a_key_have_the_share_or_the_channel_s_key() {
    let mut alone = stage(policy(2500));
    for _ in 0..4000 {
        let call = call_to(&mut alone.client, request("/a.B/C")).await;
        call.expect("answered");
    }
    let within = alone.iroh.begun();
    // Three deviations of 27 are 82.
    assert!((900..=1100).contains(&within), "{within}");

    for n in 0..50u32 {
        let key = StickyKey::new(n.to_be_bytes());
        let config = SelectConfig::builder().sticky_key(key);
        let mut channel = stage_with(policy(2500), config.build().expect("accepted"));
        for _ in 0..10 {
            let call = call_to(&mut channel.client, request("/a.B/C")).await;
            call.expect("answered");
        }
        assert!([0, 10].contains(&channel.iroh.begun()), "all or none");
    }
}

#[tokio::test(start_paused = true)]
async fn who_is_in_falls_back_while_the_new_arm_is_away_and_that_counts_against_it() {
    let mut stage = stage(policy(10_000));
    assert!(is_ready(&mut stage.client).await, "both are");
    stage.iroh.ready(false);
    for _ in 0..20 {
        let over = call_to(&mut stage.client, request("/a.B/C")).await;
        assert_eq!(
            over.expect("answered"),
            (Arm::Second, SelectReason::NotReady)
        );
    }
    let seen = stage.handle.canary("to-iroh").expect("there");
    assert_eq!((seen.new.calls, seen.new.diverted), (0, 20));
    assert_eq!(seen.new.error_rate(), 1.0);
    assert_eq!((seen.old.calls, seen.old.error_rate()), (20, 0.0));
    stage.handle.clear_canary("to-iroh");
    let seen = stage.handle.canary("to-iroh").expect("there");
    assert_eq!(seen.new.error_rate(), 0.0);
    assert!(stage.handle.canary("other").is_none());
    assert!(stage.handle.set_share("other", 1).is_err());
    assert!(stage.handle.set_share("to-iroh", 10_001).is_err());
    settle().await;
}

#[tokio::test(start_paused = true)]
async fn calls_before_the_first_connection_do_not_count_against_the_new_arm() {
    let mut stage = stage(policy(10_000));
    stage.iroh.ready(false);
    for n in 0..30 {
        let over = call_to(&mut stage.client, request("/a.B/C")).await;
        over.expect("answered");
        let seen = stage.handle.canary("to-iroh").expect("there");
        // A connection that does not come is a failure like any other after two seconds.
        assert_eq!(seen.new.diverted, (n + 1u64).saturating_sub(20), "{n}");
        tokio::time::sleep(MS * 100).await;
    }
}

/// An arm that is away for a moment every ten seconds, so that it is returning for half of the time.
#[tokio::test(start_paused = true)]
async fn who_goes_elsewhere_while_the_arm_is_returning_counts_against_it() {
    let canary = Canary::builder("to-iroh", Arm::First).share(10_000);
    let canary = canary.window(SECOND * 120).build().expect("accepted");
    let mut stage = stage(Choice::Canary(canary));
    assert!(is_ready(&mut stage.client).await, "both are");
    let (mut calls, mut elsewhere) = (0, 0);
    for n in 0..6000 {
        if n % 1000 < 5 {
            stage.iroh.ready(n % 1000 == 4);
        }
        let over = call_to(&mut stage.client, request("/a.B/C")).await;
        let (_, reason) = over.expect("answered");
        calls += 1;
        elsewhere += u64::from(reason.is_fallback());
        tokio::time::sleep(MS * 10).await;
    }
    let seen = stage.handle.canary("to-iroh").expect("there");
    assert!(elsewhere > 2000, "{elsewhere}");
    assert_eq!(seen.new.calls + seen.new.diverted, calls);
    assert_eq!(seen.new.diverted, elsewhere);
}

/// A thousand calls a second, of which ten are in it: those that are not need not all be timed, and those that are do.
#[tokio::test(start_paused = true)]
async fn the_calls_of_a_small_share_are_timed_whatever_the_rate_of_the_others() {
    let mut stage = stage(policy(100));
    for _ in 0..30 * 1000 {
        let over = call_to(&mut stage.client, request("/a.B/C")).await;
        over.expect("answered");
        tokio::time::sleep(MS).await;
    }
    let seen = stage.handle.canary("to-iroh").expect("there");
    assert!(seen.new.calls > 200, "{}", seen.new.calls);
    assert_eq!(seen.new.latencies.count(), seen.new.calls);
    assert!(seen.old.latencies.count() < seen.old.calls / 4);
}

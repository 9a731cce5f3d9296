use proptest::prelude::*;

use super::*;
use crate::select::{Arm, ArmStatistics, histogram::bucket_of};

const SECOND: Duration = Duration::from_secs(1);

fn machine(dwell: u32) -> Machine {
    let config = RolloutConfig::builder("n").dwell(SECOND * dwell);
    let config = config.build().expect("accepted");
    Machine::new(Arc::new(config), SystemTime::UNIX_EPOCH)
}

fn arm(calls: u64, failures: u64) -> ArmStatistics {
    let mut seen = ArmStatistics::new();
    seen.calls = calls;
    seen.failures = failures;
    seen.latencies
        .add(bucket_of(SECOND / 100), calls - failures.min(calls));
    seen
}

fn seen(new: ArmStatistics, old: ArmStatistics) -> CanaryStatistics {
    let canary = Canary::builder("n", Arm::First).build();
    CanaryStatistics {
        canary: canary.expect("accepted"),
        longer: [new.clone(), old.clone()],
        new,
        old,
    }
}

fn good() -> CanaryStatistics {
    seen(arm(500, 1), arm(5000, 10))
}

#[test]
fn it_takes_a_dwell_per_stage_to_the_whole() {
    let mut machine = machine(10);
    let (mut now, mut steps) = (SystemTime::UNIX_EPOCH, Vec::new());
    for second in 0..60 {
        let mut seen = good();
        if machine.state.share == Canary::WHOLE {
            // Nobody goes there any more.
            seen.old = arm(0, 0);
        }
        match machine.look(now, Some(&seen)) {
            Step::None => {}
            step => steps.push((second, step, machine.state.share)),
        }
        now += SECOND;
    }
    assert_eq!(
        steps,
        [
            (10, Step::Advanced, 2500),
            (20, Step::Advanced, 5000),
            (30, Step::Advanced, 10_000),
            (40, Step::Completed, 10_000),
        ]
    );
    assert_eq!(machine.state.phase, Phase::Complete);
}

#[test]
fn it_holds_and_says_why() {
    let mut machine = machine(10);
    let mut now = SystemTime::UNIX_EPOCH;
    let mut look = |machine: &mut Machine, seen: Option<&CanaryStatistics>| {
        now += SECOND;
        machine.look(now, seen)
    };
    for _ in 0..100 {
        assert_eq!(
            look(&mut machine, Some(&seen(arm(5, 0), arm(5000, 1)))),
            Step::None
        );
    }
    assert!(
        machine
            .state
            .note
            .contains("5 of 100 calls over the new arm")
    );
    assert_eq!(look(&mut machine, None), Step::None);
    assert!(machine.state.note.contains("no such canary"));
    // The dwell is over, so what it waited for is enough.
    assert_eq!(look(&mut machine, Some(&good())), Step::Advanced);
}

#[test]
fn it_rolls_back_from_any_stage_and_stays_there() {
    for stage in 0..4 {
        for paused in [false, true] {
            let mut machine = machine(10);
            let mut now = SystemTime::UNIX_EPOCH;
            machine.set_stage(stage, now).expect("there");
            machine.look(now, Some(&good()));
            if stage == 3 {
                machine.baseline = Baseline::of(&arm(5000, 10));
            }
            if paused {
                machine.pause(now);
            }
            let bad = seen(arm(300, 15), arm(5000, 10));
            assert_eq!(machine.look(now, Some(&bad)), Step::RolledBack, "{stage}");
            assert_eq!(machine.state.share, 0);
            assert!(machine.state.note.contains("15 of 300 calls"));
            for _ in 0..100 {
                now += SECOND;
                assert_eq!(machine.look(now, Some(&good())), Step::None);
            }
            assert_eq!(machine.state.phase, Phase::RolledBack);
            machine.resume(now);
            assert_eq!(machine.baseline, None, "it begins anew");
            assert_eq!((machine.state.stage, machine.state.share), (0, 500));
        }
    }
}

#[test]
fn a_pause_holds_the_time_too() {
    let mut machine = machine(10);
    let mut now = SystemTime::UNIX_EPOCH;
    machine.pause(now);
    for _ in 0..50 {
        now += SECOND;
        assert_eq!(machine.look(now, Some(&good())), Step::None);
    }
    assert_eq!(machine.state.dwelt, Duration::ZERO);
    machine.resume(now);
    let steps = (0..10).map(|_| {
        now += SECOND;
        machine.look(now, Some(&good()))
    });
    assert_eq!(steps.last(), Some(Step::Advanced));
}

#[test]
fn a_clock_that_is_set_moves_nothing() {
    let mut machine = machine(3600);
    let noon = SystemTime::UNIX_EPOCH + SECOND * 1_000_000;
    machine.look(noon, Some(&good()));
    machine.look(noon + SECOND * 86_400, Some(&good()));
    assert_eq!(machine.state.dwelt, SECOND * 5);
    machine.look(noon, Some(&good()));
    assert_eq!(machine.state.dwelt, SECOND * 5);
    machine.look(noon + SECOND, Some(&good()));
    assert_eq!(machine.state.dwelt, SECOND * 6);
}

#[test]
fn other_stages_after_a_restart_never_mean_more() {
    for (share, stage, expected) in [
        (2500, 1, 2500),
        (3000, 1, 2500),
        (9999, 9, 5000),
        // All stages are larger, so it goes to the first one when that much has passed.
        (100, 0, 100),
    ] {
        let mut state = machine(10).state;
        state.share = share;
        state.stage = stage;
        let mut restored = Machine::restore(machine(10).config.clone(), state, None);
        assert_eq!(restored.state.share, expected);
        let mut now = SystemTime::UNIX_EPOCH;
        let steps = (0..12).map(|_| {
            now += SECOND;
            restored.look(now, Some(&good()))
        });
        assert!(steps.into_iter().any(|step| step == Step::Advanced));
        let first = restored.config.stages[0];
        assert!(expected > first || restored.state.share == first);
    }
}

/// Whatever is known of the old arm.
#[test]
fn a_new_arm_that_fails_everything_is_rolled_back() {
    let bad = || arm(500, 500);
    let down = || arm(500, 500);
    for old in [arm(0, 0), arm(3, 0), arm(5000, 10), down()] {
        for stage in 0..4 {
            let mut machine = machine(10);
            let now = SystemTime::UNIX_EPOCH;
            machine.set_stage(stage, now).expect("there");
            let step = machine.look(now, Some(&seen(bad(), old.clone())));
            assert_eq!(step, Step::RolledBack, "{stage} {old:?}");
        }
    }
    // At once to all, and after a restart there with a file that says nothing of the old arm.
    let config = RolloutConfig::builder("n").stages([Canary::WHOLE]).build();
    let config = Arc::new(config.expect("accepted"));
    let mut machine = Machine::new(config.clone(), SystemTime::UNIX_EPOCH);
    let state = machine.state.clone();
    let step = machine.look(SystemTime::UNIX_EPOCH, Some(&seen(bad(), arm(0, 0))));
    assert_eq!(step, Step::RolledBack);
    let mut machine = Machine::restore(config, state, None);
    let step = machine.look(SystemTime::UNIX_EPOCH, Some(&seen(bad(), arm(0, 0))));
    assert_eq!(step, Step::RolledBack);
}

/// All keys are in: what was known of the old arm still counts.
#[test]
fn an_old_arm_without_calls_is_what_it_was() {
    let mut machine = machine(10);
    let now = SystemTime::UNIX_EPOCH;
    assert_eq!(machine.look(now, Some(&good())), Step::None);
    // Nine calls of which eight failed say less than the thousands before.
    for few in [arm(0, 0), arm(9, 8)] {
        let mut machine = machine.clone();
        let slightly_bad = seen(arm(500, 25), few);
        assert_eq!(machine.look(now, Some(&slightly_bad)), Step::RolledBack);
    }
}

#[test]
fn stages_that_were_added_to_a_complete_rollout_are_gone_through() {
    let config = machine(10).config;
    let restored = |stage: usize| {
        let mut state = machine(10).state;
        (state.phase, state.stage, state.share) = (Phase::Complete, stage, config.stages[stage]);
        state.dwelt = SECOND * 60;
        Machine::restore(config.clone(), state, None).state
    };
    let last = config.stages.len() - 1;
    assert_eq!(restored(last).phase, Phase::Complete);
    let goes_on = restored(1);
    assert_eq!((goes_on.phase, goes_on.stage), (Phase::Running, 1));
    assert_eq!(goes_on.dwelt, Duration::ZERO);
}

proptest! {
    /// Whatever comes, the share is one of the stages' or 0, it grows by one stage at a time and never before its dwell.
    #[test]
    fn it_grows_step_by_step(
        looks in proptest::collection::vec((0u64..8, 0u64..600, 0u64..40, any::<bool>()), 1..300),
    ) {
        let mut machine = machine(10);
        let mut now = SystemTime::UNIX_EPOCH;
        let mut since = now;
        for (seconds, calls, failures, there) in looks {
            now += SECOND * seconds as u32;
            let before = machine.state.clone();
            let seen = seen(arm(calls, failures.min(calls)), arm(5000, 10));
            machine.look(now, there.then_some(&seen));
            let share = machine.state.share;
            prop_assert!(share == 0 || machine.config.stages.contains(&share));
            if share > before.share {
                prop_assert_eq!(machine.state.stage, before.stage + 1);
                prop_assert!(now.duration_since(since).expect("later") >= SECOND * 10);
            }
            if share != before.share {
                since = now;
            }
            prop_assert!(share == 0 || before.phase != Phase::RolledBack);
        }
    }
}

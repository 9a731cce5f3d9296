//! How often the gates are wrong, and how soon they are right: stages of five minutes by seeded chance, looked at each second.

use std::collections::VecDeque;

use super::*;
use crate::select::{
    Arm, ArmStatistics,
    histogram::{BUCKETS, bucket_of},
    key::mix,
};

const SECOND: Duration = Duration::from_secs(1);
const STAGE: u32 = 300;
const WINDOW: usize = 30;

/// Numbers that are always the same.
struct Chance(u64);

impl Chance {
    fn below(&mut self, range: u64) -> u64 {
        self.0 += 1;
        ((mix(self.0) >> 32) * range) >> 32
    }

    fn share(&mut self) -> f64 {
        (self.below(1 << 31) as f64 + 0.5) / f64::from(1u32 << 31)
    }
}

/// The buckets of 65,536 latencies, which are lognormal with a median of 20 ms and a sigma of 1.
fn latencies(times: f64) -> Vec<usize> {
    let mut chance = Chance(7 << 40);
    let latency = |_| {
        // Box and Muller.
        let radius = (-2.0 * chance.share().ln()).sqrt();
        let normal = radius * (std::f64::consts::TAU * chance.share()).cos();
        bucket_of(Duration::from_secs_f64(0.02 * times * normal.exp()))
    };
    (0..1 << 16).map(latency).collect()
}

/// What an arm's calls are like.
#[derive(Clone, Copy)]
struct Kind<'a> {
    a_second: u32,
    error_rate: f64,
    latencies: &'a [usize],
}

/// How many calls failed, and the buckets of those that did not.
struct Second {
    failures: u64,
    buckets: Vec<usize>,
}

impl Kind<'_> {
    fn second(&self, chance: &mut Chance) -> Second {
        let mut second = Second {
            failures: 0,
            buckets: Vec::new(),
        };
        for _ in 0..self.a_second {
            if chance.share() < self.error_rate {
                second.failures += 1;
            } else {
                let latency = chance.below(self.latencies.len() as u64);
                second.buckets.push(self.latencies[latency as usize]);
            }
        }
        second
    }
}

/// The calls of the last seconds.
struct Span {
    seconds: usize,
    failures: u64,
    counts: [u64; BUCKETS],
}

impl Span {
    fn new(windows: usize) -> Self {
        Self {
            seconds: windows * WINDOW,
            failures: 0,
            counts: [0; BUCKETS],
        }
    }

    /// `all` are the seconds so far.
    fn moves_on(&mut self, all: &VecDeque<Second>) {
        let added = all.back().expect("one at least");
        self.failures += added.failures;
        for bucket in &added.buckets {
            self.counts[*bucket] += 1;
        }
        if let Some(over) = all.len().checked_sub(self.seconds + 1) {
            self.failures -= all[over].failures;
            for bucket in &all[over].buckets {
                self.counts[*bucket] -= 1;
            }
        }
    }

    fn read(&self) -> ArmStatistics {
        let mut read = ArmStatistics::new();
        for (bucket, count) in self.counts.iter().enumerate() {
            read.latencies.add(bucket, *count);
        }
        read.failures = self.failures;
        read.calls = self.failures + read.latencies.count();
        read
    }
}

struct Calls {
    all: VecDeque<Second>,
    spans: [Span; 2],
}

impl Calls {
    fn new() -> Self {
        Self {
            all: VecDeque::new(),
            spans: [Span::new(1), Span::new(3)],
        }
    }

    fn push(&mut self, second: Second) {
        self.all.push_back(second);
        self.spans
            .iter_mut()
            .for_each(|span| span.moves_on(&self.all));
    }
}

/// One stage; at which second it was rolled back, and why. At the last one the old arm has no calls, but those from before.
fn stage(
    new: Kind<'_>,
    old: Kind<'_>,
    is_last: bool,
    chance: &mut Chance,
) -> Option<(u32, String)> {
    let config = RolloutConfig::builder("n").dwell(SECOND * STAGE * 2);
    let config = Arc::new(config.build().expect("accepted"));
    let mut now = SystemTime::UNIX_EPOCH;
    let mut machine = Machine::new(config, now);
    let [mut new_calls, mut old_calls] = [Calls::new(), Calls::new()];
    if is_last {
        for _ in 0..3 * WINDOW {
            old_calls.push(old.second(chance));
        }
        machine.baseline = Baseline::of(&old_calls.spans[1].read());
        machine.set_stage(3, now).expect("there");
        old_calls = Calls::new();
    }
    for second in 1..=STAGE {
        now += SECOND;
        new_calls.push(new.second(chance));
        if !is_last {
            old_calls.push(old.second(chance));
        }
        let canary = Canary::builder("n", Arm::First).build();
        let seen = CanaryStatistics {
            canary: canary.expect("accepted"),
            new: new_calls.spans[0].read(),
            old: old_calls.spans[0].read(),
            longer: [new_calls.spans[1].read(), old_calls.spans[1].read()],
        };
        if machine.look(now, Some(&seen)) == Step::RolledBack {
            return Some((second, machine.state.note));
        }
    }
    None
}

/// Calls a second over the new arm and the old one, at which the gates are tried; and whether it is the last stage.
const RATES: [(u32, u32, bool); 8] = [
    (4, 76, false),
    (4, 4, false),
    (4, 4, true),
    (10, 30, false),
    (10, 10, false),
    (10, 10, true),
    (30, 30, true),
    (100, 100, false),
];

/// 720 stages. Of 18,000 it was 26, and of no rate and error rate more than 4 of 600.
#[test]
fn equal_arms_are_rolled_back_in_fewer_than_one_stage_in_a_hundred() {
    const RUNS: usize = 30;
    let latencies = latencies(1.0);
    let (mut stages, mut wrong) = (0, Vec::new());
    for (row, (new, old, is_last)) in (0..).zip(RATES) {
        for (column, error_rate) in (0..).zip([0.0, 0.01, 0.03]) {
            let mut chance = Chance((row * 3 + column) << 40);
            let kind = |a_second| Kind {
                a_second,
                error_rate,
                latencies: &latencies,
            };
            for _ in 0..RUNS {
                let rolled_back = stage(kind(new), kind(old), is_last, &mut chance);
                stages += 1;
                wrong.extend(rolled_back.map(|why| (new, old, is_last, error_rate, why)));
            }
        }
    }
    assert!(wrong.len() * 100 < stages, "of {stages}: {wrong:#?}");
}

/// At ten calls a second over the new arm, which is at 5 % then, at 25 %, or at 100 % after 50 %. In the last case least is known of the old arm: 900 calls.
#[test]
fn a_p99_that_is_twice_as_long_and_five_points_of_errors_are_caught_within_three_windows() {
    const RUNS: usize = 200;
    let [as_long, twice] = [1.0, 2.0].map(latencies);
    for (row, slow, error_rate, more) in [
        (0, true, 0.0, 0.0),
        (1, false, 0.0, 0.05),
        (2, false, 0.03, 0.05),
    ] {
        for (column, (a_second, is_last, percent)) in
            (0..).zip([(190, false, 95), (30, false, 92), (10, true, 75)])
        {
            let mut chance = Chance((100 + row * 3 + column) << 40);
            let new = Kind {
                a_second: 10,
                error_rate: error_rate + more,
                latencies: if slow { &twice } else { &as_long },
            };
            let old = Kind {
                a_second,
                error_rate,
                latencies: &as_long,
            };
            // How many in each window, and how many never.
            let mut windows = [0; 11];
            for _ in 0..RUNS {
                let caught = stage(new, old, is_last, &mut chance);
                let window = caught.map_or(10, |(second, _)| (second as usize - 1) / WINDOW);
                windows[window] += 1;
            }
            let within: usize = windows[..3].iter().sum();
            println!("slow {slow}, errors {error_rate} + {more}, old {a_second}/s: {windows:?}");
            assert!(within * 100 >= RUNS * percent, "{windows:?}");
        }
    }
}

//! Rounds of slices.

use std::{
    io::IsTerminal,
    path::{Path, PathBuf},
    time::Instant,
};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use rand::{SeedableRng, rngs::StdRng, seq::SliceRandom};

use crate::{
    arms::{self, Arm},
    child::{Child, Trouble},
    cli::Plan,
    foreign,
    machine::Machine,
    metric::Metric,
    shared::{
        Fault,
        wire::{Command, Hello, Slice},
        workload::Workload,
    },
    stats::{self, Interval},
};

/// A workload that somebody else's arm fails so often in a row is not asked of it again.
const GIVE_UP: usize = 3;

/// All that was measured.
pub struct Record<'a> {
    pub plan: &'a Plan,
    pub machine: Machine,
    /// The directory that holds `bench/`.
    pub target: PathBuf,
    pub lanes: Vec<Lane>,
    /// Rounds that were run and counted.
    pub rounds: usize,
    pub seconds: f64,
    /// Failures of arms that must work.
    pub faults: Vec<String>,
}

/// What one arm measured.
pub struct Lane {
    pub arm: Arm,
    pub hello: Hello,
    /// Share of one core that it used while others were measured.
    pub idle: f64,
    /// Per workload of the plan.
    pub results: Vec<Results>,
}

/// What one arm measured of one workload.
#[derive(Default)]
pub struct Results {
    /// Per round; `None` where it failed.
    pub slices: Vec<Option<Slice>>,
    /// Warm-up included.
    pub failures: usize,
    /// What it said of the last one.
    pub why: Option<String>,
    in_a_row: usize,
}

impl Results {
    pub fn values(&self, metric: Metric) -> Vec<f64> {
        self.slices
            .iter()
            .flatten()
            .filter_map(|slice| metric.read(slice))
            .collect()
    }
}

impl Record<'_> {
    pub fn results(&self, arm: Arm, workload: usize) -> Option<&Results> {
        Some(&self.lanes.iter().find(|lane| lane.arm == arm)?.results[workload])
    }

    /// The median over the rounds of `arm`'s figure over `to`'s in the same round.
    pub fn ratio(&self, workload: usize, metric: Metric, arm: Arm, to: Arm) -> Option<Interval> {
        let (ours, theirs) = (self.results(arm, workload)?, self.results(to, workload)?);
        let ratios: Vec<_> = ours
            .slices
            .iter()
            .zip(&theirs.slices)
            .filter_map(|(ours, theirs)| {
                let theirs = metric.read(theirs.as_ref()?).filter(|value| *value > 0.0)?;
                Some(metric.read(ours.as_ref()?)? / theirs)
            })
            .collect();
        // The same rounds give the same interval, whoever asks and however often.
        stats::bootstrap(&ratios, &mut StdRng::seed_from_u64(self.plan.seed))
    }

    pub fn workload(&self, name: &str) -> Option<usize> {
        self.plan
            .workloads
            .iter()
            .position(|workload| workload.name == name)
    }
}

/// Runs the plan.
pub fn run(plan: &Plan) -> Result<Record<'_>, Fault> {
    let program = std::env::current_exe()?;
    // target/release/deps/transports-0123456789abcdef
    let target = program.ancestors().nth(3).ok_or("where am I?")?.to_owned();
    // Before anything runs: its build is nothing to measure beside.
    let foreign = match plan.arms.contains(&arms::TONIC_IROH_TRANSPORT) {
        true => Some(foreign::build(&target)?),
        false => None,
    };
    let machine = Machine::look();
    eprintln!(
        "{} workloads x {} arms, {} + {} rounds of {} + {} ms, seed {}",
        plan.workloads.len(),
        plan.arms.len(),
        plan.warm_up,
        plan.rounds,
        plan.ramp.as_millis(),
        plan.measure.as_millis(),
        plan.seed,
    );

    let mut children = Vec::new();
    for &arm in &plan.arms {
        children.push(start(arm, &program, foreign.as_deref(), &target)?);
    }
    let mut results: Vec<Vec<Results>> = plan
        .arms
        .iter()
        .map(|_| plan.workloads.iter().map(|_| Results::default()).collect())
        .collect();
    let mut faults = Vec::new();
    let mut order: Vec<_> = (0..children.len()).collect();
    let mut rng = StdRng::seed_from_u64(plan.seed);
    let began = Instant::now();
    let mut rounds = 0;
    let bar = bar(plan);

    for round in 0..plan.warm_up + plan.rounds {
        if began.elapsed() >= plan.at_most {
            bar.println(format!(
                "stopped after {rounds} rounds: {} s are over",
                plan.at_most.as_secs()
            ));
            break;
        }
        for (at, &workload) in plan.workloads.iter().enumerate() {
            order.shuffle(&mut rng);
            for &number in &order {
                let child = &mut children[number];
                let results = &mut results[number][at];
                // Drawn between slices and by nobody's timer: nothing else runs while one is measured.
                bar.set_message(format!("{}: {}", workload.name, child.arm.name));
                bar.inc(1);
                let slice = slice(plan, child, workload, results);
                if round >= plan.warm_up {
                    results.slices.push(slice.ok());
                } else if let Err(why) = slice
                    && !why.is_empty()
                {
                    bar.println(format!("{}: {}: {why}", child.arm.name, workload.name));
                }
                if child.arm.must_work && results.in_a_row > 0 {
                    let why = results.why.as_deref().unwrap_or_default();
                    faults.push(format!("{}: {}: {why}", child.arm.name, workload.name));
                }
            }
            // A fault ends the run: what is wrong is no speed.
            if !faults.is_empty() {
                break;
            }
        }
        if !faults.is_empty() {
            break;
        }
        if round >= plan.warm_up {
            rounds += 1;
        }
    }
    bar.finish_and_clear();

    let seconds = began.elapsed().as_secs_f64();
    let lanes = children
        .into_iter()
        .zip(results)
        .map(|(child, results)| Lane {
            arm: child.arm,
            hello: child.hello.clone(),
            idle: child.idle_cpu as f64 / 1e9 / seconds,
            results,
        })
        .collect();
    Ok(Record {
        plan,
        machine,
        target,
        lanes,
        rounds,
        seconds,
        faults,
    })
}

fn start(arm: Arm, program: &Path, foreign: Option<&Path>, target: &Path) -> Result<Child, Fault> {
    let logs = target.join("bench/logs");
    match foreign {
        Some(foreign) if arm == arms::TONIC_IROH_TRANSPORT => {
            Child::start(arm, foreign, &[], &logs)
        }
        _ => Child::start(arm, program, &["--as-arm", arm.name], &logs),
    }
}

/// One slice. The error is empty where the arm wasn't asked any more.
fn slice(
    plan: &Plan,
    child: &mut Child,
    workload: Workload,
    results: &mut Results,
) -> Result<Slice, String> {
    if results.in_a_row >= GIVE_UP {
        return Err(String::new());
    }
    let command = Command {
        workload: workload.name.into(),
        ramp_ms: plan.ramp.as_millis() as u64,
        measure_ms: plan.measure.as_millis() as u64,
    };
    let trouble = match child.slice(&command) {
        Ok(slice) => {
            results.in_a_row = 0;
            return Ok(slice);
        }
        Err(trouble) => trouble,
    };
    results.failures += 1;
    results.in_a_row = match trouble {
        Trouble::Failed(_) => results.in_a_row + 1,
        // There is nobody left to ask.
        Trouble::Gone(_) => GIVE_UP,
    };
    results.why = Some(trouble.text().to_owned());
    Err(trouble.text().to_owned())
}

fn bar(plan: &Plan) -> ProgressBar {
    let slices = (plan.warm_up + plan.rounds) * plan.workloads.len() * plan.arms.len();
    let target = match std::io::stderr().is_terminal() {
        true => ProgressDrawTarget::stderr(),
        false => ProgressDrawTarget::hidden(),
    };
    let style =
        ProgressStyle::with_template("{elapsed_precise} {bar:30} {pos}/{len} ({eta} left) {msg}");
    ProgressBar::with_draw_target(Some(slices as u64), target)
        .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
}

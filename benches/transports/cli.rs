//! What can be asked for.

use std::time::Duration;

use clap::Parser;

use crate::{
    arms::{self, Arm},
    shared::{
        Fault,
        workload::{self, Workload},
    },
};

/// tonic over TCP, TCP+TLS and iroh, side by side in one run.
///
/// Each arm is a process with server and client in it. A round gives every arm one slice per workload, in a
/// random order; what is reported is the median over the rounds of the ratio within a round, with its 95 % bootstrap
/// interval. A full run takes about 7 minutes, and the first one builds tonic-iroh-transport before that (about
/// 4 minutes more). Tables go to standard output, JSON and a chart to target/bench/.
#[derive(Debug, Parser)]
#[command(
    name = "cargo bench --bench transports --",
    version,
    after_help = "Examples:\n  \
        cargo bench --bench transports\n  \
        cargo bench --bench transports -- --write-docs\n  \
        cargo bench --bench transports -- --quick\n  \
        cargo bench --bench transports -- --workload unary-64B-x8 --rounds 40 --arms tls,channel"
)]
pub struct Options {
    /// Less than a minute, without tonic-iroh-transport: shows that every arm works, not how fast it is.
    #[arg(long)]
    pub quick: bool,

    /// Only these workloads, comma-separated; the beginning of a name is enough ("unary-64B"). --list shows them.
    #[arg(long, value_delimiter = ',', value_name = "NAMES", alias = "workloads")]
    pub workload: Vec<String>,

    /// Only these arms, comma-separated. --list shows them.
    #[arg(long, value_delimiter = ',', value_name = "NAMES", alias = "arm")]
    pub arms: Vec<String>,

    /// Rounds that count [default: 30; with --quick 5].
    #[arg(long, value_name = "N")]
    pub rounds: Option<usize>,

    /// Rounds before those, which are thrown away [default: 2; with --quick 1].
    #[arg(long, value_name = "N")]
    pub warm_up: Option<usize>,

    /// What a slice measures, after a ramp of 20 ms; at most 230 [default: 200; with --quick 80].
    #[arg(long, value_name = "MS", value_parser = clap::value_parser!(u64).range(10..=230))]
    pub slice: Option<u64>,

    /// Seed of the order and of the bootstrap; printed in every report [default: from the clock].
    #[arg(long, value_name = "N")]
    pub seed: Option<u64>,

    /// Stops at the end of the round in which so much time is over, however many rounds were wanted.
    #[arg(long, value_name = "SECONDS", default_value_t = 540)]
    pub at_most: u64,

    /// Writes the summary into docs/benchmarks.md, between its markers. Needs every usual arm and workload.
    #[arg(long, conflicts_with_all = ["quick", "workload", "arms"])]
    pub write_docs: bool,

    /// Lists the workloads and arms.
    #[arg(long)]
    pub list: bool,

    /// How the bench starts itself as an arm.
    #[arg(long, hide = true, value_name = "NAME")]
    pub as_arm: Option<String>,

    /// `cargo bench` says so.
    #[arg(long, hide = true)]
    pub bench: bool,
}

/// A run, decided.
#[derive(Debug)]
pub struct Plan {
    pub quick: bool,
    /// Not every usual arm and workload.
    pub chosen: bool,
    pub workloads: Vec<Workload>,
    pub arms: Vec<Arm>,
    pub rounds: usize,
    pub warm_up: usize,
    pub ramp: Duration,
    pub measure: Duration,
    pub seed: u64,
    pub at_most: Duration,
}

impl Options {
    pub fn plan(&self) -> Result<Plan, Fault> {
        let pick = |usual: usize, quick: usize| if self.quick { quick } else { usual };
        let seed = match self.seed {
            Some(seed) => seed,
            None => {
                std::time::SystemTime::now()
                    .duration_since(std::time::UNIX_EPOCH)?
                    .as_secs()
                    % 1_000_000
            }
        };
        Ok(Plan {
            quick: self.quick,
            chosen: !self.workload.is_empty() || !self.arms.is_empty(),
            workloads: self.workloads()?,
            arms: self.arms()?,
            rounds: self.rounds.unwrap_or(pick(30, 5)).max(1),
            warm_up: self.warm_up.unwrap_or(pick(2, 1)),
            ramp: Duration::from_millis(if self.quick { 10 } else { 20 }),
            measure: Duration::from_millis(self.slice.unwrap_or(pick(200, 80) as u64)),
            seed,
            at_most: Duration::from_secs(self.at_most),
        })
    }

    fn workloads(&self) -> Result<Vec<Workload>, Fault> {
        if self.workload.is_empty() {
            return Ok(workload::ALL.into());
        }
        for wanted in &self.workload {
            if !workload::ALL
                .iter()
                .any(|known| matches(known.name, wanted))
            {
                return Err(unknown(
                    "workload",
                    wanted,
                    workload::ALL.map(|known| known.name),
                ));
            }
        }
        let wanted = |known: &Workload| self.workload.iter().any(|name| matches(known.name, name));
        Ok(workload::ALL.into_iter().filter(wanted).collect())
    }

    fn arms(&self) -> Result<Vec<Arm>, Fault> {
        if self.arms.is_empty() {
            let wanted =
                |arm: &Arm| arm.usual && !(self.quick && *arm == arms::TONIC_IROH_TRANSPORT);
            return Ok(arms::ALL.into_iter().filter(wanted).collect());
        }
        for wanted in &self.arms {
            if arms::named(wanted).is_none() {
                return Err(unknown("arm", wanted, arms::ALL.map(|known| known.name)));
            }
        }
        let wanted = |known: &Arm| self.arms.iter().any(|name| name == known.name);
        Ok(arms::ALL.into_iter().filter(wanted).collect())
    }
}

/// A name in full, or its beginning up to a dash: "unary-64B" is four workloads, "unary-64B-x8" is one.
fn matches(known: &str, wanted: &str) -> bool {
    known
        .strip_prefix(wanted)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
}

fn unknown<const N: usize>(what: &str, wanted: &str, known: [&str; N]) -> Fault {
    format!(
        "no {what} is called {wanted:?}; there are: {}",
        known.join(", ")
    )
    .into()
}

//! What can be asked for.

use std::time::Duration;

use clap::Parser;

use crate::{
    fault::Fault,
    scenarios::{self, Scenario},
};

/// iroh and TCP+TLS over emulated links: latency, bulk, priorities, loss, cuts.
///
/// Needs Linux with user namespaces, /dev/net/tun and the program `ip`; where they are missing it says so and ends well.
/// A full run takes about 25 minutes. Tables go to standard output, JSON and charts to target/bench/.
#[derive(Debug, Parser)]
#[command(
    name = "cargo bench --bench network --",
    version,
    after_help = "Examples:\n  \
        cargo bench --bench network\n  \
        cargo bench --bench network -- --write-docs\n  \
        cargo bench --bench network -- --quick\n  \
        cargo bench --bench network -- --only priority --only head_of_line --seconds 10"
)]
pub struct Options {
    /// Less than three minutes: fewer calls and fewer cells. Shows that everything works; its p99 are not to be trusted.
    #[arg(long)]
    pub quick: bool,

    /// Only this scenario; may be repeated. --list shows them.
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    pub only: Vec<String>,

    /// How long every load lasts, instead of its scenario's own time.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..=600))]
    pub seconds: Option<u64>,

    /// Seed of the links' luck; printed in every report.
    #[arg(long, value_name = "N", default_value_t = 4)]
    pub seed: u64,

    /// Writes docs/network.md and its charts. Needs every scenario at full length.
    #[arg(long, conflicts_with_all = ["quick", "only", "seconds"])]
    pub write_docs: bool,

    /// Lists the scenarios.
    #[arg(long)]
    pub list: bool,

    /// `cargo bench` says so.
    #[arg(long, hide = true)]
    pub bench: bool,
}

/// A run, decided.
#[derive(Debug)]
pub struct Plan {
    pub quick: bool,
    /// Not every scenario, or not at its own length.
    pub chosen: bool,
    pub seed: u64,
    pub scenarios: Vec<Scenario>,
    seconds: Option<Duration>,
}

impl Plan {
    /// How long a load lasts that takes so many milliseconds in a full run, and so many in a quick one.
    pub fn lasting(&self, full: u64, quick: u64) -> Duration {
        self.seconds
            .unwrap_or(Duration::from_millis(self.pick(full, quick)))
    }

    /// The first in a full run, the second in a quick one.
    pub fn pick<T>(&self, full: T, quick: T) -> T {
        if self.quick { quick } else { full }
    }
}

impl Options {
    pub fn plan(&self) -> Result<Plan, Fault> {
        let names = || scenarios::ALL.map(|known| known.name);
        for wanted in &self.only {
            if !names().contains(&wanted.as_str()) {
                let known = names().join(", ");
                return Err(format!("no scenario is called {wanted:?}; there are: {known}").into());
            }
        }
        let wanted =
            |known: &Scenario| self.only.is_empty() || self.only.iter().any(|n| n == known.name);
        Ok(Plan {
            quick: self.quick,
            chosen: !self.only.is_empty() || self.seconds.is_some(),
            seed: self.seed,
            scenarios: scenarios::ALL.into_iter().filter(wanted).collect(),
            seconds: self.seconds.map(Duration::from_secs),
        })
    }
}

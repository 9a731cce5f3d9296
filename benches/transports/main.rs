//! `cargo bench --bench transports`: the same workloads over every transport, in one run.
//!
//! A speed on a shared machine means nothing by itself: one caller's median flips between 50 and 95 us for the
//! same program. So every arm is a process of its own that idles unless it is its turn, a round gives each of them one
//! slice of at most 250 ms in a random order, and what is reported is the median over the rounds of the ratio
//! within a round, with its 95 % bootstrap interval.
//!
//! ```text
//! cli        what can be asked for                    arms/      the transports, one file each
//! run        rounds and slices                        shared/    load, checks and statistics of a slice, for all arms
//! child      an arm's process                         report/    table, JSON, chart, docs/benchmarks.md
//! metric     what is read off a slice                 foreign    builds the arm that has a lock file of its own
//! stats      median of ratios and its interval        machine    what the figures belong to
//! targets    what issue 2 wants
//! ```
#![allow(
    unreachable_pub,
    missing_docs,
    reason = "a program: `pub` is what its own files share"
)]

use std::process::ExitCode;

use clap::Parser;

mod arms;
mod child;
mod cli;
mod foreign;
mod machine;
mod metric;
mod report;
mod run;
mod shared;
mod stats;
mod targets;

fn main() -> ExitCode {
    let options = cli::Options::parse();
    if let Some(name) = &options.as_arm {
        return arms::be(name);
    }
    if options.list {
        report::list();
        return ExitCode::SUCCESS;
    }
    match measure(&options) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {}", shared::with_causes(&*error));
            ExitCode::FAILURE
        }
    }
}

/// Whether every arm that must work did.
fn measure(options: &cli::Options) -> Result<bool, shared::Fault> {
    let plan = options.plan()?;
    let record = run::run(&plan)?;
    report::all(&record, options.write_docs)?;
    Ok(record.faults.is_empty())
}

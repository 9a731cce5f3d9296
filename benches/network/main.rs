//! `cargo bench --bench network`: what happens on bad links, iroh and TCP+TLS on the same kind of link in one run.
//!
//! Hosts are network namespaces, joined by links that the lab emulates (`tests/lab`); server and client are this process,
//! each on its host's own runtime. Every link is checked before it is believed.
//!
//! ```text
//! cli         what can be asked for                  load/        calls at a steady pace, bulk callers, both at once
//! bed         two hosts and a checked link           scenarios/   what is measured, one file each
//! arms/       TCP+TLS and ours                       report/      tables, charts, JSON, docs/network.md
//! record      what a measurement leaves behind       targets      what issue 4 wants
//! ```
#![allow(
    unreachable_pub,
    missing_docs,
    reason = "a program: `pub` is what its own files share"
)]

use std::process::ExitCode;

use clap::Parser;

mod arms;
mod bed;
mod busy;
mod cli;
mod load;
mod record;
mod report;
mod scenarios;
mod targets;

#[path = "../transports/arms/cipher.rs"]
mod cipher;
#[path = "../transports/shared/fault.rs"]
mod fault;
#[path = "../transports/machine.rs"]
mod machine;

/// The same names as in `benches/transports`, for the files that both include.
mod shared {
    pub use crate::fault::{Fault, with_causes};
}

fn main() -> ExitCode {
    let options = cli::Options::parse();
    if options.list {
        for scenario in scenarios::ALL {
            println!("{:<14} {}", scenario.name, scenario.title);
        }
        return ExitCode::SUCCESS;
    }
    let plan = match options.plan() {
        Ok(plan) => plan,
        Err(error) => {
            eprintln!("error: {error}");
            return ExitCode::FAILURE;
        }
    };
    // Before there is a second thread.
    if let Err(error) = tower_iroh_lab::enter() {
        println!("{}", shared::with_causes(&error));
        for scenario in &plan.scenarios {
            println!("skipped: {}", scenario.name);
        }
        return ExitCode::SUCCESS;
    }
    let record = record::run(plan);
    match report::all(&record, options.write_docs) {
        Ok(()) if record.faults().is_empty() => ExitCode::SUCCESS,
        Ok(()) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {}", shared::with_causes(&*error));
            ExitCode::FAILURE
        }
    }
}

//! What a run leaves behind.

use std::fs;

use crate::{
    arms::{self, Arm},
    run::Record,
    shared::{Fault, workload},
    targets,
};

mod chart;
mod docs;
mod json;
mod table;

/// Everything that the plan asks for. A run with a fault reports the fault and what was measured before it.
pub fn all(record: &Record<'_>, write_docs: bool) -> Result<(), Fault> {
    let verdicts = targets::judge(record);
    print!("{}", table::text(record, &verdicts));

    let bench = record.target.join("bench");
    fs::create_dir_all(&bench)?;
    // A run with a choice does not overwrite the full one's.
    let name = match record.plan {
        plan if plan.quick => "quick",
        plan if plan.chosen => "chosen",
        _ => "transports",
    };
    let json = bench.join(format!("{name}.json"));
    fs::write(&json, json::text(record, &verdicts)?)?;
    println!("\nwritten: {}", json.display());
    let chart = bench.join(format!("{name}.svg"));
    if chart::draw(record, &chart)? {
        println!("written: {}", chart.display());
    }
    for fault in &record.faults {
        eprintln!("FAILED {fault}");
    }
    if write_docs && record.faults.is_empty() {
        println!("written: {}", docs::write(record, &verdicts)?.display());
    }
    Ok(())
}

/// The arms that ratios refer to: TCP+TLS and tonic-iroh-transport, as far as they ran; else whoever ran first.
fn references(record: &Record<'_>) -> Vec<Arm> {
    let mut references = vec![arms::TLS, arms::TONIC_IROH_TRANSPORT];
    references.retain(|arm| record.plan.arms.contains(arm));
    if references.is_empty() {
        references.extend(record.plan.arms.first());
    }
    references
}

/// What there is to choose from.
pub fn list() {
    println!("arms:");
    for arm in arms::ALL {
        let unusual = if arm.usual {
            ""
        } else {
            " (only when asked for)"
        };
        println!("  {:<22} {}{unusual}", arm.name, arm.title);
    }
    println!("workloads:");
    for workload in workload::ALL {
        println!("  {}", workload.name);
    }
}

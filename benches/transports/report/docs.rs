//! The summary in `docs/benchmarks.md`.

use std::{
    fmt::Write,
    fs,
    path::{Path, PathBuf},
};

use super::{
    references,
    table::{cell, failures, interval, line},
};
use crate::{metric::Metric, run::Record, shared::Fault, targets::Verdict};

const BEGIN: &str =
    "<!-- bench:begin, written by `cargo bench --bench transports -- --write-docs` -->";
const END: &str = "<!-- bench:end -->";

/// Replaces what is between the markers and returns the file's path.
pub fn write(record: &Record<'_>, verdicts: &[Verdict]) -> Result<PathBuf, Fault> {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/benchmarks.md");
    let page = fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
    let (Some(begin), Some(end)) = (page.find(BEGIN), page.find(END)) else {
        return Err(format!("{} has lost its markers: {BEGIN} and {END}", path.display()).into());
    };
    let summary = summary(record, verdicts)?;
    let page = format!("{}{BEGIN}\n\n{summary}\n{}", &page[..begin], &page[end..]);
    fs::write(&path, page)?;
    Ok(path)
}

fn summary(record: &Record<'_>, verdicts: &[Verdict]) -> Result<String, std::fmt::Error> {
    let mut text = String::new();
    let machine = &record.machine;
    writeln!(text, "| | |\n|---|---|")?;
    writeln!(text, "| date | {} |", machine.date)?;
    writeln!(
        text,
        "| machine | {}, {} cores; load average before the run: {} |",
        machine.cpu, machine.cores, machine.load_average
    )?;
    writeln!(
        text,
        "| kernel | {}, `net.ipv4.tcp_congestion_control = {}` |",
        machine.kernel, machine.tcp_congestion_control
    )?;
    writeln!(
        text,
        "| run | {} rounds, slices of {} ms after a ramp of {} ms, seed {}, {:.0} s |",
        record.rounds,
        record.plan.measure.as_millis(),
        record.plan.ramp.as_millis(),
        record.plan.seed,
        record.seconds,
    )?;
    writeln!(
        text,
        "| built with | {}; {} |",
        machine.rustc,
        versions(&machine.versions)
    )?;
    writeln!(
        text,
        "| tonic-iroh-transport 0.9.2 | {} |",
        versions(&machine.tonic_iroh_transport_versions)
    )?;
    for lane in &record.lanes {
        for note in &lane.hello.notes {
            writeln!(text, "| {} | {note} |", lane.arm.title)?;
        }
    }
    let idle = record
        .lanes
        .iter()
        .map(|lane| lane.idle)
        .fold(0.0, f64::max);
    writeln!(
        text,
        "| idle arms | the busiest used {:.2} % of a core while others were measured |",
        idle * 100.0
    )?;

    writeln!(
        text,
        "\n### Targets\n\n| | target | measured, 95 % interval |\n|---|---|---|"
    )?;
    for verdict in verdicts {
        let line = line(verdict);
        let (word, _) = line.split_at(7);
        let measured = verdict.ratio.map(interval).unwrap_or_default();
        writeln!(
            text,
            "| {} | {} | {measured} |",
            word.trim().to_lowercase(),
            verdict.wish
        )?;
    }
    for reference in references(record) {
        writeln!(text, "\n### Ratios to {}\n", reference.title)?;
        write!(text, "| workload | |")?;
        for arm in &record.plan.arms {
            write!(text, " {} |", arm.title)?;
        }
        writeln!(
            text,
            "\n|---|---|{}",
            "---:|".repeat(record.plan.arms.len())
        )?;
        for (at, workload) in record.plan.workloads.iter().enumerate() {
            for (number, &metric) in Metric::of(*workload).iter().enumerate() {
                write!(
                    text,
                    "| {} | {} |",
                    if number == 0 { workload.name } else { "" },
                    metric.title()
                )?;
                for &arm in &record.plan.arms {
                    write!(text, " {} |", cell(record, at, metric, arm, reference))?;
                }
                writeln!(text)?;
            }
        }
    }
    let failures = failures(record);
    if !failures.is_empty() {
        writeln!(text, "\n### Failures\n")?;
    }
    for failure in failures {
        writeln!(text, "- {}", failure.trim_start_matches("* "))?;
    }
    Ok(text)
}

fn versions(versions: &[(String, String)]) -> String {
    let versions: Vec<_> = versions
        .iter()
        .map(|(name, version)| format!("{name} {version}"))
        .collect();
    versions.join(", ")
}

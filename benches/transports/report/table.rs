//! The tables on standard output.

use std::fmt::Write;

use comfy_table::{Cell, CellAlignment, ContentArrangement, Table, presets};

use super::references;
use crate::{
    arms::Arm,
    metric::Metric,
    run::Record,
    stats::{Interval, median},
    targets::Verdict,
};

pub fn text(record: &Record<'_>, verdicts: &[Verdict]) -> String {
    let mut text = String::new();
    let _ = writeln!(text, "{}", header(record));
    for reference in references(record) {
        let _ = writeln!(text, "\nratios to {}", reference.title);
        let _ = writeln!(text, "{}", comparison(record, reference));
    }
    if record
        .lanes
        .iter()
        .any(|lane| lane.results.iter().any(|results| results.failures > 0))
    {
        let _ = writeln!(text);
    }
    for line in failures(record) {
        let _ = writeln!(text, "{line}");
    }
    if !verdicts.is_empty() {
        let _ = writeln!(text, "\ntargets of issue 2");
        for verdict in verdicts {
            let _ = writeln!(text, "  {}", line(verdict));
        }
    }
    text
}

/// One line about the machine and one about the run.
pub fn header(record: &Record<'_>) -> String {
    let machine = &record.machine;
    let workers = record.lanes.first().map_or(0, |lane| lane.hello.workers);
    let idle = record
        .lanes
        .iter()
        .map(|lane| lane.idle)
        .fold(0.0, f64::max);
    format!(
        "{}; {}, {} cores; {}; TCP congestion control {}; load average before: {}; {}\n\
         {} rounds, slices of {} + {} ms, seed {}, {:.0} s; each arm a process with {workers} workers, which used \
         at most {:.1} % of a core while others were measured",
        machine.date,
        machine.cpu,
        machine.cores,
        machine.kernel,
        machine.tcp_congestion_control,
        machine.load_average,
        machine.rustc,
        record.rounds,
        record.plan.ramp.as_millis(),
        record.plan.measure.as_millis(),
        record.plan.seed,
        record.seconds,
        idle * 100.0,
    )
}

fn comparison(record: &Record<'_>, reference: Arm) -> Table {
    let mut table = Table::new();
    table
        .load_style(presets::UTF8_FULL_CONDENSED)
        .set_content_arrangement(ContentArrangement::Disabled);
    let titles = record
        .plan
        .arms
        .iter()
        .map(|arm| arm.title.replacen(", ", "\n", 1));
    table.set_header(
        ["workload".to_owned(), String::new()]
            .into_iter()
            .chain(titles),
    );
    for (at, workload) in record.plan.workloads.iter().enumerate() {
        for (number, &metric) in Metric::of(*workload).iter().enumerate() {
            let mut row = vec![
                Cell::new(if number == 0 { workload.name } else { "" }),
                Cell::new(metric.title()),
            ];
            row.extend(record.plan.arms.iter().map(|&arm| {
                Cell::new(cell(record, at, metric, arm, reference))
                    .set_alignment(CellAlignment::Right)
            }));
            table.add_row(row);
        }
    }
    table
}

/// The median of an arm's values, and its ratio to the reference.
pub fn cell(
    record: &Record<'_>,
    workload: usize,
    metric: Metric,
    arm: Arm,
    reference: Arm,
) -> String {
    let Some(results) = record.results(arm, workload) else {
        return String::new();
    };
    let values = results.values(metric);
    if values.is_empty() {
        return if results.failures > 0 {
            "fails".into()
        } else {
            String::new()
        };
    }
    let value = metric.show(median(&values));
    let mark = if results.failures > 0 { "*" } else { "" };
    match record.ratio(workload, metric, arm, reference) {
        Some(ratio) if arm != reference => format!("{value}{mark}  {}", interval(ratio)),
        _ => format!("{value}{mark}"),
    }
}

pub fn interval(ratio: Interval) -> String {
    format!("{:.2} [{:.2} {:.2}]", ratio.middle, ratio.low, ratio.high)
}

/// A line per arm and workload that did not go well.
pub fn failures(record: &Record<'_>) -> Vec<String> {
    let mut lines = Vec::new();
    for lane in &record.lanes {
        for (workload, results) in record.plan.workloads.iter().zip(&lane.results) {
            if let Some(why) = &results.why {
                let good = results.slices.iter().flatten().count();
                let why = why.lines().next().unwrap_or_default();
                lines.push(format!(
                    "* {}, {}: {} slices failed, {good} did not: {why}",
                    lane.arm.title, workload.name, results.failures,
                ));
            }
        }
    }
    lines
}

/// A target and how it went.
pub fn line(verdict: &Verdict) -> String {
    let word = match verdict.reached {
        Some(true) => "reached",
        Some(false) => "MISSED ",
        None => "no data",
    };
    match verdict.ratio {
        Some(ratio) => format!("{word}  {}: {}", verdict.wish, interval(ratio)),
        None => format!("{word}  {}", verdict.wish),
    }
}

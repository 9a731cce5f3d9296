//! Everything as JSON, with the value of every slice.

use std::collections::BTreeMap;

use serde::Serialize;

use super::references;
use crate::{
    arms::Arm,
    machine::Machine,
    metric::Metric,
    run::{Record, Results},
    shared::{Fault, wire::Hello},
    stats::{Interval, median},
    targets::Verdict,
};

#[derive(Serialize)]
struct Document<'a> {
    machine: &'a Machine,
    seed: u64,
    rounds: usize,
    ramp_ms: u128,
    measure_ms: u128,
    seconds: f64,
    arms: Vec<ArmInfo<'a>>,
    results: Vec<Entry<'a>>,
    targets: &'a [Verdict],
    faults: &'a [String],
}

#[derive(Serialize)]
struct ArmInfo<'a> {
    name: &'a str,
    title: &'a str,
    hello: &'a Hello,
    idle_share_of_a_core: f64,
}

#[derive(Serialize)]
struct Entry<'a> {
    workload: &'a str,
    arm: &'a str,
    failures: usize,
    why: &'a Option<String>,
    metrics: BTreeMap<&'static str, Values<'a>>,
    /// Nanoseconds and how often, over all rounds.
    latencies: BTreeMap<u64, u64>,
}

#[derive(Serialize)]
struct Values<'a> {
    median: f64,
    ratio_to: BTreeMap<&'a str, Interval>,
    /// Per round; null where it failed. Rates per second, throughput in MB/s, times in microseconds.
    rounds: Vec<Option<f64>>,
}

pub fn text(record: &Record<'_>, targets: &[Verdict]) -> Result<String, Fault> {
    let document = Document {
        machine: &record.machine,
        seed: record.plan.seed,
        rounds: record.rounds,
        ramp_ms: record.plan.ramp.as_millis(),
        measure_ms: record.plan.measure.as_millis(),
        seconds: record.seconds,
        arms: record
            .lanes
            .iter()
            .map(|lane| ArmInfo {
                name: lane.arm.name,
                title: lane.arm.title,
                hello: &lane.hello,
                idle_share_of_a_core: lane.idle,
            })
            .collect(),
        results: record
            .plan
            .workloads
            .iter()
            .enumerate()
            .flat_map(|(at, _)| record.lanes.iter().map(move |lane| (at, lane)))
            .map(|(at, lane)| entry(record, at, lane.arm, &lane.results[at]))
            .collect(),
        targets,
        faults: &record.faults,
    };
    Ok(serde_json::to_string(&document)?)
}

fn entry<'a>(record: &Record<'a>, at: usize, arm: Arm, results: &'a Results) -> Entry<'a> {
    let workload = record.plan.workloads[at];
    let mut latencies = BTreeMap::new();
    for &(ns, count) in results
        .slices
        .iter()
        .flatten()
        .flat_map(|slice| &slice.latencies)
    {
        *latencies.entry(ns).or_default() += count;
    }
    let metrics = Metric::of(workload).iter().map(|&metric| {
        let values = Values {
            median: median(&results.values(metric)),
            ratio_to: references(record)
                .into_iter()
                .filter(|reference| *reference != arm)
                .filter_map(|reference| {
                    Some((reference.name, record.ratio(at, metric, arm, reference)?))
                })
                .collect(),
            rounds: results
                .slices
                .iter()
                .map(|slice| metric.read(slice.as_ref()?))
                .collect(),
        };
        (metric.title(), values)
    });
    Entry {
        workload: workload.name,
        arm: arm.name,
        failures: results.failures,
        why: &results.why,
        metrics: metrics.collect(),
        latencies,
    }
}

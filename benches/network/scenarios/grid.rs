//! Bulk with our one default against every fixed setting: what following the path costs, or wins.

use std::time::Duration;

use tower_iroh::{Tuning, Urgency};
use tower_iroh_lab::Conditions;

use super::common::{mbit, ms};
use crate::{
    arms::{Arm, LaneSet, Session, iroh, tuned},
    bed::{Bed, Wire},
    cli::Plan,
    fault::Fault,
    load::{Both, Bulk, MEBIBYTE, Pace, Way, measure},
    record::{Cell, Chart, Section},
};

/// Receive windows of the fixed settings.
const WINDOWS: [(u64, &str); 4] = [
    (128 << 10, "128 KB"),
    (512 << 10, "512 KB"),
    (2 << 20, "2 MB"),
    (8 << 20, "8 MB"),
];

/// Payloads in flight: one RPC after the other, and many.
pub const CALLERS: [(&str, usize); 2] = [("one", 1), ("many", 16)];

/// Every path: its name, and what it does.
fn paths() -> Vec<(String, Conditions)> {
    let mut paths = Vec::new();
    for loss in [0.0, 0.01] {
        for ms in [0, 10, 40, 100] {
            let (name, conditions) = match ms {
                // As fast as the processor lets it.
                0 => ("0.05 ms".to_owned(), Conditions::default()),
                ms => (
                    format!("{ms} ms"),
                    Conditions::wan(Duration::from_millis(ms)),
                ),
            };
            let suffix = if loss > 0.0 { ", 1 % lost" } else { "" };
            paths.push((name + suffix, conditions.with_loss(loss)));
        }
    }
    paths
}

pub fn run(plan: &Plan, section: &mut Section) -> Result<(), Fault> {
    section.text.push(
        "Uploads of 1 MiB messages, one caller and 16, in Mbit/s of payload. Fixed settings have the congestion control and the receive \
         window of both ends pinned. The shortest path is not shaped at all, so that the processor is its limit; the others have 200 \
         Mbit/s and a queue of 100 ms, which the processor keeps up with. The settings of a path take turns on one link, in slices; the default has \
         two, one before and one after the others, and their mean is shown."
            .into(),
    );
    let mut rows = Vec::new();
    let mut small = Vec::new();
    let mut chart = Vec::new();
    for (path, conditions) in paths() {
        if plan.quick && !["0.05 ms", "40 ms, 1 % lost"].contains(&path.as_str()) {
            continue;
        }
        eprintln!("  {path}");
        let bed = Bed::new(conditions, plan.seed)?;
        let arms = arms(plan);
        let mut found = vec![vec![Vec::new(); arms.len()]; CALLERS.len()];
        let mut wires = vec![Wire::default(); arms.len()];
        // Ours again at the end: the best of eight fixed ones has the best of eight lucks.
        for (number, arm) in arms.iter().enumerate().chain([(0, &arms[0])]) {
            {
                let session = Session::start(&bed, arm)?;
                for (at, (_, callers)) in CALLERS.into_iter().enumerate() {
                    let load = Bulk {
                        callers,
                        bytes: MEBIBYTE,
                        way: Way::Up,
                        urgency: None,
                    };
                    // A controller that has found its rate with one caller has found it for many.
                    let warm_up = match at {
                        0 => Duration::from_millis(400) + conditions.delay * 20,
                        _ => Duration::from_millis(300) + conditions.delay * 4,
                    };
                    let slice = measure(
                        &bed,
                        &session,
                        Both::bulk(load, warm_up, plan.lasting(1_000, 700)),
                    );
                    found[at][number].extend(slice.mbit);
                    wires[number] = slice.wire;
                    section.faults.extend(
                        slice
                            .errors
                            .iter()
                            .map(|error| format!("grid, {path}, {}: {error}", arm.name)),
                    );
                }
                if conditions.delay.is_zero() {
                    let slice = measure(&bed, &session, beside(plan));
                    let latency = slice.latency.unwrap_or_default();
                    small.push(vec![
                        path.clone(),
                        arm.name.clone(),
                        mbit(slice.mbit),
                        ms(latency.p50),
                        ms(latency.p99),
                    ]);
                    let errors = slice.errors.iter().chain(&latency.error);
                    let named = |error| format!("grid, {path}, small calls, {}: {error}", arm.name);
                    section.faults.extend(errors.map(named));
                }
                session.end(&bed);
                bed.drain();
            }
        }
        for ((shape, _), found) in CALLERS.into_iter().zip(found) {
            let mean = |slices: &Vec<f64>| slices.iter().sum::<f64>() / slices.len() as f64;
            let rates: Vec<_> = found.iter().map(mean).collect();
            let (ratio, best) = against_best(&rates);
            let mut row = vec![path.clone(), shape.to_owned()];
            row.push(format!("{ratio:.2}"));
            row.push(arms[best].name.clone());
            row.extend(rates.iter().map(|rate| mbit(Some(*rate))));
            rows.push(row);
            chart.push((
                format!("{path}, {shape}"),
                vec![("auto by best fixed", ratio)],
            ));
            for ((arm, rate), wire) in arms.iter().zip(rates).zip(&wires) {
                let mut cell = Cell {
                    case: format!("{path}, {shape}"),
                    arm: arm.name.clone(),
                    mbit: Some(rate),
                    wire: *wire,
                    ..Cell::default()
                };
                if arm.name == iroh().name {
                    cell.values.insert("auto_by_best_fixed", ratio);
                }
                section.cells.push(cell);
            }
        }
    }
    let mut header = vec!["path", "callers", "auto by best", "best fixed"];
    let names: Vec<_> = arms(plan).into_iter().map(|arm| arm.name).collect();
    header.extend(names.iter().map(String::as_str));
    section.table("Mbit/s", &header, rows);
    section.table(
        "control calls of 64 B at 200/s beside 16 bulk callers on the shortest path, the default twice",
        &["path", "arm", "bulk, Mbit/s", "p50, ms", "p99, ms"],
        small,
    );
    section.charts.push(Chart {
        file: "grid".into(),
        title: "bulk: the default by the best fixed setting, right of 0.9 is wanted".into(),
        rows: chart,
    });
    Ok(())
}

/// Small calls beside bulk: what a window costs them on the shortest path.
fn beside(plan: &Plan) -> Both {
    Both {
        pace: Some(Pace {
            per_second: 200,
            lasting: plan.lasting(3_000, 1_000),
            urgency: Some(Urgency::CONTROL),
        }),
        bulk: Some(Bulk {
            callers: 16,
            bytes: MEBIBYTE,
            way: Way::Up,
            urgency: None,
        }),
        warm_up: Duration::from_millis(300),
        lasting: Duration::ZERO,
    }
}

/// The default first.
fn arms(plan: &Plan) -> Vec<Arm> {
    let mut arms = vec![iroh()];
    for (controller, tuning) in [("Cubic", Tuning::lan()), ("BBR3", Tuning::wan())] {
        let windows = match plan.quick {
            true => &[WINDOWS[0], WINDOWS[2]][..],
            false => &WINDOWS,
        };
        for &(bytes, window) in windows {
            let tuning = tuning.clone().short_window(bytes).long_window(bytes);
            arms.push(tuned(
                &format!("{controller} {window}"),
                tuning,
                LaneSet::Standard,
            ));
        }
    }
    arms
}

/// The first by the best of the others, and which that is.
fn against_best(rates: &[f64]) -> (f64, usize) {
    let fixed = rates.iter().enumerate().skip(1);
    let best = fixed.max_by(|one, other| one.1.total_cmp(other.1));
    best.map_or((f64::NAN, 0), |(number, rate)| (rates[0] / rate, number))
}

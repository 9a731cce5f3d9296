//! What several scenarios do.

use std::time::Duration;

use crate::{
    arms::{Arm, Session},
    bed::Bed,
    fault::Fault,
    load::{Both, Bulk, Latency, Pace, measure},
    record::{Cell, Chart, Section},
};

/// Small calls alone for a while, then beside bulk, on one session.
#[derive(Clone, Copy, Debug)]
pub struct Contention {
    pub alone: Option<Duration>,
    pub pace: Pace,
    pub bulk: Bulk,
    pub warm_up: Duration,
}

pub fn contend(bed: &Bed, case: &str, arm: &Arm, load: Contention) -> Result<Cell, Fault> {
    eprintln!("  {case}: {}", arm.name);
    let session = Session::start(bed, arm)?;
    let alone = load.alone.map(|lasting| {
        let pace = Pace {
            lasting,
            ..load.pace
        };
        measure(bed, &session, Both::calls(pace))
    });
    let both = Both {
        pace: Some(load.pace),
        bulk: Some(load.bulk),
        warm_up: load.warm_up,
        lasting: load.pace.lasting,
    };
    let outcome = measure(bed, &session, both);
    session.end(bed);
    let mut cell = Cell::new(case, &arm.name, outcome);
    if let Some(alone) = alone {
        cell.errors.extend(alone.errors);
        cell.alone = alone.latency;
    }
    Ok(cell)
}

/// Milliseconds, in as many digits as mean something.
pub fn ms(value: f64) -> String {
    match value {
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    }
}

/// "p50 / p99"-like cells: each of these, or nothing.
pub fn times(latency: Option<&Latency>) -> [String; 4] {
    let Some(latency) = latency else {
        return Default::default();
    };
    let mark = match latency.unanswered + latency.failed {
        0 => String::new(),
        some => format!(" ({some} without an answer)"),
    };
    [
        ms(latency.p50),
        ms(latency.p95),
        ms(latency.p99),
        ms(latency.max) + &mark,
    ]
}

pub fn mbit(value: Option<f64>) -> String {
    value.map(|value| format!("{value:.1}")).unwrap_or_default()
}

/// What the link lost by itself and what did not fit its queue, forth and back.
pub fn losses(cell: &Cell) -> [String; 2] {
    [cell.wire.forth, cell.wire.back].map(|way| {
        let share = way.loss();
        match 100.0 * way.queue_full as f64 / way.packets.max(1) as f64 {
            queue if queue >= 0.005 => format!("{share:.2} % + {queue:.2} %"),
            _ => format!("{share:.2} %"),
        }
    })
}

/// The usual table of cells with bulk beside calls.
pub fn contention(section: &mut Section, caption: &str, cells: &[Cell]) {
    let has_alone = cells.iter().any(|cell| cell.alone.is_some());
    let mut header = vec!["case", "arm"];
    header.extend(has_alone.then_some("alone p99"));
    header.extend(["p50", "p95", "p99", "max", "bulk Mbit/s"]);
    header.extend(["lost + queue full, forth", "back"]);
    let rows = cells.iter().map(|cell| {
        let mut row = vec![cell.case.clone(), cell.arm.clone()];
        if has_alone {
            let [_, _, alone, _] = times(cell.alone.as_ref());
            row.push(alone);
        }
        row.extend(times(cell.latency.as_ref()));
        row.push(mbit(cell.mbit));
        row.extend(losses(cell));
        row
    });
    section.table(caption, &header, rows.collect());
}

/// p50 and p99 of each cell, and its p99 alone where there is one.
pub fn chart(file: &str, title: &str, cells: &[&Cell]) -> Chart {
    let rows = cells
        .iter()
        .filter_map(|cell| {
            let latency = cell.latency.as_ref()?;
            let mut points = vec![("p50", latency.p50), ("p99", latency.p99)];
            if let Some(alone) = &cell.alone {
                points.push(("p99 alone", alone.p99));
            }
            Some((cell.arm.clone(), points))
        })
        .collect();
    Chart {
        file: file.into(),
        title: title.into(),
        rows,
    }
}

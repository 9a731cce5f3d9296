//! Every link that people have: small calls alone, bulk alone, and both together.

use std::time::Duration;

use tower_iroh_lab::{Conditions, Loss};

use super::common::{self, Contention, contend, contention, losses, mbit, times};
use crate::{
    arms::{Arm, Kernel, Session, iroh, tcp},
    bed::{Bed, beds, side_by_side},
    cli::Plan,
    fault::Fault,
    load::{Both, Bulk, MEBIBYTE, Pace, Way, measure},
    record::{Cell, Section},
};

/// A link and what its cells may cost.
#[derive(Clone, Copy, Debug)]
struct Path {
    name: &'static str,
    /// In the names of charts.
    file: &'static str,
    conditions: Conditions,
    /// How many arms at a time make small calls, bulk alone, and both. Lossy links need many calls, so their arms can't all take turns.
    alone: usize,
    bulk: usize,
    together: usize,
    /// In a quick run too.
    quick: bool,
}

pub const LOSSY: &str = "WAN 40 ms, 1 % lost each way";

fn paths() -> Vec<Path> {
    let wan = |ms| Conditions::wan(Duration::from_millis(ms));
    let path = |name, file, conditions, [alone, bulk, together]: [usize; 3], quick| Path {
        name,
        file,
        conditions,
        alone,
        bulk,
        together,
        quick,
    };
    vec![
        path("LAN", "lan", Conditions::lan(), [1, 1, 1], true),
        path("WAN 40 ms", "wan-40", wan(40), [3, 1, 1], false),
        path("WAN 100 ms", "wan-100", wan(100), [3, 1, 1], false),
        path(LOSSY, "loss-1", wan(40).with_loss(0.01), [3, 1, 3], true),
        path(
            "WAN 40 ms, 3 % lost each way",
            "loss-3",
            wan(40).with_loss(0.03),
            [3, 1, 3],
            false,
        ),
        path(
            "20 Mbit/s, queue of 200 ms",
            "narrow",
            Conditions::narrow(),
            [3, 3, 5],
            false,
        ),
        path("Wi-Fi", "wifi", Conditions::wifi(), [3, 2, 3], false),
    ]
}

impl Path {
    fn is_lossy(&self) -> bool {
        self.conditions.loss != Loss::Random(0.0)
    }

    /// How many links it takes.
    fn most(&self) -> usize {
        self.alone.max(self.bulk).max(self.together)
    }

    /// Long enough for a controller to find the rate.
    fn warm_up(&self) -> Duration {
        Duration::from_millis(700) + self.conditions.delay * 26
    }
}

pub fn run(plan: &Plan, section: &mut Section) -> Result<(), Fault> {
    section.text.push(
        "64 B calls at 200/s. Alone, all arms run side by side, each on a link and hosts of its own, but on the LAN, where one follows the \
         other: the processor has little to do then. Every server is tonic's with its own defaults: a window of 1 MiB for what a client uploads on one HTTP/2 \
         connection, which is 84 Mbit/s at a round trip of 100 ms and 210 at 40, and less where packets are lost."
            .into(),
    );
    let paths: Vec<_> = paths()
        .into_iter()
        .filter(|path| !plan.quick || path.quick)
        .collect();
    let (mut alone, mut fast, mut beside) = (Vec::new(), Vec::new(), Vec::new());
    for path in &paths {
        eprintln!("  {}", path.name);
        let beds = beds(path.most(), path.conditions, plan.seed)?;
        for (found, cells) in [
            (&mut alone, calls(plan, path, &beds)?),
            (&mut fast, bulk(plan, path, &beds)?),
            (&mut beside, together(plan, path, &beds)?),
        ] {
            if !path.is_lossy() {
                section.must_succeed(&cells);
            }
            found.extend(cells);
        }
    }
    section.table(
        "64 B calls at 200/s alone: milliseconds",
        &[
            "link",
            "arm",
            "calls",
            "p50",
            "p95",
            "p99",
            "max",
            "lost forth",
            "back",
        ],
        alone.iter().map(alone_row).collect(),
    );
    let lossy: Vec<_> = alone.iter().filter(|cell| cell.case == LOSSY).collect();
    section.charts.push(common::chart(
        "links-alone",
        &format!("64 B calls at 200/s alone, {LOSSY}: ms"),
        &lossy,
    ));
    section.table(
        "bulk alone: 16 callers of 1 MiB, Mbit/s of payload",
        &[
            "link",
            "arm",
            "up",
            "down",
            "lost + queue full, forth (up)",
            "back (down)",
        ],
        bulk_rows(&fast),
    );
    contention(
        section,
        "64 B calls at 200/s beside 16 callers that upload 1 MiB: milliseconds",
        &beside,
    );
    for path in &paths {
        let of: Vec<_> = beside
            .iter()
            .filter(|cell| cell.case == path.name)
            .collect();
        section.charts.push(common::chart(
            &format!("links-beside-{}", path.file),
            &format!(
                "64 B calls at 200/s beside 16 x 1 MiB up, {}: ms",
                path.name
            ),
            &of,
        ));
    }
    section.cells.extend(alone);
    section.cells.extend(fast);
    section.cells.extend(beside);
    Ok(())
}

/// One channel is as good as two where nothing is beside the calls.
fn single(plan: &Plan) -> Vec<Arm> {
    let mut arms = vec![tcp(Kernel::Bbr, 1), iroh()];
    if !plan.quick {
        arms.insert(1, tcp(Kernel::Cubic, 1));
    }
    arms
}

fn calls(plan: &Plan, path: &Path, beds: &[Bed]) -> Result<Vec<Cell>, Fault> {
    // At least 5,000 behind every p99 where packets are lost.
    let lasting = match path.is_lossy() {
        true => plan.lasting(26_000, 4_000),
        false => plan.lasting(6_000, 3_000),
    };
    let pace = Pace {
        per_second: 200,
        lasting,
        urgency: None,
    };
    side_by_side(&beds[..path.alone], &single(plan), |bed, arm| {
        let session = Session::start(bed, arm)?;
        let outcome = measure(bed, &session, Both::calls(pace));
        session.end(bed);
        Ok(Cell::new(path.name, &arm.name, outcome))
    })
}

fn alone_row(cell: &Cell) -> Vec<String> {
    let calls = cell.latency.as_ref().map_or(0, |latency| latency.calls);
    let mut row = vec![cell.case.clone(), cell.arm.clone(), calls.to_string()];
    row.extend(times(cell.latency.as_ref()));
    row.extend(losses(cell));
    row
}

fn load(way: Way) -> Bulk {
    Bulk {
        callers: 16,
        bytes: MEBIBYTE,
        way,
        urgency: None,
    }
}

/// Uploads, then downloads, each arm with the processor for itself where the link is fast.
fn bulk(plan: &Plan, path: &Path, beds: &[Bed]) -> Result<Vec<Cell>, Fault> {
    let lasting = plan.lasting(2_500, 1_500);
    let cells = side_by_side(&beds[..path.bulk], &single(plan), |bed, arm| {
        eprintln!("  {}: bulk: {}", path.name, arm.name);
        Way::BOTH
            .into_iter()
            .map(|way| {
                // A session for each: a rate that was found in one direction is no head start in the other.
                let session = Session::start(bed, arm)?;
                let both = Both::bulk(load(way), path.warm_up(), lasting);
                let outcome = measure(bed, &session, both);
                session.end(bed);
                bed.drain();
                let case = format!("{}, bulk {}", path.name, way.name());
                Ok(Cell::new(case, &arm.name, outcome))
            })
            .collect::<Result<Vec<_>, Fault>>()
    })?;
    Ok(cells.into_iter().flatten().collect())
}

/// Uploads and downloads of an arm, which follow each other, in one row.
fn bulk_rows(cells: &[Cell]) -> Vec<Vec<String>> {
    let pairs = cells.chunks_exact(2).map(|pair| {
        let [forth, _] = losses(&pair[0]);
        let [_, back] = losses(&pair[1]);
        let link = pair[0].case.trim_end_matches(", bulk up").to_owned();
        let arm = pair[0].arm.clone();
        vec![
            link,
            arm,
            mbit(pair[0].mbit),
            mbit(pair[1].mbit),
            forth,
            back,
        ]
    });
    pairs.collect()
}

/// Calls beside uploads; TCP with one channel and with two.
fn together(plan: &Plan, path: &Path, beds: &[Bed]) -> Result<Vec<Cell>, Fault> {
    let mut arms = single(plan);
    arms.push(tcp(Kernel::Bbr, 2));
    if !plan.quick {
        arms.push(tcp(Kernel::Cubic, 2));
    }
    let lasting = match path.is_lossy() {
        true => plan.lasting(26_000, 3_000),
        false => plan.lasting(5_000, 2_000),
    };
    let load = Contention {
        alone: None,
        pace: Pace {
            per_second: 200,
            lasting,
            urgency: None,
        },
        bulk: load(Way::Up),
        warm_up: path.warm_up(),
    };
    side_by_side(&beds[..path.together], &arms, |bed, arm| {
        contend(bed, path.name, arm, load)
    })
}

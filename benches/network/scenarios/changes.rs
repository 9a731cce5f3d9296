//! The link changes for good while bulk runs on it: how much bulk gets 15 s later, and what control calls beside it take.

use std::{sync::atomic::Ordering, time::Duration};

use tokio::time::Instant;
use tower_iroh::Urgency;
use tower_iroh_lab::Conditions;

use super::common::{mbit, ms};
use crate::{
    arms::{Arm, Kernel, Session, iroh, tcp},
    bed::{Bed, beds, side_by_side},
    cli::Plan,
    fault::Fault,
    load::{Both, Bulk, MEBIBYTE, Pace, Way, measure},
    record::{Cell, Section},
};

/// How long bulk has before the change, and after it.
const BEFORE: Duration = Duration::from_secs(8);
const FOLLOWS: Duration = Duration::from_secs(15);
/// How long a fresh connection's bulk runs before it is measured.
const FRESH: Duration = Duration::from_secs(5);

/// A change of the round trip in milliseconds and of the rate in Mbit/s.
#[derive(Clone, Copy, Debug)]
pub struct Change {
    from: (u64, u64),
    to: (u64, u64),
}

/// Those whose links fit the processor at the same time, one group after the other.
pub const GROUPS: [&[Change]; 2] = [
    &[
        change((20, 30), (60, 30)),
        change((30, 30), (45, 30)),
        change((60, 30), (20, 30)),
    ],
    &[change((20, 100), (20, 20)), change((20, 20), (20, 100))],
];

const fn change(from: (u64, u64), to: (u64, u64)) -> Change {
    Change { from, to }
}

impl Change {
    pub fn name(self) -> String {
        let ((rtt, rate), (new_rtt, new_rate)) = (self.from, self.to);
        match rate == new_rate {
            true => format!("{rtt} -> {new_rtt} ms"),
            false => format!("{rate} -> {new_rate} Mbit/s"),
        }
    }

    /// Half of the new round trip, in milliseconds.
    pub fn half_a_round_trip(self) -> f64 {
        self.to.0 as f64 / 2.0
    }
}

fn link((rtt, rate): (u64, u64)) -> Conditions {
    Conditions::wan(Duration::from_millis(rtt)).with_rate(rate * 1_000_000)
}

pub fn run(plan: &Plan, section: &mut Section) -> Result<(), Fault> {
    section.text.push(format!(
        "4 callers download 1 MiB each for {} s, then the link changes. {} s later: their rate, and control calls at 50/s beside them. Then the same on a fresh connection, \
         whose control calls are measured alone as well. The queue holds 100 ms.",
        BEFORE.as_secs(),
        FOLLOWS.as_secs()
    ));
    let groups = plan.pick(&GROUPS[..], &GROUPS[1..]);
    let lasting = plan.lasting(6000, 2000);
    for group in groups {
        let group = plan.pick(*group, &group[..1]);
        let arms = plan.pick(vec![iroh(), tcp(Kernel::Bbr, 2)], vec![iroh()]);
        let cases = group
            .iter()
            .flat_map(|change| arms.iter().map(|arm| (*change, arm.clone())));
        let cases: Vec<_> = cases.collect();
        let beds = beds(cases.len(), link(group[0].from), plan.seed)?;
        let cells = side_by_side(&beds, &cases, |bed, (change, arm)| {
            follow(bed, *change, arm, lasting)
        })?;
        section.must_succeed(&cells);
        section.cells.extend(cells);
    }
    let value = |cell: &Cell, key| cell.values.get(key).copied();
    let rows = section.cells.iter().map(|cell| {
        vec![
            cell.case.clone(),
            cell.arm.clone(),
            mbit(cell.mbit),
            mbit(value(cell, "fresh_mbit")),
            value(cell, "share")
                .map(|share| format!("{share:.2}"))
                .unwrap_or_default(),
            cell.alone
                .as_ref()
                .map(|alone| ms(alone.p99))
                .unwrap_or_default(),
            cell.p99().map(ms).unwrap_or_default(),
            value(cell, "fresh_p99").map(ms).unwrap_or_default(),
        ]
    });
    let rows = rows.collect();
    section.table(
        "15 s after the change",
        &[
            "change",
            "arm",
            "bulk Mbit/s",
            "of a fresh connection",
            "share",
            "control alone, p99 ms",
            "beside bulk",
            "beside a fresh connection's",
        ],
        rows,
    );
    Ok(())
}

fn follow(bed: &Bed, change: Change, arm: &Arm, lasting: Duration) -> Result<Cell, Fault> {
    eprintln!("  {}: {}", change.name(), arm.name);
    let bulk = Bulk {
        callers: 4,
        bytes: MEBIBYTE,
        way: Way::Down,
        urgency: Some(Urgency::BULK),
    };
    let pace = Pace {
        per_second: 50,
        lasting,
        urgency: Some(Urgency::CONTROL),
    };
    bed.link().set(link(change.from));
    let session = Session::start(bed, arm)?;
    let running = bulk.start(bed.client(), &session.bulk);
    bed.wait(BEFORE);
    bed.link().set(link(change.to));
    bed.wait(FOLLOWS);
    let carried = || session.carried.load(Ordering::Relaxed);
    let (since, before) = (Instant::now(), carried());
    let mut outcome = measure(bed, &session, Both::calls(pace));
    let rate = (carried() - before) as f64 * 8.0 / 1e6 / since.elapsed().as_secs_f64();
    outcome.mbit = Some(rate);
    outcome.errors.extend(running.end());
    session.end(bed);
    bed.drain();

    let fresh = Session::start(bed, arm)?;
    let alone = measure(bed, &fresh, Both::calls(pace));
    let beside = measure(
        bed,
        &fresh,
        Both {
            pace: Some(pace),
            bulk: Some(bulk),
            warm_up: FRESH,
            lasting,
        },
    );
    fresh.end(bed);
    let mut cell = Cell::new(change.name(), &arm.name, outcome);
    cell.errors
        .extend(alone.errors.into_iter().chain(beside.errors));
    cell.alone = alone.latency;
    let values = [
        ("fresh_mbit", beside.mbit),
        ("share", beside.mbit.map(|fresh| rate / fresh)),
        ("fresh_p99", beside.latency.map(|latency| latency.p99)),
    ];
    let known = values
        .into_iter()
        .filter_map(|(key, value)| Some((key, value?)));
    cell.values.extend(known);
    Ok(cell)
}

//! Control calls beside bulk on a link that loses packets: what waits for a lost packet of somebody else's.

use std::time::Duration;

use tower_iroh::{Tuning, Urgency};
use tower_iroh_lab::Conditions;

use super::common::{self, Contention, contend, contention};
use crate::{
    arms::{Kernel, LaneSet, iroh, tcp, tuned},
    bed::{beds, side_by_side},
    cli::Plan,
    fault::Fault,
    load::{Bulk, MEBIBYTE, Pace, Way},
    record::Section,
};

pub const CASE: &str = "4 x 1 MiB up";

pub fn conditions() -> Conditions {
    Conditions::wan(Duration::from_millis(40))
        .with_rate(100_000_000)
        .with_loss(0.01)
}

pub fn run(plan: &Plan, section: &mut Section) -> Result<(), Fault> {
    section.text.push(
        "64 B calls at 100/s with the urgency of control beside four callers that upload 1 MiB messages; 1 % lost each way, 40 ms there and \
         back, 100 Mbit/s, a queue of 100 ms. On such a path the default is BBR3."
            .into(),
    );
    // Those that fill the link two at a time, those that the loss slows down all at once.
    let mut fast = vec![tcp(Kernel::Bbr, 1), iroh(), tcp(Kernel::Bbr, 2)];
    let mut slow = vec![
        tcp(Kernel::Cubic, 1),
        tuned("Cubic", Tuning::lan(), LaneSet::Standard),
    ];
    if !plan.quick {
        fast.push(tuned("auto", Tuning::auto(), LaneSet::One));
        slow.push(tcp(Kernel::Cubic, 2));
        slow.push(tuned("Cubic", Tuning::lan(), LaneSet::One));
    }
    let load = Contention {
        alone: None,
        pace: Pace {
            per_second: 100,
            // 5,200 calls, of which the last percent still is 52.
            lasting: plan.lasting(52_000, 4_000),
            urgency: Some(Urgency::CONTROL),
        },
        bulk: Bulk {
            callers: 4,
            bytes: MEBIBYTE,
            way: Way::Up,
            urgency: Some(Urgency::BULK),
        },
        warm_up: plan.lasting(2_000, 1_000),
    };
    let beds = beds(plan.pick(4, 2), conditions(), plan.seed)?;
    let mut cells = Vec::new();
    for (arms, width) in [(fast, 2), (slow, beds.len())] {
        let some = side_by_side(&beds[..width], &arms, |bed, arm| {
            contend(bed, CASE, arm, load)
        })?;
        cells.extend(some);
    }
    contention(section, "milliseconds", &cells);
    let title = "64 B control calls beside 4 x 1 MiB up, 1 % lost each way, 40 ms: ms";
    let all: Vec<_> = cells.iter().collect();
    section
        .charts
        .push(common::chart("head-of-line", title, &all));
    section.cells = cells;
    Ok(())
}

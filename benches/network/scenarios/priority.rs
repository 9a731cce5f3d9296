//! Control calls while bulk fills a narrow link: what lanes and priorities are for.

use std::time::Duration;

use tower_iroh::{Tuning, Urgency};
use tower_iroh_lab::Conditions;

use super::common::{self, Contention, contend, contention};
use crate::{
    arms::{Arm, Kernel, LaneSet, iroh, tcp, tuned},
    bed::{beds, side_by_side},
    cli::Plan,
    fault::Fault,
    load::{Bulk, MEBIBYTE, Pace, Way},
    record::Section,
};

/// At once; each fills 16 Mbit/s, which is little for the processor.
const WIDTH: usize = 6;

pub const UP: &str = "16 x 1 MiB up";
pub const DOWN: &str = "16 x 1 MiB down";
const LARGE: &str = "1 x 50 MB up";

pub fn conditions() -> Conditions {
    Conditions::wan(Duration::from_millis(40))
        .with_rate(16_000_000)
        .with_queue(Duration::from_millis(200))
}

pub fn run(plan: &Plan, section: &mut Section) -> Result<(), Fault> {
    section.text.push(
        "64 B calls at 100/s with the urgency of control, 16 Mbit/s, 40 ms there and back, a queue of 200 ms. TCP with two channels has the \
         small calls on one of them and bulk on the other. Calls alone ran on the same connection just before."
            .into(),
    );
    let mut arms: Vec<Arm> = Vec::new();
    let kernels: &[Kernel] = plan.pick(&Kernel::ALL, &[Kernel::Bbr]);
    for control in kernels {
        arms.extend([tcp(*control, 1), tcp(*control, 2)]);
    }
    arms.push(iroh());
    if !plan.quick {
        for lanes in LaneSet::ALL {
            arms.push(tuned("BBR3", Tuning::wan(), lanes));
            arms.push(tuned("Cubic", Tuning::lan(), lanes));
        }
    }
    let ways: &[Way] = plan.pick(&Way::BOTH, &[Way::Up]);
    let mut cases = Vec::new();
    for &way in ways {
        let case = match way {
            Way::Up => UP,
            Way::Down => DOWN,
        };
        cases.extend(
            arms.iter()
                .map(|arm| (case, way, 16, MEBIBYTE, arm.clone())),
        );
    }
    if !plan.quick {
        let mut large: Vec<Arm> = vec![iroh()];
        large.push(tuned("Cubic", Tuning::lan(), LaneSet::Standard));
        large.extend(
            Kernel::ALL
                .into_iter()
                .flat_map(|control| [tcp(control, 1), tcp(control, 2)]),
        );
        cases.extend(
            large
                .into_iter()
                .map(|arm| (LARGE, Way::Up, 1, 50_000_000, arm)),
        );
    }

    let beds = beds(WIDTH.min(cases.len()), conditions(), plan.seed)?;
    let cells = side_by_side(&beds, &cases, |bed, case| {
        let (case, way, callers, bytes, arm) = case;
        let load = Contention {
            alone: Some(plan.lasting(4_000, 2_000)),
            pace: Pace {
                per_second: 100,
                lasting: plan.lasting(20_000, 4_000),
                urgency: Some(Urgency::CONTROL),
            },
            bulk: Bulk {
                callers: *callers,
                bytes: *bytes,
                way: *way,
                urgency: Some(Urgency::BULK),
            },
            warm_up: plan.lasting(2_000, 2_000),
        };
        contend(bed, case, arm, load)
    })?;
    section.must_succeed(&cells);
    contention(section, "milliseconds", &cells);
    for (file, case) in [("priority-up", UP), ("priority-down", DOWN)] {
        let of: Vec<_> = cells.iter().filter(|cell| cell.case == case).collect();
        let title = format!("64 B control calls beside {case}, 16 Mbit/s, 40 ms: ms");
        section.charts.push(common::chart(file, &title, &of));
    }
    section.cells = cells;
    Ok(())
}

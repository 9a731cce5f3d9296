//! What issue 4 wants ("To reach"), each with what was measured.

use serde::Serialize;

use crate::{
    arms::{Arm, Kernel, LaneSet, iroh, tcp, tuned},
    record::{Cell, Record, Section},
    scenarios::{changes, connect, grid, head_of_line, links, partition, priority},
};
use tower_iroh::Tuning;

/// One wish and how it went.
#[derive(Debug, Serialize)]
pub struct Verdict {
    pub wish: String,
    /// What was measured, as text.
    pub measured: String,
    /// Measured by bound. `None` if nothing was measured.
    pub ratio: Option<f64>,
    pub reached: Option<bool>,
}

impl Verdict {
    /// "reached", or by how much it was missed.
    pub fn word(&self) -> String {
        match (self.reached, self.ratio) {
            (Some(true), _) => "reached".into(),
            (Some(false), Some(ratio)) => {
                let by = if ratio > 1.0 { ratio } else { 1.0 / ratio };
                format!("missed by {by:.2} x")
            }
            _ => "not measured".into(),
        }
    }

    pub fn line(&self) -> String {
        format!("{:<17} {}: {}", self.word(), self.wish, self.measured)
    }

    fn unmeasured(wish: String) -> Self {
        Self {
            wish,
            measured: "-".into(),
            ratio: None,
            reached: None,
        }
    }

    fn at_most(wish: impl Into<String>, values: Option<(f64, f64)>) -> Self {
        Self::new(wish.into(), values, |ratio| ratio <= 1.0)
    }

    fn at_least(wish: impl Into<String>, values: Option<(f64, f64)>) -> Self {
        Self::new(wish.into(), values, |ratio| ratio >= 1.0)
    }

    /// `values` are what was measured and the bound.
    fn new(wish: String, values: Option<(f64, f64)>, good: impl Fn(f64) -> bool) -> Self {
        match values {
            Some((value, bound)) if value.is_finite() && bound.is_finite() => {
                let ratio = value / bound;
                Self {
                    wish,
                    measured: format!("{value:.1}, the bound is {bound:.1}"),
                    ratio: Some(ratio),
                    reached: Some(good(ratio)),
                }
            }
            _ => Self::unmeasured(wish),
        }
    }
}

/// Every target whose scenario ran.
pub fn judge(record: &Record) -> Vec<Verdict> {
    type Judge = fn(&Section) -> Vec<Verdict>;
    let judges: [(&str, Judge); 7] = [
        ("priority", beside_bulk),
        ("head_of_line", under_loss),
        ("links", alone),
        ("grid", bulk),
        ("changes", after_a_change),
        ("partition", after_a_cut),
        ("connect", resumed),
    ];
    let ran = judges
        .iter()
        .filter_map(|(name, judge)| Some(judge(record.section(name)?)));
    ran.flatten().collect()
}

fn p99(section: &Section, case: &str, arm: &Arm) -> Option<f64> {
    section.cell(case, &arm.name)?.p99()
}

/// Control calls beside 16 bulk callers on a narrow link.
fn beside_bulk(section: &Section) -> Vec<Verdict> {
    let ours = section.cell(priority::UP, &iroh().name);
    let p99_ours = ours.and_then(Cell::p99);
    let alone = ours.and_then(|cell| Some(cell.alone.as_ref()?.p99));
    let half_a_round_trip = priority::conditions().delay.as_secs_f64() * 1000.0;
    let what = "control beside 16 bulk callers, 16 Mbit/s, 40 ms: p99 at most";
    let mut verdicts = vec![Verdict::at_most(
        format!("{what} p99 alone + half a round trip (ms)"),
        p99_ours.zip(alone.map(|alone| alone + half_a_round_trip)),
    )];
    for (factor, channels) in [(1.0, 2), (0.02, 1)] {
        for control in Kernel::ALL {
            let arm = tcp(control, channels);
            let theirs = p99(section, priority::UP, &arm).map(|p99| p99 * factor);
            let wish = format!("{what} {factor} x {} (ms)", arm.name);
            verdicts.push(Verdict::at_most(wish, p99_ours.zip(theirs)));
        }
    }
    verdicts
}

/// Control calls beside 4 bulk callers under loss, each controller against its like.
fn under_loss(section: &Section) -> Vec<Verdict> {
    let case = head_of_line::CASE;
    let mut verdicts = Vec::new();
    let cubic = tuned("Cubic", Tuning::lan(), LaneSet::Standard);
    for (ours, control) in [(iroh(), Kernel::Bbr), (cubic, Kernel::Cubic)] {
        let cell = section.cell(case, &ours.name);
        let what = format!(
            "{}, control beside 4 bulk callers, 1 % lost, 40 ms:",
            ours.name
        );
        for (factor, channels) in [(0.25, 1), (1.0, 2)] {
            let arm = tcp(control, channels);
            let theirs = p99(section, case, &arm).map(|p99| p99 * factor);
            verdicts.push(Verdict::at_most(
                format!("{what} p99 at most {factor} x {} (ms)", arm.name),
                cell.and_then(Cell::p99).zip(theirs),
            ));
        }
        for channels in [1, 2] {
            let arm = tcp(control, channels);
            let theirs = section.cell(case, &arm.name).and_then(|cell| cell.mbit);
            verdicts.push(Verdict::at_least(
                format!("{what} bulk at least 1.0 x {} (Mbit/s)", arm.name),
                cell.and_then(|cell| cell.mbit).zip(theirs),
            ));
        }
    }
    verdicts
}

fn alone(section: &Section) -> Vec<Verdict> {
    let ours = p99(section, links::LOSSY, &iroh());
    Kernel::ALL
        .into_iter()
        .map(|control| {
            let arm = tcp(control, 1);
            let theirs = p99(section, links::LOSSY, &arm).map(|p99| p99 * 0.8);
            let wish = format!(
                "alone, {}: p99 at most 0.8 x {} (ms)",
                links::LOSSY,
                arm.name
            );
            Verdict::at_most(wish, ours.zip(theirs))
        })
        .collect()
}

/// The worst path decides; the others are in the table.
fn bulk(section: &Section) -> Vec<Verdict> {
    grid::CALLERS
        .iter()
        .map(|(shape, _)| {
            let ending = format!(", {shape}");
            let ratios = section.cells.iter().filter_map(|cell| {
                let path = cell.case.strip_suffix(&ending)?;
                Some((*cell.values.get("auto_by_best_fixed")?, path))
            });
            let ratios: Vec<_> = ratios.collect();
            let wish =
                format!("bulk, {shape}: on every path at least 0.9 x the best fixed setting");
            let worst = ratios.iter().min_by(|one, other| one.0.total_cmp(&other.0));
            let Some((ratio, path)) = worst else {
                return Verdict::unmeasured(wish);
            };
            let good = ratios.iter().filter(|(ratio, _)| *ratio >= 0.9).count();
            Verdict {
                measured: format!(
                    "{ratio:.2} at {path}; {good} of {} paths reach it",
                    ratios.len()
                ),
                wish,
                ratio: Some(ratio / 0.9),
                reached: Some(*ratio >= 0.9),
            }
        })
        .collect()
}

/// Each change that ran, of bulk and of the control calls beside it.
fn after_a_change(section: &Section) -> Vec<Verdict> {
    let changes = changes::GROUPS.into_iter().flatten();
    let each = changes.filter_map(|change| {
        let cell = section.cell(&change.name(), &iroh().name)?;
        let share = cell.values.get("share").copied();
        let alone = cell
            .alone
            .as_ref()
            .map(|alone| alone.p99 + change.half_a_round_trip());
        let what = format!("15 s after a link has changed, {}:", change.name());
        Some([
            Verdict::at_least(
                format!("{what} bulk at least 0.8 x a fresh connection's"),
                share.map(|share| (share, 0.8)),
            ),
            Verdict::at_most(
                format!("{what} control's p99 at most p99 alone + half a round trip (ms)"),
                cell.p99().zip(alone),
            ),
        ])
    });
    each.flatten().collect()
}

fn after_a_cut(section: &Section) -> Vec<Verdict> {
    let cuts = partition::CUTS.into_iter();
    let each = cuts.filter_map(|cut| {
        let cell = section.cell(&partition::case(cut), &iroh().name)?;
        let first = cell.values.get("first_success_of_new");
        Some(Verdict::at_most(
            format!("after a cut of {cut} s: the first answer to a new call at most 1500 ms after the link's return (ms)"),
            first.map(|first| (*first, 1500.0)),
        ))
    });
    each.collect()
}

fn resumed(section: &Section) -> Vec<Verdict> {
    let cell = section.cell(&connect::case(100), connect::RESUMED);
    let p50 = cell.and_then(|cell| Some(cell.latency.as_ref()?.p50));
    vec![Verdict::at_most(
        "connect and first call with resumption at 100 ms: p50 at most 1.3 x the round trip (ms)",
        p50.map(|p50| (p50, 130.0)),
    )]
}

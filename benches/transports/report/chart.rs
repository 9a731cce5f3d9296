//! One picture: each arm's speed on each workload, relative to the first reference.

use std::path::Path;

use plotters::prelude::*;

use super::references;
use crate::{metric::Metric, run::Record, shared::Fault, stats::Interval};

const COLOURS: [RGBColor; 7] = [
    RGBColor(0x9e, 0x9e, 0x9e),
    RGBColor(0x42, 0x42, 0x42),
    RGBColor(0xf9, 0xa8, 0x25),
    RGBColor(0xff, 0xe0, 0x82),
    RGBColor(0x00, 0x83, 0x8f),
    RGBColor(0x15, 0x65, 0xc0),
    RGBColor(0xc6, 0x28, 0x28),
];

/// Draws it; false if there is nothing to draw.
///
/// Every workload shows the first of its metrics, and a time is turned around: right of 1 is faster.
pub fn draw(record: &Record<'_>, path: &Path) -> Result<bool, Fault> {
    let reference = references(record)[0];
    let arms: Vec<_> = record
        .plan
        .arms
        .iter()
        .filter(|arm| **arm != reference)
        .collect();
    let mut points = Vec::new();
    for (at, workload) in record.plan.workloads.iter().enumerate() {
        let metric = Metric::of(*workload)[0];
        for (number, &&arm) in arms.iter().enumerate() {
            if let Some(ratio) = record.ratio(at, metric, arm, reference) {
                let ratio = if metric.more_is_better() {
                    ratio
                } else {
                    inverse(ratio)
                };
                points.push((at, number, ratio));
            }
        }
    }
    if points.is_empty() {
        return Ok(false);
    }
    let low = points.iter().map(|point| point.2.low).fold(1.0, f64::min) * 0.9;
    let high = points.iter().map(|point| point.2.high).fold(1.0, f64::max) * 1.1;

    let rows = record.plan.workloads.len();
    let row_height = 22 + 14 * arms.len() as u32;
    // One row more than there are, for the legend.
    let size = (1000, 130 + row_height * (rows as u32 + 1));
    let root = SVGBackend::new(path, size).into_drawing_area();
    root.fill(&WHITE)?;
    let caption = format!("speed relative to {}, right is faster", reference.title);
    let mut chart = ChartBuilder::on(&root)
        .caption(caption, ("sans-serif", 20))
        .margin(10)
        .x_label_area_size(30)
        .y_label_area_size(190)
        .build_cartesian_2d((low..high).log_scale().base(2.0), -1.0..rows as f64)?;
    let label = |y: &f64| -> String {
        let row = rows as f64 - *y;
        match record.plan.workloads.get(row as usize) {
            Some(workload) if row.fract() == 0.5 => {
                format!("{}, {}", workload.name, Metric::of(*workload)[0].title())
            }
            _ => String::new(),
        }
    };
    chart
        .configure_mesh()
        .disable_y_mesh()
        .y_labels(2 * (rows + 1) + 1)
        .x_labels(12)
        .y_label_formatter(&label)
        .x_label_formatter(&|x| format!("{x:.2}"))
        .draw()?;
    chart.draw_series([PathElement::new(
        vec![(1.0, 0.0), (1.0, rows as f64)],
        BLACK,
    )])?;
    for (number, arm) in arms.iter().enumerate() {
        let position = record
            .plan
            .arms
            .iter()
            .position(|other| other == *arm)
            .unwrap_or_default();
        let colour = COLOURS[position % COLOURS.len()];
        let y = |at: usize| {
            let within = (number as f64 + 1.0) / (arms.len() as f64 + 1.0);
            rows as f64 - at as f64 - within
        };
        let mine = || points.iter().filter(|point| point.1 == number);
        chart.draw_series(mine().map(|&(at, _, ratio)| {
            PathElement::new(
                vec![(ratio.low, y(at)), (ratio.high, y(at))],
                colour.stroke_width(2),
            )
        }))?;
        chart
            .draw_series(
                mine()
                    .map(|&(at, _, ratio)| Circle::new((ratio.middle, y(at)), 4, colour.filled())),
            )?
            .label(arm.title)
            .legend(move |(x, y)| Circle::new((x + 8, y), 4, colour.filled()));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE.mix(0.85))
        .border_style(BLACK)
        .draw()?;
    root.present()?;
    Ok(true)
}

fn inverse(ratio: Interval) -> Interval {
    Interval {
        middle: 1.0 / ratio.middle,
        low: 1.0 / ratio.high,
        high: 1.0 / ratio.low,
    }
}

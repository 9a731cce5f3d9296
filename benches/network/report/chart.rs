//! Points in rows on a logarithmic axis: one chart form for everything.

use std::path::Path;

use plotters::prelude::*;

use crate::{fault::Fault, record::Chart};

const COLOURS: [RGBColor; 6] = [
    RGBColor(0x00, 0x83, 0x8f),
    RGBColor(0xc6, 0x28, 0x28),
    RGBColor(0x9e, 0x9e, 0x9e),
    RGBColor(0x15, 0x65, 0xc0),
    RGBColor(0xf9, 0xa8, 0x25),
    RGBColor(0x42, 0x42, 0x42),
];
const ROW: u32 = 24;

pub fn draw(chart: &Chart, path: &Path) -> Result<(), Fault> {
    let values = || {
        chart
            .rows
            .iter()
            .flat_map(|row| &row.1)
            .map(|point| point.1)
    };
    let low = values().fold(f64::MAX, f64::min).max(0.01) / 1.3;
    let high = values().fold(0.02, f64::max) * 1.3;
    let rows = chart.rows.len();
    // One row more than there are, for the legend.
    let size = (1000, 100 + ROW * (rows as u32 + 1));
    let root = SVGBackend::new(path, size).into_drawing_area();
    root.fill(&WHITE)?;
    let mut plot = ChartBuilder::on(&root)
        .caption(&chart.title, ("sans-serif", 18))
        .margin(10)
        .x_label_area_size(30)
        .y_label_area_size(230)
        .build_cartesian_2d((low..high).log_scale(), -1.0..rows as f64)?;
    let label = |y: &f64| -> String {
        let row = rows as f64 - *y;
        match chart.rows.get(row as usize) {
            Some((name, _)) if row >= 0.0 && row.fract() == 0.5 => name.clone(),
            _ => String::new(),
        }
    };
    plot.configure_mesh()
        .disable_y_mesh()
        .y_labels(2 * (rows + 1) + 1)
        .x_labels(12)
        .y_label_formatter(&label)
        .x_label_formatter(&|x| format!("{x}"))
        .draw()?;
    let mut series: Vec<&str> = Vec::new();
    for (name, _) in chart.rows.iter().flat_map(|row| &row.1) {
        if !series.contains(name) {
            series.push(name);
        }
    }
    for (number, name) in series.into_iter().enumerate() {
        let colour = COLOURS[number % COLOURS.len()];
        let points = chart.rows.iter().enumerate().filter_map(|(at, row)| {
            let value = row.1.iter().find(|point| point.0 == name)?.1;
            Some((value.max(low), rows as f64 - at as f64 - 0.5))
        });
        plot.draw_series(points.map(|point| Circle::new(point, 4, colour.filled())))?
            .label(name)
            .legend(move |(x, y)| Circle::new((x + 8, y), 4, colour.filled()));
    }
    plot.configure_series_labels()
        .position(SeriesLabelPosition::LowerRight)
        .background_style(WHITE.mix(0.85))
        .border_style(BLACK)
        .draw()?;
    root.present()?;
    Ok(())
}

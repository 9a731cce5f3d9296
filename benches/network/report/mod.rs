//! Tables, charts and the record.

use std::{fs, path::Path};

use crate::{fault::Fault, record::Record, targets};

mod chart;
mod docs;
mod json;
mod table;

/// Everything that the plan asks for.
pub fn all(record: &Record, write_docs: bool) -> Result<(), Fault> {
    let verdicts = targets::judge(record);
    print!("{}", table::text(record, &verdicts));

    let program = std::env::current_exe()?;
    // target/release/deps/network-0123456789abcdef
    let target = program.ancestors().nth(3).ok_or("where am I?")?;
    // A run with a choice does not overwrite the full one's.
    let name = match &record.plan {
        plan if plan.chosen => "network-chosen",
        plan if plan.quick => "network-quick",
        _ => "network",
    };
    let bench = target.join("bench");
    let charts = bench.join(name);
    fs::create_dir_all(&charts)?;
    let json = bench.join(format!("{name}.json"));
    fs::write(&json, json::text(record, &verdicts)?)?;
    println!("\nwritten: {}", json.display());
    draw(record, &charts)?;
    println!("written: {}", charts.display());
    for fault in record.faults() {
        eprintln!("FAILED {fault}");
    }
    if write_docs && record.faults().is_empty() {
        let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs");
        let pictures = docs.join("network");
        fs::create_dir_all(&pictures)?;
        draw(record, &pictures)?;
        let page = docs.join("network.md");
        fs::write(&page, docs::page(record, &verdicts)?)?;
        println!("written: {}", page.display());
    }
    Ok(())
}

fn draw(record: &Record, folder: &Path) -> Result<(), Fault> {
    for section in &record.sections {
        for chart in &section.charts {
            if !chart.rows.is_empty() {
                chart::draw(chart, &folder.join(format!("{}.svg", chart.file)))?;
            }
        }
    }
    Ok(())
}

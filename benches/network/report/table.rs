//! The tables on standard output.

use std::fmt::Write;

use comfy_table::{Cell, CellAlignment, ContentArrangement, presets};

use crate::{
    record::{Record, Table},
    targets::Verdict,
};

pub fn text(record: &Record, verdicts: &[Verdict]) -> String {
    let mut text = String::new();
    for line in header(record) {
        let _ = writeln!(text, "{line}");
    }
    for section in &record.sections {
        let _ = writeln!(text, "\n{}: {}", section.name, section.title);
        for line in &section.text {
            let _ = writeln!(text, "{line}");
        }
        for table in &section.tables {
            let _ = writeln!(text, "{}\n{}", table.caption, shown(table));
        }
        for cell in &section.cells {
            for error in &cell.errors {
                let _ = writeln!(text, "* {}, {}: {error}", cell.case, cell.arm);
            }
        }
        let _ = writeln!(
            text,
            "{:.0} s, {:.0} % of the processors busy",
            section.seconds,
            section.busy * 100.0
        );
    }
    if !verdicts.is_empty() {
        let _ = writeln!(text, "\ntargets of issue 4");
        for verdict in verdicts {
            let _ = writeln!(text, "  {}", verdict.line());
        }
    }
    text
}

/// About the machine and about the run.
pub fn header(record: &Record) -> Vec<String> {
    let machine = &record.machine;
    let mut lines = vec![
        format!(
            "{}; {}, {} cores; {}; load average before: {}; {}",
            machine.date,
            machine.cpu,
            machine.cores,
            machine.kernel,
            machine.load_average,
            machine.rustc,
        ),
        format!("encryption: {}", record.encryption),
        format!("seed {}, {:.0} s", record.plan.seed, record.seconds),
    ];
    if record.plan.quick {
        lines.push("a quick run: too few calls for its p99 to be trusted".into());
    }
    lines
}

fn shown(table: &Table) -> comfy_table::Table {
    let mut shown = comfy_table::Table::new();
    shown
        .load_style(presets::UTF8_FULL_CONDENSED)
        .set_content_arrangement(ContentArrangement::Disabled)
        .set_header(&table.header);
    for row in &table.rows {
        shown.add_row(row.iter().enumerate().map(|(column, text)| {
            let alignment = match column {
                0 | 1 => CellAlignment::Left,
                _ => CellAlignment::Right,
            };
            Cell::new(text).set_alignment(alignment)
        }));
    }
    shown
}

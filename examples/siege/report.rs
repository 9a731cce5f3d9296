//! What is printed: a line for each attack when it is over, and the table at the end.

use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};

use crate::{attacks, honest::Tally, verdict::Row, vitals::Vitals};

pub(crate) fn list() {
    for attack in attacks::all(false) {
        println!("{:22} {}", attack.name, attack.what);
    }
}

pub(crate) fn head() {
    println!("attack                  calls  failed  p50 ms  p99 ms  newcomer ms  MiB at most");
}

pub(crate) fn line(row: &Row) {
    println!(
        "{:22} {:6} {:7} {:>7} {:>7} {:>12} {:12}{}",
        row.attack,
        row.calls,
        row.failed,
        ms(row.p50),
        ms(row.p99),
        ms(row.newcomer),
        row.memory[1] >> 20,
        if row.broken.is_empty() {
            ""
        } else {
            "  BROKEN"
        }
    );
}

pub(crate) fn end(rows: &[Row], idle: &Tally, rest: &Vitals, end: &Vitals, broken: &[String]) {
    let mut table = Table::new();
    table.load_style(presets::ASCII_MARKDOWN);
    table.set_header([
        "attack",
        "packets/s",
        "KB/s",
        "sockets/s",
        "ended",
        "p50 ms before, during",
        "p99 ms before, during",
        "newcomer at worst, ms",
        "failed",
        "server MiB before, most, after",
        "files",
        "kept",
    ]);
    for row in rows {
        let memory = row.memory.map(|bytes| (bytes >> 20).to_string());
        table.add_row([
            row.attack.clone(),
            format!("{:.0}", row.packets),
            format!("{:.0}", row.bytes / 1000.0),
            format!("{:.0}", row.sockets),
            row.ended.to_string(),
            format!("{}, {}", ms(row.p50_before), ms(row.p50)),
            format!("{}, {}", ms(row.p99_before), ms(row.p99)),
            format!("{}, {}", ms(row.newcomer_before), ms(row.newcomer)),
            format!("{} of {}", row.failed, row.calls),
            memory.join(", "),
            row.files.map(|count| count.to_string()).join(", "),
            if row.broken.is_empty() { "yes" } else { "no" }.to_owned(),
        ]);
    }
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    println!("\n{table}\n");
    println!(
        "between the attacks: {} calls, p50 {} ms, p99 {} ms, newcomers at worst {} ms; the server before: {} MiB, {} files; at the end: {} MiB, {} files",
        idle.calls.len() + idle.newcomers.len(),
        ms(idle.quantile(0.5)),
        ms(idle.quantile(0.99)),
        ms(idle.worst_newcomer()),
        rest.memory >> 20,
        rest.files,
        end.memory >> 20,
        end.files,
    );
    if broken.is_empty() {
        println!("\nEvery call was answered, in time, and the server is as it was.");
    } else {
        println!("\nBroken promises:");
        broken.iter().for_each(|why| println!("- {why}"));
    }
}

fn ms(time: Duration) -> String {
    format!("{:.1}", time.as_secs_f64() * 1000.0)
}

//! What is printed.

use std::{collections::BTreeMap, io::IsTerminal as _, time::Duration};

use comfy_table::{CellAlignment, Table, presets};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};

use crate::{calls::Kind, faults::Log, ledger::Ledger, vitals::Vitals};

/// Rows of the table of vitals at the most; of a long run every nth is shown.
const ROWS: usize = 15;

/// A bar where somebody looks on; it is not there in a pipe.
pub(crate) fn bar(time: Duration) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let target = ProgressDrawTarget::stderr();
    let bar = ProgressBar::with_draw_target(Some(time.as_secs().max(1)), target);
    if let Ok(style) = ProgressStyle::with_template("[{bar:40}] {pos} of {len} s  {msg}") {
        bar.set_style(style.progress_chars("=> "));
    }
    bar
}

/// Everything in one line.
pub(crate) fn line(at: Duration, ledger: &Ledger, log: &Log, vitals: &Vitals) -> String {
    let tally = ledger.tally();
    let ok = tally.iter().filter(|((_, code), _)| code == "Ok");
    let ok: u64 = ok.map(|(_, count)| count).sum();
    format!(
        "{:5.0} s  {} calls ended, {} with OK, {} open, {} faults, {vitals}",
        at.as_secs_f64(),
        ledger.ended(),
        ok,
        ledger.open(),
        log.counts().values().sum::<u64>(),
    )
}

pub(crate) fn summary(ledger: &Ledger, log: &Log, vitals: &[(Duration, Vitals)]) {
    println!("\ncalls by how they ended");
    calls(ledger);
    println!(
        "{} executions by the servers, {} of them again, of calls that may be",
        ledger.executions(),
        ledger.repeated()
    );
    let (late, call) = ledger.latest();
    println!(
        "the latest end was {:.0} ms after its deadline: {call}",
        late.as_secs_f64() * 1000.0
    );
    println!("\nfaults");
    let mut table = table();
    table.set_header(["fault", "times"]);
    for (fault, count) in log.counts() {
        table.add_row([format!("{fault:?}"), count.to_string()]);
    }
    print(table);
    println!("\nover time");
    let mut table = self::table();
    table.set_header(["s", "memory, MiB", "files", "tasks"]);
    let every = vitals.len().div_ceil(ROWS).max(1);
    let shown = vitals.iter().rev().step_by(every).rev();
    for (at, vitals) in shown {
        table.add_row([
            format!("{:.0}", at.as_secs_f64()),
            format!("{:.1}", vitals.memory as f64 / f64::from(1 << 20)),
            vitals.files.to_string(),
            vitals.tasks.to_string(),
        ]);
    }
    print(table);
}

fn calls(ledger: &Ledger) {
    let tally = ledger.tally();
    let mut by_code = BTreeMap::<&str, BTreeMap<Kind, u64>>::new();
    for ((kind, code), count) in &tally {
        *by_code.entry(code).or_default().entry(*kind).or_default() += count;
    }
    let mut table = table();
    let kinds = Kind::ALL.map(|kind| format!("{kind:?}"));
    table.set_header(std::iter::once("code".to_owned()).chain(kinds));
    for (code, counts) in by_code {
        let counts = Kind::ALL.map(|kind| counts.get(&kind).copied().unwrap_or(0).to_string());
        table.add_row(std::iter::once(code.to_owned()).chain(counts));
    }
    print(table);
}

fn table() -> Table {
    let mut table = Table::new();
    table.load_style(presets::UTF8_FULL_CONDENSED);
    table
}

fn print(mut table: Table) {
    for column in table.column_iter_mut().skip(1) {
        column.set_cell_alignment(CellAlignment::Right);
    }
    println!("{table}");
}

//! The page `docs/network.md`, all of it written by the run.

use std::fmt::{Error, Write};

use super::table::header;
use crate::{
    record::{Record, Section, Table},
    targets::Verdict,
};

const HOW: &str = "\
Two hosts are two network namespaces of Linux with a tokio runtime of two workers each, server and client in one process. Between them is a link \
that this process emulates between two TUN devices (`tests/lab`): TCP and UDP of the real kernel, and delay, loss, rate and queue for each direction \
by itself. Before a link is used its round trip and its rate are measured and compared with what they should be; a link that fails twice ends its \
scenario with an error. 

- **TCP** is tonic's `Channel` and `Server` over TLS 1.3 without Nagle's delay, with the kernel's congestion control set, and read back, on the sockets of \
both ends: BBR or Cubic. One channel is what people have; with two, the small calls have one of them for themselves, which is what a careful user does.
- **iroh** is our `Channel` with its default stack and tonic's `Server` behind our `Acceptor`. *auto* is the default, `Tuning::auto()`; *Cubic* is `Tuning::lan()` and *BBR3* \
`Tuning::wan()` on both ends. Lanes are the standard ones where nothing else is said.
- All have the same generated clients, the same services, the same payloads and the same number of callers.
- **Small calls** begin at a steady pace, whatever becomes of those before them, and each counts from when it should have begun: a stall is not \
hidden. One without an answer 10 s after the last had begun counts with the time it has waited, and is named in the table.
- **Bulk** is so many callers, each with one message in flight; its rate is the payload that arrived at the other side, counted in its HTTP bodies, after a \
warm-up.
- **Lost** is what the link threw away by its conditions, **queue full** what it threw away because too much waited, as shares of the packets sent in that direction while the figures \
were taken. Forth is from the client to the server.
- Arms that leave the processor idle run at the same time, each on a link and hosts of its own; bulk on fast links runs one arm after the other. Each \
scenario says how busy the machine was.
- A missed target is a result; the program fails only when a call fails on a link that loses nothing, something is delivered twice, or a link is not what it should be for half a minute (the quick form skips the scenario then).
";

pub fn page(record: &Record, verdicts: &[Verdict]) -> Result<String, Error> {
    let mut text = String::new();
    writeln!(text, "# The network, measured\n")?;
    writeln!(
        text,
        "Written by `cargo bench --bench network -- --write-docs`; don't edit it. `--quick` takes less than three minutes, `--only NAME` runs one \
         scenario, `--list` names them.\n"
    )?;
    for line in header(record) {
        writeln!(text, "- {line}")?;
    }
    let built = record.machine.versions.iter();
    let built: Vec<_> = built
        .map(|(name, version)| format!("{name} {version}"))
        .collect();
    writeln!(text, "- built with {}", built.join(", "))?;
    writeln!(text, "\n## How\n\n{HOW}")?;
    writeln!(
        text,
        "## Targets\n\n| | target of issue 4 | measured |\n|---|---|---|"
    )?;
    for verdict in verdicts {
        writeln!(
            text,
            "| {} | {} | {} |",
            verdict.word(),
            verdict.wish,
            verdict.measured
        )?;
    }
    for section in &record.sections {
        self::section(&mut text, section)?;
    }
    Ok(text)
}

fn section(text: &mut String, section: &Section) -> Result<(), Error> {
    writeln!(text, "\n## {}\n", section.title)?;
    for line in &section.text {
        writeln!(text, "{line}\n")?;
    }
    writeln!(
        text,
        "`--only {}`; {:.0} s, {:.0} % of the processors busy in the mean.\n",
        section.name,
        section.seconds,
        section.busy * 100.0
    )?;
    for of in &section.tables {
        table(text, of)?;
    }
    for cell in &section.cells {
        for error in &cell.errors {
            writeln!(text, "- {}, {}: {error}", cell.case, cell.arm)?;
        }
    }
    for chart in section.charts.iter().filter(|chart| !chart.rows.is_empty()) {
        writeln!(text, "\n![{}](network/{}.svg)", chart.title, chart.file)?;
    }
    Ok(())
}

fn table(text: &mut String, table: &Table) -> Result<(), Error> {
    writeln!(text, "\n{}\n", table.caption)?;
    writeln!(text, "| {} |", table.header.join(" | "))?;
    let figures = table.header.len().saturating_sub(2);
    writeln!(text, "|---|---|{}", "---:|".repeat(figures))?;
    for row in &table.rows {
        writeln!(text, "| {} |", row.join(" | "))?;
    }
    writeln!(text)
}

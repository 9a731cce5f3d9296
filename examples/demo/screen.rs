//! What is printed: with colours and a progress bar in a terminal, as plain lines in a pipe.

use std::{
    env,
    fmt::{self, Display},
    io::{self, IsTerminal},
    time::Duration,
};

use comfy_table::{CellAlignment, Table, presets};
use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use tokio::time::{Instant, sleep};

use crate::{calls::Outcome, load::Measured};

/// How often the progress bar moves.
const FRAME: Duration = Duration::from_millis(100);
/// What lasts less shows no progress.
const LONG: Duration = Duration::from_secs(2);

pub(crate) struct Screen {
    /// Escape codes are for terminals, and not for those who do not want them: <https://no-color.org>.
    colours: bool,
}

impl Screen {
    pub(crate) fn new() -> Self {
        let wanted = env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self {
            colours: wanted && io::stdout().is_terminal(),
        }
    }

    fn paint(&self, code: u8, text: impl Display) -> String {
        if self.colours {
            format!("\x1b[{code}m{text}\x1b[0m")
        } else {
            text.to_string()
        }
    }

    pub(crate) fn heading(&self, text: &str) {
        println!("\n{}", self.paint(1, text));
    }

    pub(crate) fn fact(&self, name: &str, value: impl Display) {
        // Padded before it is painted: the width of an escape code is not the width of what is seen.
        println!("  {} {value}", self.paint(2, format_args!("{name:<34}")));
    }

    pub(crate) fn outcome(&self, name: &str, outcome: &Outcome) {
        let Outcome { what, took } = outcome;
        let took = shown(*took);
        self.fact(name, format_args!("{what:<38}{took:>12}"));
    }

    pub(crate) fn good(&self, text: &str) {
        println!("\n{}", self.paint(32, text));
    }

    pub(crate) fn failed(&self, error: &(dyn std::error::Error + 'static)) {
        eprintln!("\nThe demo failed: {}", Chain(error));
    }

    /// Waits, and shows what is being waited for and how many calls have been answered meanwhile.
    pub(crate) async fn wait(&self, what: &str, time: Duration, answered: impl Fn() -> u64) {
        let began = Instant::now();
        let before = answered();
        let bar = self.bar(what, time);
        while began.elapsed() < time {
            sleep(FRAME.min(time.saturating_sub(began.elapsed()))).await;
            bar.set_position(began.elapsed().as_millis() as u64);
            bar.set_message(format!("{} answered", answered() - before));
        }
        bar.finish_and_clear();
        let answered = answered() - before;
        self.fact(
            what,
            format_args!("{answered} calls answered in {}", shown(began.elapsed())),
        );
    }

    fn bar(&self, what: &str, time: Duration) -> ProgressBar {
        if !io::stdout().is_terminal() || time < LONG {
            return ProgressBar::hidden();
        }
        let target = ProgressDrawTarget::stdout();
        let bar = ProgressBar::with_draw_target(Some(time.as_millis() as u64), target);
        if let Ok(style) = ProgressStyle::with_template("  {prefix:<34} [{bar:30}] {msg}") {
            bar.set_style(style.progress_chars("=> "));
        }
        bar.set_prefix(what.to_owned());
        bar
    }

    pub(crate) fn latencies(&self, rows: &[(String, &Measured)]) {
        let mut table = Table::new();
        table.load_style(presets::UTF8_FULL_CONDENSED);
        table.set_header(["", "calls", "calls/s", "p50", "p95", "p99", "max"]);
        for (name, measured) in rows {
            let quantile = |q| as_millis(measured.latencies.value_at_quantile(q));
            let rate = measured.calls() as f64 / measured.lasted.as_secs_f64();
            table.add_row([
                name.clone(),
                measured.calls().to_string(),
                format!("{rate:.0}"),
                quantile(0.50),
                quantile(0.95),
                quantile(0.99),
                as_millis(measured.latencies.max()),
            ]);
        }
        for column in table.column_iter_mut().skip(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        println!("{table}");
    }
}

/// `1.24 ms`, and `1.24 s` from a second on.
pub(crate) fn shown(time: Duration) -> String {
    let seconds = time.as_secs_f64();
    if seconds < 1.0 {
        format!("{:.2} ms", seconds * 1000.0)
    } else {
        format!("{seconds:.2} s")
    }
}

fn as_millis(micros: u64) -> String {
    format!("{:.3}", micros as f64 / 1000.0)
}

/// An error with everything that caused it.
struct Chain<'a>(&'a (dyn std::error::Error + 'static));

impl Display for Chain<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)?;
        let mut source = self.0.source();
        while let Some(error) = source {
            write!(f, "\n  because: {error}")?;
            source = error.source();
        }
        Ok(())
    }
}

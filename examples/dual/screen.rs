//! What is printed: with colours in a terminal, as plain lines in a pipe.

use std::{
    convert::Infallible,
    env,
    error::Error as StdError,
    fmt::Display,
    io::{self, IsTerminal},
    iter::successors,
    time::Duration,
};

use tokio::time::{Instant, sleep};
use tower_iroh::{
    TransportKind,
    layers::select::{ArmState, SelectHandle},
};

use crate::traffic::{Tally, Traffic};

/// How often there is a line.
const LINE: Duration = Duration::from_millis(500);
const WIDTH: usize = 24;

pub(crate) struct Screen {
    /// Escape codes are for terminals, and not for those who do not want them: <https://no-color.org>.
    colours: bool,
    began: Instant,
}

impl Screen {
    pub(crate) fn new() -> Self {
        let wanted = env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        Self {
            colours: wanted && io::stdout().is_terminal(),
            began: Instant::now(),
        }
    }

    fn paint(&self, code: u8, text: impl Display) -> String {
        match self.colours {
            true => format!("\x1b[{code}m{text}\x1b[0m"),
            false => text.to_string(),
        }
    }

    pub(crate) fn head(&self, rate: u32, streams: usize) {
        println!(
            "{rate} calls a second and {streams} streams to one peer; iroh is preferred, TCP with the same identity is the other way.\n"
        );
        println!(
            "{:>6}  {:<WIDTH$}  {:>5} {:>5} {:>6} {:>9}  {:>9}  standing",
            "time", "iroh # tcp =", "iroh", "tcp", "failed", "p50", "messages"
        );
    }

    pub(crate) fn event(&self, what: &str) {
        println!(
            "{:>5.1}s  {}",
            self.began.elapsed().as_secs_f64(),
            self.paint(33, what)
        );
    }

    pub(crate) fn good(&self, text: &str) {
        println!("\n{}", self.paint(32, text));
    }

    pub(crate) fn failed(&self, error: &(dyn StdError + 'static)) {
        eprintln!("\nIt failed: {error}");
        for cause in successors(error.source(), |error| (*error).source()) {
            eprintln!("  because: {cause}");
        }
    }

    /// A line every half second, for ever.
    pub(crate) async fn show(&self, traffic: &Traffic, select: &SelectHandle) -> Infallible {
        let mut before = traffic.take();
        loop {
            sleep(LINE).await;
            let now = traffic.take();
            self.line(&before, &now, select);
            before = now;
        }
    }

    fn line(&self, before: &Tally, now: &Tally, select: &SelectHandle) {
        let [iroh, tcp] = TransportKind::ALL.map(|arm| now.over(arm) - before.over(arm));
        let most = (iroh + tcp).max(1);
        let hashes = (iroh as usize * WIDTH).div_ceil(most as usize).min(WIDTH);
        let equals = match tcp {
            0 => 0,
            _ => WIDTH - hashes,
        };
        let bar = format!("{:<WIDTH$}", "#".repeat(hashes) + &"=".repeat(equals));
        let failed = now.failed - before.failed;
        let failed = match failed {
            0 => format!("{failed:>6}"),
            _ => self.paint(31, format_args!("{failed:>6}")),
        };
        let state = select.state();
        let standing = TransportKind::ALL.map(|arm| match state.arm(arm.into()) {
            ArmState::Ready => format!("{arm} ready"),
            ArmState::Away { .. } => format!("{arm} away"),
            ArmState::Returning { .. } => format!("{arm} returning"),
        });
        println!(
            "{:>5.1}s  {}  {iroh:>5} {tcp:>5} {failed} {:>9}  {:>9}  {}",
            self.began.elapsed().as_secs_f64(),
            self.paint(36, bar),
            median(&now.took),
            now.messages - before.messages,
            standing.join(", "),
        );
    }

    pub(crate) fn summary(
        &self,
        tally: &Tally,
        select: &SelectHandle,
        fell_back: Duration,
        returned: Duration,
    ) {
        let fact = |name: &str, value: String| {
            println!("  {} {value}", self.paint(2, format_args!("{name:<36}")))
        };
        println!();
        fact(
            "answered",
            format!(
                "{} over iroh, {} over TCP",
                tally.over(TransportKind::Iroh),
                tally.over(TransportKind::Tcp)
            ),
        );
        let codes = tally
            .codes
            .iter()
            .map(|(code, count)| format!("{count} {code:?}"));
        let codes: Vec<_> = codes.collect();
        fact(
            "failed: on their way when iroh stopped",
            match codes.is_empty() {
                true => "none".into(),
                false => codes.join(", "),
            },
        );
        fact("streams that were opened again", tally.reopened.to_string());
        fact(
            "from the block to TCP alone",
            format!("{:.1} s", fell_back.as_secs_f64()),
        );
        fact(
            "from its end to iroh alone",
            format!("{:.1} s", returned.as_secs_f64()),
        );
        fact(
            "decisions that were fallbacks",
            select.decisions().fallbacks().to_string(),
        );
    }
}

fn median(took: &[u64]) -> String {
    let mut took = took.to_vec();
    took.sort_unstable();
    match took.get(took.len() / 2) {
        Some(micros) => format!("{:.2} ms", *micros as f64 / 1000.0),
        None => "-".into(),
    }
}

//! One line on a terminal that says what is going on. Files and pipes get nothing of it.

use std::{
    fmt,
    io::{self, IsTerminal as _, Stderr, Write},
    pin::pin,
    time::Duration,
};

use tokio::time::{Instant, interval_at};

use crate::failure::printable;

/// A line on standard error that each new text replaces. Dropping it clears it.
#[derive(Debug)]
pub(crate) struct Line<W: Write = Stderr> {
    out: W,
    is_shown: bool,
}

impl Line {
    /// `None` without a terminal.
    pub(crate) fn new() -> Option<Self> {
        let out = io::stderr();
        out.is_terminal().then(|| Self::to(out))
    }
}

impl<W: Write> Line<W> {
    fn to(out: W) -> Self {
        let is_shown = false;
        Self { out, is_shown }
    }

    pub(crate) fn show(&mut self, text: impl fmt::Display) {
        let text = printable(&text.to_string()).into_owned();
        // Without wrapping, because only the last line of a wrapped text would be cleared.
        let line = format!("\r\x1b[K\x1b[?7l{text}\x1b[?7h");
        // A terminal that is gone is told nothing.
        let out = &mut self.out;
        let _ = out.write_all(line.as_bytes()).and_then(|()| out.flush());
        self.is_shown = true;
    }
}

impl<W: Write> Drop for Line<W> {
    fn drop(&mut self) {
        if self.is_shown {
            let out = &mut self.out;
            let _ = out.write_all(b"\r\x1b[K").and_then(|()| out.flush());
        }
    }
}

/// Waits for the work. From the third second on a person at a terminal is told what is waited for.
pub(crate) async fn over_two_seconds<T>(
    what: impl fmt::Display,
    work: impl Future<Output = T>,
) -> T {
    match Line::new() {
        Some(line) => told(line, what, work).await,
        None => work.await,
    }
}

async fn told<T, W: Write>(
    mut line: Line<W>,
    what: impl fmt::Display,
    work: impl Future<Output = T>,
) -> T {
    const SECOND: Duration = Duration::from_secs(1);
    let mut work = pin!(work);
    let began = Instant::now();
    let mut seconds = interval_at(began + 2 * SECOND, SECOND);
    loop {
        tokio::select! {
            biased;
            done = &mut work => return done,
            _ = seconds.tick() => line.show(format_args!("{what} ... {} s", began.elapsed().as_secs())),
        }
    }
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    async fn shown(takes: f64) -> String {
        let mut out = Vec::new();
        let work = sleep(Duration::from_secs_f64(takes));
        told(Line::to(&mut out), "connecting", work).await;
        String::from_utf8(out).expect("text")
    }

    #[tokio::test(start_paused = true)]
    async fn a_short_wait_is_silent_and_a_long_one_is_told_and_cleared() {
        assert_eq!(shown(1.9).await, "");
        let line = |seconds| format!("\r\x1b[K\x1b[?7lconnecting ... {seconds} s\x1b[?7h");
        let expected = line(2) + &line(3) + "\r\x1b[K";
        assert_eq!(shown(3.5).await, expected);
    }

    #[tokio::test(start_paused = true)]
    async fn a_wait_that_is_given_up_clears_its_line() {
        let mut out = Vec::new();
        let wait = told(Line::to(&mut out), "x", std::future::pending::<()>());
        let _ = tokio::time::timeout(Duration::from_millis(2500), wait).await;
        assert!(out.ends_with(b"\r\x1b[K"), "{out:?}");
    }
}

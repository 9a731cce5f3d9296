//! The live table on a terminal.

use std::pin::pin;

use ratatui::{
    Frame, Terminal,
    backend::Backend,
    layout::{Constraint, Layout, Rect},
    style::{Style, Stylize},
    text::{Line, Span},
    widgets::{Cell, Paragraph, Row, Table},
};
use tokio::{
    sync::mpsc,
    time::{Duration, Instant, interval},
};

use super::{
    Source,
    address::Address,
    keys::{self, Key},
    rates::View,
    table::{COLUMNS, NO_CALLS, Sort, WIDTHS, meters, rows},
};
use crate::{
    failure::Failure,
    signal::{INTERRUPTED, listen},
};

/// Puts the terminal back on every way out; a panic does that in ratatui's hook.
struct Restored;

impl Drop for Restored {
    fn drop(&mut self) {
        // Where the terminal is gone there is nothing to put back.
        let _ = ratatui::try_restore();
    }
}

/// Shows what the source says until somebody ends it.
pub(super) async fn run(source: Source, address: &Address) -> Result<(), Failure> {
    let interrupted = listen();
    let unusable = |error| {
        Failure::failed(format!(
            "the terminal cannot be used: {error}; `--once` prints the table without it"
        ))
    };
    let restored = Restored;
    let mut terminal = ratatui::try_init().map_err(unusable)?;
    let mut screen = Screen::new(address.to_string(), source.answered);
    let ended = screen
        .follow(&mut terminal, source, keys::listen(), interrupted)
        .await;
    drop(restored);
    ended
}

/// What is on the screen.
struct Screen {
    address: String,
    view: Option<View>,
    /// When the last answer came.
    answered: Instant,
    /// Why there was none since.
    error: Option<String>,
    sort: Sort,
    is_paused: bool,
    /// How many rows are above the first that is shown.
    skipped: usize,
}

impl Screen {
    fn new(address: String, answered: Instant) -> Self {
        Self {
            address,
            view: None,
            answered,
            error: None,
            sort: Sort::default(),
            is_paused: false,
            skipped: 0,
        }
    }

    async fn follow<B: Backend>(
        &mut self,
        terminal: &mut Terminal<B>,
        source: Source,
        mut keys: mpsc::Receiver<std::io::Result<Key>>,
        interrupted: impl Future<Output = ()>,
    ) -> Result<(), Failure> {
        let gone = |error: &dyn std::fmt::Display| {
            Failure::failed(format!("the terminal is gone: {error}"))
        };
        let (views, mut viewed) = mpsc::channel(1);
        let mut following = pin!(source.follow(views));
        let mut interrupted = pin!(interrupted);
        // The header counts the seconds without an answer.
        let mut second = interval(Duration::from_secs(1));
        loop {
            terminal
                .draw(|frame| self.draw(frame))
                .map_err(|error| gone(&error))?;
            tokio::select! {
                () = &mut following => return Ok(()),
                Some(view) = viewed.recv() => self.take(view),
                key = keys.recv() => match key {
                    Some(Ok(Key::Quit)) => return Ok(()),
                    Some(Ok(Key::Interrupt)) => return Err(Failure::Exit(INTERRUPTED)),
                    Some(Ok(key)) => self.obey(key),
                    Some(Err(error)) => return Err(gone(&error)),
                    None => return Err(gone(&"its keys cannot be read")),
                },
                _ = second.tick() => {}
                () = &mut interrupted => return Err(Failure::Exit(INTERRUPTED)),
            }
        }
    }

    /// Views that come while the screen is paused are not shown. Each is of its own interval, so the first one after the pause is right.
    fn take(&mut self, view: Result<View, Failure>) {
        match view {
            Ok(view) => {
                self.answered = Instant::now();
                self.error = None;
                if !self.is_paused {
                    self.view = Some(view);
                }
            }
            Err(failure) => {
                let text = failure.to_string();
                // The header begins with the address.
                let text = text.trim_start_matches("error: ");
                let text = text.strip_prefix(&self.address).unwrap_or(text);
                self.error = Some(text.trim_start().to_owned());
            }
        }
    }

    fn obey(&mut self, key: Key) {
        match key {
            Key::Sort => self.sort = self.sort.next(),
            Key::Pause => self.is_paused = !self.is_paused,
            Key::Scroll(by) => self.skipped = self.skipped.saturating_add_signed(by.into()),
            Key::Quit | Key::Interrupt | Key::Redraw => {}
        }
    }

    fn draw(&mut self, frame: &mut Frame<'_>) {
        let area = frame.area();
        // A low terminal keeps its lines for the calls.
        let meters = match &self.view {
            Some(view) if area.height >= 12 => packed(meters(view), area.width, 4),
            _ => Vec::new(),
        };
        let lines = u16::try_from(meters.len()).unwrap_or_default();
        let [header, middle, table, footer] = Layout::vertical([
            Constraint::Length(1),
            Constraint::Length(lines),
            Constraint::Min(0),
            Constraint::Length(1),
        ])
        .areas(area);
        frame.render_widget(self.header(), header);
        frame.render_widget(Paragraph::new(meters), middle);
        let below = self.table(frame, table);
        frame.render_widget(self.footer(below), footer);
    }

    fn header(&self) -> Line<'_> {
        let address = Span::raw(&self.address).bold();
        match (&self.error, &self.view) {
            (Some(error), _) => {
                let silence = self.answered.elapsed().as_secs();
                let text = format!("  no answer for {silence} s: {error}");
                Line::from(vec![address, Span::raw(text).red()])
            }
            (None, Some(view)) => {
                let paused = if self.is_paused { ", paused" } else { "" };
                Line::from(vec![
                    address,
                    format!("  {:.1} s{paused}", view.seconds).into(),
                ])
            }
            (None, None) => Line::from(vec![address, "  counting".into()]),
        }
    }

    fn footer(&self, below: usize) -> Line<'static> {
        let more = match below {
            0 => String::new(),
            rows => format!("  {rows} more below"),
        };
        let text = format!("q quit  s sort: {}  p pause{more}", self.sort.name());
        Line::from(text).dim()
    }

    /// Returns how many rows are below the last one that fits.
    fn table(&mut self, frame: &mut Frame<'_>, area: Rect) -> usize {
        let Some(view) = &self.view else { return 0 };
        let rows = rows(view, self.sort);
        if rows.is_empty() {
            frame.render_widget(NO_CALLS, area);
            return 0;
        }
        let fit = usize::from(area.height.saturating_sub(1));
        self.skipped = self.skipped.min(rows.len().saturating_sub(fit));
        let shown = columns(usize::from(area.width));
        let numbers = WIDTHS
            .iter()
            .take(shown)
            .map(|width| width + 1)
            .sum::<usize>();
        let free = usize::from(area.width).saturating_sub(numbers);
        // A narrow terminal has no space for codes; any other shares what is left.
        let has_codes = shown == WIDTHS.len();
        let codes = rows.iter().map(|row| row.cells[5].len()).max();
        let codes = codes.unwrap_or_default().max(COLUMNS[5].len()) + 1;
        let codes = if has_codes { codes } else { 0 };
        let longest = rows.iter().map(|row| row.name.chars().count()).max();
        let names = free.saturating_sub(codes).max(free / 2);
        let names = longest.unwrap_or_default().max(10).min(names);
        let right = |text: &str, width: usize| format!("{text:>width$}");
        let titles = COLUMNS
            .iter()
            .zip(WIDTHS)
            .take(shown)
            .map(|(title, width)| {
                let style = match *title == self.sort.name() {
                    true => Style::new().reversed(),
                    false => Style::new(),
                };
                Cell::from(Span::styled(right(title, width), style))
            });
        let titles = std::iter::once(Cell::from("")).chain(titles);
        let last = |text| has_codes.then(|| Cell::from(text));
        let titles = Row::new(titles.chain(last(COLUMNS[5]))).bold();
        let lines = rows.iter().skip(self.skipped).take(fit).map(|row| {
            let cells = row.cells.iter().zip(WIDTHS).take(shown).enumerate();
            let cells = cells.map(|(column, (text, width))| {
                let text = Span::raw(right(text, width));
                let is_errors = COLUMNS[column] == Sort::Errors.name();
                Cell::from(if is_errors && row.has_errors {
                    text.red()
                } else {
                    text
                })
            });
            let cells = std::iter::once(Cell::from(ending(&row.name, names))).chain(cells);
            let line = Row::new(cells.chain(last(&row.cells[5])));
            if row.is_peer { line.bold() } else { line }
        });
        let length = |width: usize| Constraint::Length(u16::try_from(width).unwrap_or(u16::MAX));
        let widths =
            std::iter::once(length(names)).chain(WIDTHS.into_iter().take(shown).map(length));
        let table = Table::new(
            lines,
            widths.chain(has_codes.then_some(Constraint::Fill(1))),
        )
        .header(titles);
        frame.render_widget(table, area);
        rows.len().saturating_sub(self.skipped + fit)
    }
}

/// How many columns with numbers leave half of the terminal's width for names, and at least one of them.
fn columns(width: usize) -> usize {
    let fits = |count: &usize| {
        WIDTHS
            .iter()
            .take(*count)
            .map(|width| width + 1)
            .sum::<usize>()
            <= width * 2 / 3
    };
    (1..=WIDTHS.len()).rev().find(fits).unwrap_or(1)
}

/// A name whose beginning is cut off where it is too long: the method's name is at its end.
fn ending(name: &str, width: usize) -> String {
    let length = name.chars().count();
    if length <= width {
        return name.to_owned();
    }
    let kept = width.saturating_sub(1);
    std::iter::once('…')
        .chain(name.chars().skip(length - kept))
        .collect()
}

/// Puts as many texts into each line as it holds, and no more lines than `most`.
fn packed(texts: Vec<(String, bool)>, width: u16, most: usize) -> Vec<Line<'static>> {
    let mut lines: Vec<Line<'static>> = Vec::new();
    for (text, is_alarm) in texts {
        let text = if is_alarm { text.red() } else { text.into() };
        match lines.last_mut() {
            Some(line) if line.width() + 2 + text.width() <= usize::from(width) => {
                line.push_span("  ");
                line.push_span(text);
            }
            _ => lines.push(Line::from(text)),
        }
    }
    lines.truncate(most);
    lines
}

#[cfg(test)]
mod tests;

//! The keys and the size of the terminal.

use std::{io, time::Duration};

use ratatui::crossterm::event::{Event, KeyCode, KeyEventKind, KeyModifiers, poll, read};
use tokio::sync::mpsc;

/// What the person at the terminal wants.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Key {
    Quit,
    Interrupt,
    Sort,
    Pause,
    /// By so many rows.
    Scroll(i16),
    /// The terminal has another size.
    Redraw,
}

/// Reads keys until nobody receives them, or the terminal is gone. Reading blocks a thread, which looks each tenth of a second whether it is still wanted.
pub(super) fn listen() -> mpsc::Receiver<io::Result<Key>> {
    let (keys, received) = mpsc::channel(16);
    tokio::task::spawn_blocking(move || {
        while !keys.is_closed() {
            let key = match poll(Duration::from_millis(100)) {
                Ok(true) => read().map(key).transpose(),
                Ok(false) => None,
                Err(error) => Some(Err(error)),
            };
            let Some(key) = key else { continue };
            let is_last = key.is_err();
            if keys.blocking_send(key).is_err() || is_last {
                return;
            }
        }
    });
    received
}

fn key(event: Event) -> Option<Key> {
    let key = match event {
        Event::Resize(..) => return Some(Key::Redraw),
        Event::Key(key) if key.kind != KeyEventKind::Release => key,
        _ => return None,
    };
    let has_control = key.modifiers.contains(KeyModifiers::CONTROL);
    match key.code {
        KeyCode::Char('c') if has_control => Some(Key::Interrupt),
        KeyCode::Char('q') | KeyCode::Esc => Some(Key::Quit),
        KeyCode::Char('s') => Some(Key::Sort),
        KeyCode::Char('p') | KeyCode::Char(' ') => Some(Key::Pause),
        KeyCode::Up | KeyCode::Char('k') => Some(Key::Scroll(-1)),
        KeyCode::Down | KeyCode::Char('j') => Some(Key::Scroll(1)),
        KeyCode::PageUp => Some(Key::Scroll(-10)),
        KeyCode::PageDown => Some(Key::Scroll(10)),
        _ => None,
    }
}

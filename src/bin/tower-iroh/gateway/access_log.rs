//! One line of JSON for each call.

use std::{
    fs::OpenOptions,
    io::{self, Write},
    path::Path,
    sync::{
        atomic::{AtomicU64, Ordering},
        mpsc::{SyncSender, TrySendError, sync_channel},
    },
    thread,
};

use serde_json::{Value, json};

use crate::failure::Failure;

/// How many lines may wait for a slow disk or reader.
const WAITING: usize = 4096;

/// Writes lines on a thread of its own, because a file may block. What is too much is counted and left out.
pub(super) struct AccessLog {
    lines: SyncSender<Value>,
    left_out: AtomicU64,
}

impl AccessLog {
    pub(super) fn open(path: &Path) -> Result<Self, Failure> {
        let mut out: Box<dyn Write + Send> = match path.to_str() {
            Some("-") => Box::new(io::stderr()),
            _ => {
                let opened = OpenOptions::new().create(true).append(true).open(path);
                Box::new(
                    opened
                        .map_err(|error| Failure::failed(format!("{}: {error}", path.display())))?,
                )
            }
        };
        let (lines, waiting) = sync_channel::<Value>(WAITING);
        thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(move || {
                // Ends with the log.
                for line in waiting {
                    let _ = writeln!(out, "{line}");
                }
            })
            .map_err(Failure::failed)?;
        Ok(Self {
            lines,
            left_out: AtomicU64::new(0),
        })
    }

    /// Writes a line, or leaves it out where too many wait.
    pub(super) fn write(&self, mut line: Value) {
        let left_out = self.left_out.swap(0, Ordering::Relaxed);
        if left_out > 0 {
            line["left_out_before"] = json!(left_out);
        }
        if let Err(TrySendError::Full(_)) = self.lines.try_send(line) {
            self.left_out.fetch_add(left_out + 1, Ordering::Relaxed);
        }
    }
}

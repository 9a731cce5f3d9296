//! One line of JSON for each call.

use std::{
    fs::OpenOptions,
    io::{self, Write},
    path::Path,
    sync::{
        atomic::{AtomicU64, Ordering},
        mpsc::{SyncSender, TrySendError, sync_channel},
    },
    thread::{self, JoinHandle},
};

use serde_json::{Value, json};

use crate::failure::Failure;

/// How many lines may wait for a slow disk or reader.
const WAITING: usize = 4096;

/// Writes lines on a thread of its own, because a file may block. When too many wait, lines are dropped and counted. Dropping the log writes what waits.
pub(super) struct AccessLog {
    lines: Option<SyncSender<Value>>,
    writer: Option<JoinHandle<()>>,
    left_out: AtomicU64,
}

impl AccessLog {
    pub(super) fn open(path: &Path) -> Result<Self, Failure> {
        let failed = |error| Failure::file(path, error);
        let mut out: Box<dyn Write + Send> = match path.to_str() {
            Some("-") => Box::new(io::stderr()),
            _ => {
                let opened = OpenOptions::new().create(true).append(true).open(path);
                Box::new(opened.map_err(failed)?)
            }
        };
        let name = path.display().to_string();
        let (lines, waiting) = sync_channel::<Value>(WAITING);
        let write = move || {
            let mut is_told = false;
            for line in waiting {
                // One write for each line, so that two programs can share a file.
                let written = out.write_all(format!("{line}\n").as_bytes());
                if let Err(error) = written
                    && !std::mem::replace(&mut is_told, true)
                {
                    eprintln!("the access log {name} cannot be written: {error}");
                }
            }
        };
        let writer = thread::Builder::new()
            .name("access-log".to_owned())
            .spawn(write);
        Ok(Self {
            lines: Some(lines),
            writer: Some(writer.map_err(failed)?),
            left_out: AtomicU64::new(0),
        })
    }

    /// Writes a line, or drops it where too many wait.
    pub(super) fn write(&self, mut line: Value) {
        let Some(lines) = &self.lines else { return };
        let left_out = self.left_out.swap(0, Ordering::Relaxed);
        if left_out > 0 {
            line["left_out_before"] = json!(left_out);
        }
        if let Err(TrySendError::Full(_)) = lines.try_send(line) {
            self.left_out.fetch_add(left_out + 1, Ordering::Relaxed);
        }
    }
}

impl Drop for AccessLog {
    fn drop(&mut self) {
        // Ends the writer after the lines that wait.
        self.lines = None;
        if let Some(writer) = self.writer.take() {
            let _ = writer.join();
        }
    }
}

//! What the process holds: memory, file descriptors, tasks.

use std::{fmt, fs, io, time::Duration};

/// What the process holds at one moment.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Vitals {
    /// Resident memory in bytes, as the kernel counts it; 0 where there is no /proc.
    pub(crate) memory: u64,
    /// Open file descriptors; 0 where there is no /proc.
    pub(crate) files: usize,
    /// tokio's tasks that are alive, in all runtimes.
    pub(crate) tasks: usize,
}

/// How much more of anything there may be at the end than after the warm-up: a share, and something for what comes and goes.
const MEMORY: (f64, u64) = (0.10, 8 << 20);
const FILES: usize = 4;
const TASKS: usize = 10;

impl Vitals {
    pub(crate) fn take(tasks: usize) -> io::Result<Self> {
        if !cfg!(target_os = "linux") {
            return Ok(Self {
                tasks,
                ..Self::default()
            });
        }
        let status = fs::read_to_string("/proc/self/status")?;
        let resident = status.lines().find_map(|line| {
            let kibibytes = line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?;
            kibibytes.trim().parse::<u64>().ok()
        });
        Ok(Self {
            memory: resident.unwrap_or_default() << 10,
            // One of them is the folder itself, while it is read.
            files: fs::read_dir("/proc/self/fd")?.count().saturating_sub(1),
            tasks,
        })
    }

    /// What there is too much of, compared with `before`. Memory is judged only if asked for: a short run says nothing about it.
    pub(crate) fn grown(&self, before: &Self, memory: bool) -> Vec<String> {
        let mut grown = Vec::new();
        let (share, more) = MEMORY;
        let most = before.memory + (before.memory as f64 * share) as u64 + more;
        if memory && self.memory > most {
            grown.push(format!(
                "resident memory went from {} to {} MiB, and {} are accepted",
                before.memory >> 20,
                self.memory >> 20,
                most >> 20
            ));
        }
        if self.files > before.files + FILES {
            grown.push(format!(
                "open file descriptors went from {} to {}, and {} are accepted",
                before.files,
                self.files,
                before.files + FILES
            ));
        }
        if self.tasks > before.tasks + TASKS {
            grown.push(format!(
                "tasks went from {} to {}, and {} are accepted",
                before.tasks,
                self.tasks,
                before.tasks + TASKS
            ));
        }
        grown
    }
}

impl fmt::Display for Vitals {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mebibytes = self.memory as f64 / f64::from(1 << 20);
        write!(
            f,
            "{mebibytes:.1} MiB, {} files, {} tasks",
            self.files, self.tasks
        )
    }
}

/// A run that is shorter says nothing about memory: allocators take a while to have what they need.
pub(crate) const LONG: Duration = Duration::from_secs(120);

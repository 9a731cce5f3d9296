//! What the process holds: memory, file descriptors, tasks.

use std::{fmt, fs, io, time::Duration};

use tokio::time::Instant;

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

/// How much more there may be at the end, at rest, than after the warm-up: something for what comes and goes.
const FILES: usize = 4;
const TASKS: usize = 10;

impl Vitals {
    pub(crate) fn take(tasks: usize) -> io::Result<Self> {
        // One of the files is the folder itself, while it is read.
        let Self { memory, files, .. } = Self::of("self")?;
        Ok(Self {
            memory,
            files: files.saturating_sub(1),
            tasks,
        })
    }

    /// What another process holds, by its id. Its tasks cannot be seen from outside.
    pub(crate) fn of(process: &str) -> io::Result<Self> {
        if !cfg!(target_os = "linux") {
            return Ok(Self::default());
        }
        let status = fs::read_to_string(format!("/proc/{process}/status"))?;
        let resident = status.lines().find_map(|line| {
            let kibibytes = line.strip_prefix("VmRSS:")?.trim().strip_suffix(" kB")?;
            kibibytes.trim().parse::<u64>().ok()
        });
        Ok(Self {
            memory: resident.unwrap_or_default() << 10,
            files: fs::read_dir(format!("/proc/{process}/fd"))?.count(),
            tasks: 0,
        })
    }

    /// What there is too much of, compared with `before`, both of them at rest. Memory is judged by [`Memory`].
    pub(crate) fn grown(&self, before: &Self) -> Vec<String> {
        let mut grown = Vec::new();
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

/// Resident memory over time, under load.
///
/// A single look is worth little: what is in flight and what the allocator keeps make it go up and down by a tenth and more. So medians are
/// compared, of the first and of the last third.
#[derive(Debug)]
pub(crate) struct Memory {
    every: Duration,
    next: Instant,
    samples: Vec<u64>,
}

/// A run that is shorter says nothing about memory: it takes the allocators a minute or more to have what they need.
pub(crate) const LONG: Duration = Duration::from_secs(300);
/// By how much the later median may be above the earlier one. In five minutes a leak of a tenth per minute makes it more than a quarter; of the
/// clean runs so far the worst made it 14 %.
const MORE: f64 = 0.22;

impl Memory {
    /// For so long from now.
    pub(crate) fn over(time: Duration) -> Self {
        Self {
            // A thousand are enough, however long the run.
            every: (time / 1000).max(Duration::from_millis(500)),
            next: Instant::now(),
            samples: Vec::new(),
        }
    }

    pub(crate) fn look(&mut self) -> io::Result<()> {
        if Instant::now() >= self.next {
            self.next = Instant::now() + self.every;
            self.samples.push(Vitals::take(0)?.memory);
        }
        Ok(())
    }

    /// The medians of the first and the last third, in bytes.
    pub(crate) fn thirds(&self) -> (u64, u64) {
        let third = self.samples.len() / 3;
        let last = self.samples.len() - third;
        (
            median(&self.samples[..third]),
            median(&self.samples[last..]),
        )
    }

    pub(crate) fn has_grown(&self) -> bool {
        let (first, last) = self.thirds();
        last as f64 > first as f64 * (1.0 + MORE)
    }
}

fn median(samples: &[u64]) -> u64 {
    let mut sorted = samples.to_vec();
    sorted.sort_unstable();
    sorted.get(sorted.len() / 2).copied().unwrap_or_default()
}

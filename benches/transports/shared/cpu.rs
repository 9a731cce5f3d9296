//! Processor time of a process, to the nanosecond.

use std::fs;

/// Nanoseconds that the threads alive in process `pid` ("self" for one's own) have run; `None` where the system doesn't tell.
///
/// `/proc/<pid>/stat` counts in ticks of 10 ms, which is too coarse for a slice. A runtime's threads
/// live as long as the process, so the sum over the living is the whole.
pub fn nanoseconds(pid: &str) -> Option<u64> {
    let mut sum = 0;
    for task in fs::read_dir(format!("/proc/{pid}/task")).ok()? {
        let Ok(stat) = fs::read_to_string(task.ok()?.path().join("schedstat")) else {
            // A thread that ended meanwhile.
            continue;
        };
        sum += stat.split_whitespace().next()?.parse::<u64>().ok()?;
    }
    Some(sum)
}

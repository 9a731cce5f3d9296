//! How busy the machine is.

use std::fs;

/// The time since which is asked.
pub struct Busy(Option<(u64, u64)>);

impl Busy {
    pub fn begin() -> Self {
        Self(ticks())
    }

    /// The share of all processors' time, of any program, from 0 to 1; NaN where the system does not tell.
    pub fn share(&self) -> f64 {
        match (self.0, ticks()) {
            (Some((idle, all)), Some((idle_now, all_now))) if all_now > all => {
                1.0 - (idle_now - idle) as f64 / (all_now - all) as f64
            }
            _ => f64::NAN,
        }
    }
}

/// Idle ticks and all ticks.
fn ticks() -> Option<(u64, u64)> {
    let stat = fs::read_to_string("/proc/stat").ok()?;
    let line = stat.lines().next()?;
    let ticks: Vec<u64> = line
        .split_whitespace()
        .skip(1)
        // What guests used is counted in the others already.
        .take(8)
        .map_while(|word| word.parse().ok())
        .collect();
    // Idle, and waiting for a disk.
    Some((ticks.get(3)? + ticks.get(4)?, ticks.iter().sum()))
}

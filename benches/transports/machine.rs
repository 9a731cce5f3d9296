//! What the figures belong to.

use std::{fs, path::Path, process::Command, thread, time::SystemTime};

/// The machine, the day and what was built.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Machine {
    pub date: String,
    pub cpu: String,
    pub cores: usize,
    pub kernel: String,
    pub tcp_congestion_control: String,
    /// Over the minute before; a busy machine spreads the intervals.
    pub load_average: String,
    pub rustc: String,
    pub versions: Vec<(String, String)>,
    /// Empty where it does not take part.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tonic_iroh_transport_versions: Vec<(String, String)>,
}

/// What decides a speed.
const CRATES: [&str; 8] = [
    "iroh", "noq", "tonic", "hyper", "h2", "tokio", "rustls", "ring",
];

impl Machine {
    pub fn look() -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        Self {
            date: date(SystemTime::now()),
            cpu: cpu().unwrap_or_else(|| std::env::consts::ARCH.into()),
            cores: thread::available_parallelism().map_or(1, usize::from),
            kernel: read("/proc/sys/kernel/osrelease").map_or_else(
                || std::env::consts::OS.into(),
                |release| format!("Linux {release}"),
            ),
            tcp_congestion_control: read("/proc/sys/net/ipv4/tcp_congestion_control")
                .unwrap_or_else(|| "unknown".into()),
            load_average: read("/proc/loadavg")
                .and_then(|line| Some(line.split(' ').next()?.to_owned()))
                .unwrap_or_else(|| "unknown".into()),
            rustc: rustc().unwrap_or_else(|| "unknown".into()),
            versions: versions(&root.join("Cargo.lock")),
            tonic_iroh_transport_versions: versions(
                &root.join("benches/tonic-iroh-transport/Cargo.lock"),
            ),
        }
    }
}

fn read(path: &str) -> Option<String> {
    Some(fs::read_to_string(path).ok()?.trim().to_owned())
}

fn cpu() -> Option<String> {
    let info = fs::read_to_string("/proc/cpuinfo").ok()?;
    let line = info.lines().find(|line| line.starts_with("model name"))?;
    Some(line.split_once(':')?.1.trim().to_owned())
}

fn rustc() -> Option<String> {
    let out = Command::new("rustc").arg("--version").output().ok()?;
    Some(String::from_utf8(out.stdout).ok()?.trim().to_owned())
}

/// The versions of [`CRATES`] in a lock file.
fn versions(lock: &Path) -> Vec<(String, String)> {
    let lock = fs::read_to_string(lock).unwrap_or_default();
    let quoted = |line: Option<&str>, key: &str| {
        Some(
            line?
                .strip_prefix(key)?
                .trim_matches([' ', '=', '"'])
                .to_owned(),
        )
    };
    let mut found = Vec::new();
    for package in lock.split("[[package]]") {
        let mut lines = package.trim_start().lines();
        if let (Some(name), Some(version)) = (
            quoted(lines.next(), "name"),
            quoted(lines.next(), "version"),
        ) && CRATES.contains(&name.as_str())
        {
            found.push((name, version));
        }
    }
    found
}

/// The day in UTC, as YYYY-MM-DD (days to civil, after Howard Hinnant).
fn date(now: SystemTime) -> String {
    let seconds = now
        .duration_since(SystemTime::UNIX_EPOCH)
        .map_or(0, |since| since.as_secs());
    let days = seconds / 86_400 + 719_468;
    let era = days / 146_097;
    let of_era = days % 146_097;
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let shifted = (5 * of_year + 2) / 153;
    let day = of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = year + era * 400 + u64::from(month <= 2);
    format!("{year}-{month:02}-{day:02}")
}

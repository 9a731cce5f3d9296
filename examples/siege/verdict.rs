//! What is promised, and whether it was kept.

use std::time::Duration;

use serde::Serialize;

use crate::{attacker::Cost, attacks::Attack, honest::Tally, siege::Plan, vitals::Vitals};

/// How many times the 99th percentile of the quiet times a percentile during an attack may be.
const TIMES: u32 = 3;
/// A newcomer is answered within this time: a lost first packet is repeated after a second.
const NEWCOMER: Duration = Duration::from_millis(2500);
/// How much more may stay when all is over. glibc keeps what insiders have made the server allocate: thirteen rounds of the two attacks of insiders left between
/// 254 and 428 MiB, without a trend, and one of them 220, or 134 with `MALLOC_ARENA_MAX=1 MALLOC_TRIM_THRESHOLD_=65536`.
const LEFT: u64 = 448 << 20;
/// How many more file descriptors the server may have during an attack: a handshake's sockets and connections of strangers.
const FILES: usize = 1200;
/// How many more may stay: newcomers come and go.
const FILES_LEFT: usize = 8;

/// One row of the table.
#[derive(Debug, Serialize)]
pub(crate) struct Row {
    pub(crate) attack: String,
    pub(crate) seconds: f64,
    pub(crate) packets: f64,
    pub(crate) bytes: f64,
    pub(crate) sockets: f64,
    pub(crate) ended: u64,
    pub(crate) calls: u64,
    pub(crate) p50_before: Duration,
    pub(crate) p50: Duration,
    pub(crate) p99_before: Duration,
    pub(crate) p99: Duration,
    pub(crate) newcomer_before: Duration,
    pub(crate) newcomer: Duration,
    pub(crate) failed: u64,
    pub(crate) memory: [u64; 3],
    pub(crate) files: [usize; 3],
    pub(crate) broken: Vec<String>,
}

/// What was seen of one attack.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) attack: Attack,
    pub(crate) cost: Cost,
    pub(crate) time: Duration,
    pub(crate) calm: Tally,
    pub(crate) during: Tally,
    pub(crate) before: Vitals,
    pub(crate) most: Vitals,
    pub(crate) after: Vitals,
}

impl Row {
    /// Judges an attack. `idle` has all calls of the quiet times so far, `rest` what the server held before the first attack.
    pub(crate) fn new(plan: &Plan, seen: &Seen, idle: &Tally, rest: &Vitals) -> Self {
        let seconds = seen.time.as_secs_f64();
        let rate = |count: u64| count as f64 / seconds;
        let (calm, during) = (&seen.calm, &seen.during);
        let mut broken = Vec::new();
        if during.failed > 0 {
            let reasons = during
                .reasons
                .iter()
                .map(|(why, count)| format!("{count} x {why}"));
            broken.push(format!(
                "calls failed: {}",
                reasons.collect::<Vec<_>>().join("; ")
            ));
        }
        let p99 = during.quantile(0.99);
        let bound = (idle.quantile(0.99) * TIMES).max(plan.floor);
        if p99 >= bound {
            broken.push(format!(
                "the 99th percentile was {p99:.1?}, and {bound:.1?} is the bound"
            ));
        }
        let newcomer = during.worst_newcomer();
        let bound = NEWCOMER.max(plan.floor);
        if newcomer >= bound {
            broken.push(format!(
                "a newcomer waited {newcomer:.1?}, and {bound:.1?} is the bound"
            ));
        }
        let taken = seen.most.memory.saturating_sub(seen.before.memory);
        if taken > seen.attack.memory {
            broken.push(format!(
                "the server took {} MiB, and {} are accepted",
                taken >> 20,
                seen.attack.memory >> 20
            ));
        }
        if seen.most.files > rest.files + FILES {
            broken.push(format!(
                "the server had {} file descriptors, and {} are accepted",
                seen.most.files,
                rest.files + FILES
            ));
        }
        Self {
            attack: seen.attack.name.clone(),
            seconds,
            packets: rate(seen.cost.packets),
            bytes: rate(seen.cost.bytes),
            sockets: rate(seen.cost.sockets),
            ended: seen.cost.ended,
            calls: during.calls.len() + during.newcomers.len(),
            p50_before: calm.quantile(0.5),
            p50: during.quantile(0.5),
            p99_before: calm.quantile(0.99),
            p99,
            newcomer_before: calm.worst_newcomer(),
            newcomer,
            failed: during.failed,
            memory: [seen.before, seen.most, seen.after].map(|it| it.memory),
            files: [seen.before, seen.most, seen.after].map(|it| it.files),
            broken,
        }
    }
}

/// Which of the promises about the end the server does not keep, or not yet.
pub(crate) fn left(rest: &Vitals, now: &Vitals) -> Vec<String> {
    let mut left = Vec::new();
    if now.memory > rest.memory + LEFT {
        left.push(format!(
            "the server holds {} MiB after all attacks, and {} are accepted",
            now.memory >> 20,
            (rest.memory + LEFT) >> 20
        ));
    }
    if now.files > rest.files + FILES_LEFT {
        left.push(format!(
            "the server has {} file descriptors after all attacks, and {} are accepted",
            now.files,
            rest.files + FILES_LEFT
        ));
    }
    left
}

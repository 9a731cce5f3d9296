//! What issue 2 wants ("Speed to reach"), each with what was measured.

use crate::{
    arms::{Arm, CHANNEL, CONNECTOR, GATEWAY, PROXIES, RAW, TLS, TONIC_IROH_TRANSPORT as TIT},
    metric::Metric,
    run::Record,
    stats::Interval,
};

/// One wish.
pub struct Target {
    workload: &'static str,
    metric: Metric,
    arm: Arm,
    to: Arm,
    bound: f64,
}

/// How it went.
#[derive(serde::Serialize)]
pub struct Verdict {
    pub wish: String,
    /// `None` if an arm failed.
    pub ratio: Option<Interval>,
    pub reached: Option<bool>,
}

const fn target(workload: &'static str, metric: Metric, arm: Arm, to: Arm, bound: f64) -> Target {
    Target {
        workload,
        metric,
        arm,
        to,
        bound,
    }
}

const TARGETS: [Target; 11] = [
    target("unary-64B-x1", Metric::P50, CHANNEL, TLS, 1.25),
    target("unary-64B-x1", Metric::P50, CHANNEL, TIT, 0.95),
    target("unary-64B-x8", Metric::Rate, CHANNEL, TIT, 1.1),
    target("unary-64B-x64", Metric::Rate, CHANNEL, TLS, 1.0),
    target("unary-64B-x64", Metric::P99, CHANNEL, TLS, 1.10),
    target("unary-1MiB-x4", Metric::Throughput, CHANNEL, TIT, 1.5),
    target("unary-1MiB-x4", Metric::Throughput, CHANNEL, RAW, 0.95),
    target("unary-64B-x8", Metric::Rate, CONNECTOR, TLS, 0.9),
    target("unary-64B-x64", Metric::Rate, CONNECTOR, TLS, 0.9),
    target("unary-64B-x1", Metric::P50, GATEWAY, PROXIES, 1.2),
    target("unary-64B-x64", Metric::Rate, GATEWAY, PROXIES, 0.9),
];

/// Every target whose workload and arms were asked for.
pub fn judge(record: &Record<'_>) -> Vec<Verdict> {
    TARGETS
        .iter()
        .filter(|target| {
            let asked = |arm| record.plan.arms.contains(arm);
            asked(&target.arm) && asked(&target.to)
        })
        .filter_map(|target| Some((target, record.workload(target.workload)?)))
        .map(|(target, workload)| {
            let ratio = record.ratio(workload, target.metric, target.arm, target.to);
            let more = target.metric.more_is_better();
            Verdict {
                wish: format!(
                    "{}, {}: {} {} {} x {}",
                    target.arm.title,
                    target.workload,
                    target.metric.title(),
                    if more { "at least" } else { "at most" },
                    target.bound,
                    target.to.title,
                ),
                reached: ratio.map(|ratio| match more {
                    true => ratio.middle >= target.bound,
                    false => ratio.middle <= target.bound,
                }),
                ratio,
            }
        })
        .collect()
}

//! What is shown of one interval: rates and percentiles.

use std::collections::BTreeMap;

use super::scrape::{Calls, Meter, Role};

/// The calls of one method, or of all of a peer.
#[derive(Debug, Default)]
pub(super) struct Tally {
    calls: f64,
    errors: f64,
    codes: BTreeMap<String, f64>,
    /// How many took as long as that, and longer than the bound below.
    durations: Vec<(f64, f64)>,
}

impl Tally {
    pub(super) fn add(&mut self, code: &str, calls: &Calls) {
        self.calls += calls.count;
        if calls.is_error {
            self.errors += calls.count;
        }
        if code != "OK" {
            *self.codes.entry(code.to_owned()).or_default() += calls.count;
        }
        let mut below = 0.0;
        for (bound, up_to) in &calls.buckets {
            self.durations.push((*bound, (up_to - below).max(0.0)));
            below = up_to.max(below);
        }
    }

    pub(super) fn merge(&mut self, other: &Self) {
        self.calls += other.calls;
        self.errors += other.errors;
        for (code, calls) in &other.codes {
            *self.codes.entry(code.clone()).or_default() += calls;
        }
        self.durations.extend(&other.durations);
    }

    pub(super) fn into_rates(mut self, seconds: f64) -> Rates {
        sum_up(&mut self.durations);
        let per_second = |calls: f64| calls / seconds;
        Rates {
            calls: per_second(self.calls),
            errors: per_second(self.errors),
            p50: quantile(&self.durations, 0.5),
            p99: quantile(&self.durations, 0.99),
            codes: self
                .codes
                .into_iter()
                .filter(|(_, calls)| *calls > 0.0)
                .map(|(code, calls)| (code, per_second(calls)))
                .collect(),
        }
    }
}

/// The duration that a share of the calls did not exceed, as Prometheus' `histogram_quantile` finds it: evenly spread within a bucket, and the largest bound for
/// what exceeds all.
fn quantile(durations: &[(f64, f64)], share: f64) -> Option<f64> {
    let rank = durations.iter().map(|it| it.1).sum::<f64>() * share;
    let (mut lower, mut below) = (0.0, 0.0);
    for (upper, calls) in durations.iter().copied() {
        if calls > 0.0 && below + calls >= rank {
            let part = ((rank - below) / calls).clamp(0.0, 1.0);
            return Some(match upper.is_infinite() {
                true => lower,
                false => lower + (upper - lower) * part,
            });
        }
        below += calls;
        lower = upper.max(0.0);
    }
    None
}

/// What is shown of one interval.
#[derive(Debug)]
pub(super) struct View {
    pub(super) seconds: f64,
    pub(super) peers: Vec<Peer>,
    /// With the label's value, and the rate or the level.
    pub(super) meters: Vec<(&'static Meter, String, f64)>,
}

/// A peer in one role; its name is empty where peers are not told apart.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) role: Role,
    pub(super) name: String,
    pub(super) in_flight: f64,
    pub(super) total: Rates,
    pub(super) methods: Vec<(String, Rates)>,
}

/// Calls per second, and how long they took.
#[derive(Debug)]
pub(super) struct Rates {
    pub(super) calls: f64,
    pub(super) errors: f64,
    /// Every code but OK. A server's errors are its own failures alone, as OpenTelemetry defines them.
    pub(super) codes: BTreeMap<String, f64>,
    /// In seconds.
    pub(super) p50: Option<f64>,
    pub(super) p99: Option<f64>,
}

/// Sorts by bound, and sums up what has the same one.
pub(super) fn sum_up(buckets: &mut Vec<(f64, f64)>) {
    buckets.sort_by(|a, b| a.0.total_cmp(&b.0));
    buckets.dedup_by(|later, kept| {
        let is_same = later.0 == kept.0;
        if is_same {
            kept.1 += later.1;
        }
        is_same
    });
}

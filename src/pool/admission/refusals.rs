//! What a server refuses: a counter for everything, and a log that strangers cannot flood.

use std::{
    collections::BTreeMap,
    sync::Mutex,
    time::{Duration, Instant},
};

use crate::lock::lock;

/// At least this long between two log lines about the same reason.
const PACE: Duration = Duration::from_secs(1);

/// Counts refusals by reason under one metric, and lets one of each reason into the log each second.
#[derive(Debug)]
pub(crate) struct Refusals {
    metric: &'static str,
    reasons: Mutex<BTreeMap<&'static str, RateLimit>>,
}

impl Refusals {
    /// Counts in the metric of this name, with the label `reason`.
    pub(crate) fn new(metric: &'static str) -> Self {
        Self {
            metric,
            reasons: Mutex::default(),
        }
    }

    /// Counts a refusal. `log` is called if it is time for a line about this reason, with how many had none since the last line.
    pub(crate) fn add(&self, reason: &'static str, log: impl FnOnce(u64)) {
        metrics::counter!(self.metric, "reason" => reason).increment(1);
        let due = lock(&self.reasons)
            .entry(reason)
            .or_default()
            .due(Instant::now());
        if let Some(suppressed) = due {
            log(suppressed);
        }
    }
}

/// Says of each event whether it is logged. Pure: it is told the time.
#[derive(Debug, Default)]
struct RateLimit {
    logged: Option<Instant>,
    suppressed: u64,
}

impl RateLimit {
    /// If this event is to be logged: how many were not since the last one that was.
    fn due(&mut self, now: Instant) -> Option<u64> {
        let early = self
            .logged
            .is_some_and(|logged| now.saturating_duration_since(logged) < PACE);
        if early {
            self.suppressed += 1;
            return None;
        }
        self.logged = Some(now);
        Some(std::mem::take(&mut self.suppressed))
    }
}

#[cfg(test)]
mod tests {
    use metrics_exporter_prometheus::PrometheusBuilder;

    use super::*;

    #[test]
    fn one_event_a_second_is_logged_and_tells_of_the_others() {
        let began = Instant::now();
        let mut limit = RateLimit::default();
        let times = [0, 1, 999, 1000, 1001, 5000, 6000];
        let due = times.map(|millis| limit.due(began + Duration::from_millis(millis)));
        assert_eq!(due, [Some(0), None, None, Some(2), None, Some(1), Some(0)]);
        let mut limit = RateLimit::default();
        let flood = (0..10_000).map(|number| began + Duration::from_micros(number * 100));
        let logged = flood.filter_map(|now| limit.due(now)).count();
        assert_eq!(logged, 1, "10,000 in a second");
    }

    #[test]
    fn each_reason_has_its_own_line_and_everything_is_counted() {
        let recorder = PrometheusBuilder::new().build_recorder();
        let refusals = Refusals::new("refused_total");
        let mut lines = Vec::new();
        metrics::with_local_recorder(&recorder, || {
            for reason in ["limit", "lanes", "limit", "lanes", "limit"] {
                refusals.add(reason, |suppressed| lines.push((reason, suppressed)));
            }
        });
        assert_eq!(lines, [("limit", 0), ("lanes", 0)]);
        let text = recorder.handle().render();
        for counted in [r#"{reason="limit"} 3"#, r#"{reason="lanes"} 2"#] {
            assert!(
                text.contains(&format!("refused_total{counted}\n")),
                "{text}"
            );
        }
    }
}

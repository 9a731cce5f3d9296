//! What has become of the calls to one target.

use std::{collections::BTreeMap, time::Duration};

use hdrhistogram::Histogram;
use tonic::Status;

/// The counts and latencies of one target, without the warm-up.
#[derive(Debug)]
pub(super) struct Tally {
    pub(super) sent: u64,
    /// Calls that were due while as many as permitted were in flight.
    pub(super) not_sent: u64,
    /// By code: how many, and what the first one said.
    pub(super) failed: BTreeMap<i32, (u64, Status)>,
    /// The furthest that a call started after it was due.
    pub(super) max_start_delay: Duration,
    /// The latencies of answered calls, in microseconds.
    pub(super) latencies: Histogram<u64>,
    /// The same for each slice of the run.
    slices: Vec<Histogram<u64>>,
}

/// The three quarters of a set of values.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Quartiles(pub(super) [f64; 3]);

impl Tally {
    pub(super) fn new(slices: usize) -> Self {
        Self {
            sent: 0,
            not_sent: 0,
            failed: BTreeMap::new(),
            max_start_delay: Duration::ZERO,
            latencies: empty(),
            slices: vec![empty(); slices],
        }
    }

    pub(super) fn start(&mut self, late: Duration) {
        self.sent += 1;
        self.max_start_delay = self.max_start_delay.max(late);
    }

    pub(super) fn end(&mut self, slice: usize, latency: Duration, answer: Result<(), Status>) {
        match answer {
            Ok(()) => {
                let micros = u64::try_from(latency.as_micros()).unwrap_or(u64::MAX);
                self.latencies += micros;
                self.slices[slice] += micros;
            }
            Err(status) => {
                let first = self.failed.entry(status.code() as i32);
                first.or_insert((0, status)).0 += 1;
            }
        }
    }

    pub(super) fn answered(&self) -> u64 {
        self.latencies.len()
    }

    pub(super) fn failures(&self) -> u64 {
        self.failed.values().map(|(count, _)| count).sum()
    }

    /// Calls that Ctrl-C has ended.
    pub(super) fn unfinished(&self) -> u64 {
        self.sent - self.answered() - self.failures()
    }

    /// Whether each call that was due was answered.
    pub(super) fn is_clean(&self) -> bool {
        self.not_sent == 0 && self.sent == self.answered()
    }

    /// How this target's latency at a quantile compares with another's, slice by slice. A slice in which one of them has no answer does not count.
    pub(super) fn ratio(&self, other: &Self, quantile: f64) -> Option<Quartiles> {
        let both = self.slices.iter().zip(&other.slices);
        let both = both.filter(|(one, other)| !one.is_empty() && !other.is_empty());
        let at = |times: &Histogram<u64>| times.value_at_quantile(quantile).max(1) as f64;
        Quartiles::of(both.map(|(one, other)| at(one) / at(other)).collect())
    }
}

impl Quartiles {
    fn of(mut values: Vec<f64>) -> Option<Self> {
        values.sort_by(f64::total_cmp);
        let last = values.len().checked_sub(1)?;
        let at = |share: f64| {
            let place = last as f64 * share;
            let (low, high) = (values[place as usize], values[place.ceil() as usize]);
            low + (high - low) * place.fract()
        };
        Some(Self([at(0.25), at(0.5), at(0.75)]))
    }
}

/// A histogram that keeps three significant digits, and grows with the values.
fn empty() -> Histogram<u64> {
    match Histogram::new(3) {
        Ok(histogram) => histogram,
        Err(error) => unreachable!("three digits were refused: {error}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tally(slices: &[&[u64]]) -> Tally {
        let mut tally = Tally::new(slices.len());
        for (slice, times) in slices.iter().enumerate() {
            for time in *times {
                tally.start(Duration::ZERO);
                tally.end(slice, Duration::from_millis(*time), Ok(()));
            }
        }
        tally
    }

    #[test]
    fn quantiles_are_those_of_all_slices_together() {
        let times: Vec<_> = (1..=1000).collect();
        let tally = tally(&[&times[..700], &times[700..]]);
        let whole = &tally.latencies;
        assert_eq!(whole.len(), 1000);
        for (quantile, expected) in [(0.5, 500_000), (0.99, 990_000), (0.999, 999_000)] {
            let found = whole.value_at_quantile(quantile);
            assert!(found.abs_diff(expected) <= expected / 1000, "{found}");
        }
        assert!(tally.is_clean());
    }

    #[test]
    fn failures_are_counted_by_code_and_are_no_latencies() {
        let mut tally = tally(&[&[5]]);
        for message in ["first", "second"] {
            tally.start(Duration::from_millis(3));
            tally.end(0, Duration::ZERO, Err(Status::aborted(message)));
        }
        tally.start(Duration::from_millis(2));
        let (count, first) = &tally.failed[&(tonic::Code::Aborted as i32)];
        assert_eq!((*count, first.message()), (2, "first"));
        assert_eq!((tally.failures(), tally.unfinished()), (2, 1));
        assert_eq!((tally.answered(), tally.latencies.len()), (1, 1));
        assert_eq!(tally.max_start_delay, Duration::from_millis(3));
        assert!(!tally.is_clean());
    }

    #[test]
    fn two_targets_are_compared_slice_by_slice() {
        let one = tally(&[&[20], &[60], &[40], &[7], &[]]);
        let other = tally(&[&[10], &[10], &[10], &[], &[7]]);
        let Quartiles(ratio) = one.ratio(&other, 0.5).expect("answers");
        for (found, expected) in ratio.into_iter().zip([3.0, 4.0, 5.0]) {
            assert!((found / expected - 1.0).abs() < 0.002, "{ratio:?}");
        }
        assert_eq!(one.ratio(&Tally::new(5), 0.5), None);
    }
}

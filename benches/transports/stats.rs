//! The median of paired ratios and how sure it is.

use rand::{RngExt, rngs::StdRng};

/// A median and the middle 95 % of what it would have been with other rounds of the same kind.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Interval {
    pub middle: f64,
    pub low: f64,
    pub high: f64,
}

const RESAMPLES: usize = 2000;

/// The median; of an even number the mean of the two in the middle. NaN for nothing.
pub fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_unstable_by(f64::total_cmp);
    match (values.len(), values.len() / 2) {
        (0, _) => f64::NAN,
        (odd, half) if odd % 2 == 1 => values[half],
        (_, half) => values[half - 1].midpoint(values[half]),
    }
}

/// The median with its 95 % bootstrap interval (percentile method); `None` for fewer than three values.
pub fn bootstrap(values: &[f64], rng: &mut StdRng) -> Option<Interval> {
    if values.len() < 3 {
        return None;
    }
    let mut again = vec![0.0; values.len()];
    let mut medians: Vec<_> = (0..RESAMPLES)
        .map(|_| {
            for value in &mut again {
                *value = values[rng.random_range(0..values.len())];
            }
            median(&again)
        })
        .collect();
    medians.sort_unstable_by(f64::total_cmp);
    let at = |share: f64| medians[((RESAMPLES - 1) as f64 * share).round() as usize];
    Some(Interval {
        middle: median(values),
        low: at(0.025),
        high: at(0.975),
    })
}

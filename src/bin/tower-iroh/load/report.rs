//! What a run came to, as a table and as JSON.

use std::{collections::BTreeSet, fmt, time::Duration};

use hdrhistogram::Histogram;
use serde_json::{Map, Value, json};
use tonic::Code;
use tower_iroh::layers::classify::name_of;

use super::{
    drive::Run,
    tally::{Quartiles, Tally},
};

/// A run and the names of its targets.
pub(super) struct Report<'a> {
    pub(super) run: &'a Run,
    pub(super) names: &'a [String],
}

impl Report<'_> {
    pub(super) fn json(&self) -> Value {
        let targets = self.names.iter().zip(&self.run.tallies);
        let targets = targets.map(|(name, tally)| {
            let failed = tally.failed.iter().map(|(code, (count, first))| {
                let code = name_of(Code::from_i32(*code));
                json!({ "code": code, "count": count, "first_message": first.message() })
            });
            let latency = latency(&tally.latencies).into_iter();
            let latency = latency.map(|(name, ms)| (name.replace('.', "_"), json!(ms)));
            json!({
                "target": name,
                "sent": tally.sent,
                "answered": tally.answered(),
                "failed": tally.failures(),
                "failed_by_code": failed.collect::<Vec<_>>(),
                "not_sent": tally.not_sent,
                "unfinished": tally.unfinished(),
                "rate_reached": self.rate(tally),
                "max_start_delay_ms": ms(tally.max_start_delay),
                "latency_ms": latency.collect::<Map<_, _>>(),
            })
        });
        let ratio = self
            .ratios()
            .map(|(name, Quartiles([lower, median, upper]))| {
                let quartiles =
                    json!({ "median": median, "lower_quartile": lower, "upper_quartile": upper });
                (name.to_owned(), quartiles)
            });
        json!({
            "seconds": self.run.lasted.as_secs_f64(),
            "interrupted": self.run.is_interrupted,
            "targets": targets.collect::<Vec<_>>(),
            "ratio": ratio.collect::<Map<_, _>>(),
        })
    }

    /// Calls a second that were sent.
    fn rate(&self, tally: &Tally) -> Option<f64> {
        let seconds = self.run.lasted.as_secs_f64();
        (seconds > 0.0).then(|| tally.sent as f64 / seconds)
    }

    /// How the first target compares with the second.
    fn ratios(&self) -> impl Iterator<Item = (&'static str, Quartiles)> {
        let ratio = |(name, quantile)| match &self.run.tallies[..] {
            [one, other] => Some((name, one.ratio(other, quantile)?)),
            _ => None,
        };
        [("p50", 0.5), ("p99", 0.99)].into_iter().filter_map(ratio)
    }

    /// The table: the name of each row, and its cell for each target.
    fn rows(&self) -> Vec<(&str, Vec<String>)> {
        let tallies = &self.run.tallies;
        let row = |cell: &dyn Fn(&Tally) -> String| tallies.iter().map(cell).collect();
        let count = |count: &dyn Fn(&Tally) -> u64| row(&|it| count(it).to_string());
        let mut rows = vec![
            ("target", self.names.to_vec()),
            ("sent", count(&|it| it.sent)),
            ("answered", count(&Tally::answered)),
            ("failed", count(&Tally::failures)),
        ];
        let codes: BTreeSet<_> = tallies.iter().flat_map(|it| it.failed.keys()).collect();
        rows.extend(codes.into_iter().map(|code| {
            let of_code = |it: &Tally| it.failed.get(code).map_or(0, |failed| failed.0);
            (name_of(Code::from_i32(*code)), count(&of_code))
        }));
        rows.push(("not sent", count(&|it| it.not_sent)));
        if self.run.is_interrupted {
            rows.push(("unfinished", count(&Tally::unfinished)));
        }
        let or_none = |value: Option<String>| value.unwrap_or_else(|| "-".to_owned());
        let rate = |it: &Tally| or_none(self.rate(it).map(|rate| format!("{rate:.1} /s")));
        rows.push(("rate reached", row(&rate)));
        let late = |it: &Tally| format!("{:.2} ms", ms(it.max_start_delay));
        rows.push(("start delay", row(&late)));
        let latencies: Vec<_> = tallies.iter().map(|it| latency(&it.latencies)).collect();
        rows.extend((0..LATENCIES).map(|number| {
            let cell = |it: &[(&str, Option<f64>); LATENCIES]| {
                or_none(it[number].1.map(|ms| format!("{ms:.2} ms")))
            };
            (latencies[0][number].0, latencies.iter().map(cell).collect())
        }));
        rows
    }
}

impl fmt::Display for Report<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (number, (name, cells)) in self.rows().into_iter().enumerate() {
            let end = if number == 0 { "" } else { "\n" };
            write!(f, "{end}{name:<19}")?;
            for (cell, target) in cells.iter().zip(self.names) {
                let width = target.chars().count().max(12);
                write!(f, "  {cell:>width$}")?;
            }
        }
        for (name, Quartiles([lower, median, upper])) in self.ratios() {
            let [one, other] = [&self.names[0], &self.names[1]];
            write!(
                f,
                "\n{name} of {one} is {median:.2} times that of {other} (quartiles {lower:.2} and {upper:.2})"
            )?;
        }
        for (target, tally) in self.names.iter().zip(&self.run.tallies) {
            for (count, first) in tally.failed.values() {
                write!(
                    f,
                    "\n{target}: {count} failed with {}",
                    name_of(first.code())
                )?;
                if !first.message().is_empty() {
                    write!(f, ", the first one with: {}", first.message())?;
                }
            }
        }
        Ok(())
    }
}

const LATENCIES: usize = 7;

/// What is told of latencies, in milliseconds; `None` without an answered call.
pub(super) fn latency(times: &Histogram<u64>) -> [(&'static str, Option<f64>); LATENCIES] {
    let at = |quantile| times.value_at_quantile(quantile) as f64;
    [
        ("min", times.min() as f64),
        ("p50", at(0.5)),
        ("p90", at(0.9)),
        ("p99", at(0.99)),
        ("p99.9", at(0.999)),
        ("max", times.max() as f64),
        ("mean", times.mean()),
    ]
    .map(|(name, micros)| (name, (!times.is_empty()).then_some(micros / 1000.0)))
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1000.0
}

#[cfg(test)]
mod tests {
    use tonic::Status;

    use super::*;

    fn run() -> Run {
        let tally = |latency: u64| {
            let mut tally = Tally::new(1);
            for _ in 0..10 {
                tally.start(Duration::from_micros(1500));
                tally.end(0, Duration::from_millis(latency), Ok(()));
            }
            tally
        };
        let mut run = Run {
            tallies: vec![tally(4), tally(2)],
            lasted: Duration::from_secs(2),
            is_interrupted: false,
        };
        run.tallies[1].start(Duration::ZERO);
        run.tallies[1].end(0, Duration::ZERO, Err(Status::aborted("no")));
        run
    }

    fn names() -> [String; 2] {
        ["iroh".to_owned(), "tcp://localhost:1".to_owned()]
    }

    #[test]
    fn the_table_has_a_column_for_each_target() {
        let report = Report {
            run: &run(),
            names: &names(),
        };
        let text = report.to_string();
        for line in [
            "target                       iroh  tcp://localhost:1",
            "sent                           10                 11",
            "ABORTED                         0                  1",
            "rate reached               5.0 /s             5.5 /s",
            "start delay               1.50 ms            1.50 ms",
            "p99.9                     4.00 ms            2.00 ms",
            "p50 of iroh is 2.00 times that of tcp://localhost:1 (quartiles 2.00 and 2.00)",
            "tcp://localhost:1: 1 failed with ABORTED, the first one with: no",
        ] {
            assert!(text.lines().any(|it| it == line), "no {line:?} in\n{text}");
        }
    }

    #[test]
    fn json_has_the_same() {
        let report = Report {
            run: &run(),
            names: &names(),
        };
        let json = report.json();
        assert_eq!(json["seconds"], 2.0);
        let second = &json["targets"][1];
        assert_eq!(
            (&second["sent"], &second["answered"]),
            (&11.into(), &10.into())
        );
        assert_eq!(second["failed_by_code"][0]["code"], "ABORTED");
        let p99_9 = second["latency_ms"]["p99_9"].as_f64().expect("a number");
        assert!((p99_9 - 2.0).abs() < 0.01, "{p99_9}");
        assert!(json["ratio"]["p99"]["median"].is_number(), "{json}");
    }

    #[test]
    fn a_run_without_answers_has_no_latencies() {
        let run = Run {
            tallies: vec![Tally::new(1)],
            lasted: Duration::ZERO,
            is_interrupted: true,
        };
        let report = Report {
            run: &run,
            names: &names()[..1],
        };
        let text = report.to_string();
        let last = text.lines().last().expect("rows");
        assert_eq!(last.split_whitespace().collect::<Vec<_>>(), ["mean", "-"]);
        assert!(report.json()["targets"][0]["latency_ms"]["p50"].is_null());
    }
}

//! Small calls at a steady pace, whatever becomes of those before them.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until, timeout_at},
};
use tower_iroh::Urgency;
use tower_iroh_proto::echo::echo_client::EchoClient;

use super::{echo, urgent};
use crate::arms::Service;

/// So many calls in so long.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    pub per_second: u32,
    pub lasting: Duration,
    /// `None`: as a user who says nothing.
    pub urgency: Option<Urgency>,
}

/// How late tokio's timer may be by itself: it ticks in milliseconds.
const TICK: Duration = Duration::from_millis(2);
/// How long is waited for the last answers. What has not come then counts with the time it has waited.
const PATIENCE: Duration = Duration::from_secs(10);

/// What the calls took, in milliseconds.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Latency {
    pub calls: u64,
    pub p50: f64,
    pub p95: f64,
    pub p99: f64,
    pub max: f64,
    /// How many had no answer in the end; they count with the time that was waited for them.
    pub unanswered: u64,
    /// How many ended with an error; they are not among the times.
    pub failed: u64,
    pub error: Option<String>,
}

/// Makes the calls. `ended` is called when the last has begun.
///
/// A call counts from when it should have begun, so that a program or a transport that is stuck is not overlooked; only
/// what tokio's timer takes by itself is left out.
pub async fn paced(client: EchoClient<Service>, pace: Pace, ended: impl FnOnce()) -> Latency {
    let count = u64::from(pace.per_second) * pace.lasting.as_millis() as u64 / 1000;
    let interval = Duration::from_secs(1) / pace.per_second;
    let began = Instant::now();
    let mut calls = JoinSet::new();
    let mut due = Vec::with_capacity(count as usize);
    for number in 0..count {
        let meant = began + interval * number as u32;
        sleep_until(meant).await;
        let now = Instant::now();
        let counts_from = if now - meant < TICK { now } else { meant };
        due.push(Some(counts_from));
        let mut client = client.clone();
        calls.spawn(async move {
            let message = echo(number);
            let sent = message.payload.clone();
            let answer = match client.echo(urgent(message, pace.urgency)).await {
                Ok(answer) if answer.get_ref().payload == sent => Ok(()),
                Ok(_) => Err("an answer to something else".to_owned()),
                Err(status) => Err(format!("{:?}: {}", status.code(), status.message())),
            };
            (number, Instant::now(), answer)
        });
    }
    ended();

    let mut latency = Latency::default();
    let mut times = Vec::with_capacity(due.len());
    let end = Instant::now() + PATIENCE;
    while let Ok(Some(call)) = timeout_at(end, calls.join_next()).await {
        let (number, at, answer) = call.expect("a call does not panic");
        let due = due[number as usize].take().expect("answered once");
        match answer {
            Ok(()) => times.push(at - due),
            Err(error) => {
                latency.failed += 1;
                latency.error.get_or_insert(error);
            }
        }
    }
    let now = Instant::now();
    for due in due.into_iter().flatten() {
        latency.unanswered += 1;
        times.push(now - due);
    }
    Latency {
        unanswered: latency.unanswered,
        failed: latency.failed,
        error: latency.error,
        ..Latency::of(&times)
    }
}

impl Latency {
    /// The quantiles of these times, all of them answered.
    pub fn of(took: &[Duration]) -> Self {
        // Up to ten minutes, in microseconds.
        let bounds = Histogram::<u64>::new_with_bounds(1, 600_000_000, 3);
        let mut times = bounds.expect("bounds that are accepted");
        for took in took {
            times.saturating_record(took.as_micros() as u64);
        }
        let at = |quantile| times.value_at_quantile(quantile) as f64 / 1000.0;
        Self {
            calls: times.len(),
            p50: at(0.5),
            p95: at(0.95),
            p99: at(0.99),
            max: times.max() as f64 / 1000.0,
            ..Self::default()
        }
    }
}

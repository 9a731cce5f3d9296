//! Starts each call when it is due, and counts what becomes of it.

use std::{pin::pin, time::Duration};

use tokio::{
    task::JoinSet,
    time::{Instant, interval_at, sleep_until},
};
use tonic::Status;

use super::{
    schedule::{Schedule, counts_since},
    tally::Tally,
};

/// What a run came to.
pub(super) struct Run {
    /// One for each target.
    pub(super) tallies: Vec<Tally>,
    /// How long the calls that count were being started.
    pub(super) lasted: Duration,
    pub(super) is_interrupted: bool,
}

/// Makes the calls of the schedule, with at most `max_in_flight` open to each target. `call(target, number)` makes one. `interrupted` ends the run and cancels
/// the open calls. `show` gets the state each second.
pub(super) async fn drive<F>(
    schedule: &Schedule,
    max_in_flight: usize,
    call: impl Fn(usize, u64) -> F,
    interrupted: impl Future<Output = ()>,
    mut show: impl FnMut(Duration, &[Tally]),
) -> Run
where
    F: Future<Output = Result<(), Status>> + Send + 'static,
{
    const SECOND: Duration = Duration::from_secs(1);
    let targets = schedule.targets();
    let mut tallies: Vec<_> = (0..targets)
        .map(|_| Tally::new(schedule.slices()))
        .collect();
    let mut in_flight = vec![0; targets];
    let mut calls: JoinSet<Ended> = JoinSet::new();
    let mut next = 0;
    let began = Instant::now();
    let mut last_start = began;
    let mut seconds = interval_at(began + SECOND, SECOND);
    let mut interrupted = pin!(interrupted);
    let is_interrupted = loop {
        let is_left = next < schedule.calls();
        if !is_left && calls.is_empty() {
            break false;
        }
        let due = began + schedule.due(next);
        // At random, not in this order: when the machine cannot keep up, calls are always due, and their ends must be counted all the same.
        tokio::select! {
            () = &mut interrupted => break true,
            _ = seconds.tick() => show(began.elapsed(), &tallies),
            Some(Ok(ended)) = calls.join_next() => ended.count(schedule, &mut in_flight, &mut tallies),
            () = sleep_until(due), if is_left => {
                // One that has ended is not in flight, whether it has been counted or not.
                while let Some(Ok(ended)) = calls.try_join_next() {
                    ended.count(schedule, &mut in_flight, &mut tallies);
                }
                let number = next;
                next += 1;
                let target = schedule.target(number);
                let counted = schedule.slice(number).map(|_| &mut tallies[target]);
                if in_flight[target] >= max_in_flight {
                    if let Some(tally) = counted {
                        tally.not_sent += 1;
                    }
                    continue;
                }
                let started = Instant::now();
                last_start = started;
                in_flight[target] += 1;
                if let Some(tally) = counted {
                    tally.start(started - due);
                }
                let since = counts_since(due, started);
                let call = call(target, number);
                calls.spawn(async move {
                    let answer = call.await;
                    Ended { number, took: since.elapsed(), answer }
                });
            }
        }
    };
    let mut end = last_start.max(began + schedule.due(schedule.calls()));
    if is_interrupted {
        end = end.min(Instant::now());
    }
    // Dropping a call resets it at the peer, for which its connection must still be there.
    calls.shutdown().await;
    Run {
        tallies,
        lasted: end.saturating_duration_since(began + schedule.counts_from()),
        is_interrupted,
    }
}

/// A call that has ended.
struct Ended {
    number: u64,
    took: Duration,
    answer: Result<(), Status>,
}

impl Ended {
    fn count(self, schedule: &Schedule, in_flight: &mut [usize], tallies: &mut [Tally]) {
        let target = schedule.target(self.number);
        in_flight[target] -= 1;
        if let Some(slice) = schedule.slice(self.number) {
            tallies[target].end(slice, self.took, self.answer);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::pending;

    use tokio::time::sleep;

    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn schedule(rate: f64, warm_up: u32, duration: u32, targets: usize) -> Schedule {
        Schedule::new(rate, SECOND * warm_up, SECOND * duration, targets).expect("valid")
    }

    async fn answer_after(time: Duration) -> Result<(), Status> {
        sleep(time).await;
        Ok(())
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_server_does_not_lower_the_rate() {
        let schedule = schedule(100.0, 1, 3, 1);
        let began = Instant::now();
        let call = |_, _| answer_after(10 * SECOND);
        let run = drive(&schedule, 1000, call, pending(), |_, _| {}).await;
        let tally = &run.tallies[0];
        assert_eq!((tally.sent, tally.answered()), (300, 300));
        let least = tally.latencies.min();
        assert_eq!(least.div_ceil(10_000), 1000, "10 s but for the third digit");
        assert_eq!((run.lasted, run.is_interrupted), (3 * SECOND, false));
        assert_eq!(began.elapsed().as_secs(), 13, "the last one is waited for");
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_over_the_limit_is_not_sent() {
        let schedule = schedule(10.0, 0, 2, 2);
        let call = |target, _| answer_after(SECOND * 100 * (1 - target as u32));
        let run = drive(&schedule, 3, call, pending(), |_, _| {}).await;
        let [slow, fast] = &run.tallies[..] else {
            panic!("two targets")
        };
        assert_eq!((slow.sent, slow.not_sent), (3, 17));
        assert_eq!(
            (fast.sent, fast.not_sent),
            (20, 0),
            "each has its own limit"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn an_interruption_ends_the_run_and_the_calls_in_flight() {
        let schedule = schedule(10.0, 0, 100, 1);
        let call = |_, number| answer_after(SECOND * if number < 5 { 1 } else { 1000 });
        let mut seen = Vec::new();
        let show = |elapsed: Duration, tallies: &[Tally]| {
            seen.push((elapsed.as_secs(), tallies[0].answered() > 0));
        };
        let run = drive(&schedule, 1000, call, sleep(SECOND * 2 + SECOND / 20), show).await;
        let tally = &run.tallies[0];
        assert!(run.is_interrupted);
        assert_eq!(
            (tally.sent, tally.answered(), tally.unfinished()),
            (21, 5, 16)
        );
        assert_eq!(run.lasted.as_millis(), 2050);
        assert_eq!(seen[1], (2, true), "{seen:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_that_started_late_counts_from_when_it_was_due() {
        let schedule = schedule(10.0, 0, 1, 1);
        // The machine stands still in the middle of the run.
        let call = |_, number| {
            let stall = (number == 5).then(|| tokio::spawn(tokio::time::advance(SECOND / 4)));
            async move {
                if let Some(stall) = stall {
                    stall.await.expect("no panic");
                }
                Ok(())
            }
        };
        let run = drive(&schedule, 1000, call, pending(), |_, _| {}).await;
        let tally = &run.tallies[0];
        assert_eq!(tally.sent, 10);
        assert!(
            tally.max_start_delay >= SECOND / 10,
            "{:?}",
            tally.max_start_delay
        );
        let late = tally.latencies.count_between(40_000, 300_000);
        assert_eq!(
            late, 3,
            "the stalled call and those that were due meanwhile"
        );
    }
}

//! Runs slices on one arm.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use hdrhistogram::Histogram;
use tokio::{
    task::JoinSet,
    time::{sleep_until, timeout},
};

use super::{
    Fault, cpu,
    load::{self, Tally, Window},
    transport::{Arm, Link},
    wire::{Command, Slice},
    workload::{self, Shape, Workload},
};

/// How much longer than planned a slice may take; one that hangs is a failure, not a wait.
const GRACE: Duration = Duration::from_secs(3);

/// An arm and the connections that its workloads have opened.
///
/// Each workload has its own connection, kept from slice to slice: what one leaves behind (windows, open
/// streams, a dead connection) is nothing to another, and a run of one workload measures what a run of all does.
pub struct Harness<A: Arm> {
    arm: Arc<A>,
    seats: HashMap<&'static str, Seats<A>>,
}

struct Seats<A: Arm> {
    /// Keeps the connection, which the callers share.
    _link: A::Link,
    callers: Vec<Seat<A>>,
}

/// A caller and its payloads.
type Seat<A> = (<<A as Arm>::Link as Link>::Caller, Arc<[Bytes]>);

impl<A: Arm> Harness<A> {
    pub fn new(arm: A) -> Self {
        Self {
            arm: Arc::new(arm),
            seats: HashMap::new(),
        }
    }

    /// One slice. After a failure the workload begins anew with a new connection.
    pub async fn slice(&mut self, command: &Command) -> Result<Slice, Fault> {
        let workload = workload::named(&command.workload)
            .ok_or_else(|| format!("there is no workload {:?}", command.workload))?;
        let ramp = Duration::from_millis(command.ramp_ms);
        let measure = Duration::from_millis(command.measure_ms);
        match timeout(ramp + measure + GRACE, self.run(workload, ramp, measure)).await {
            Ok(result) => result,
            Err(_) => Err(format!("hung for more than {} s", GRACE.as_secs()).into()),
        }
    }

    async fn run(
        &mut self,
        workload: Workload,
        ramp: Duration,
        measure: Duration,
    ) -> Result<Slice, Fault> {
        // Taken out of the map, so that a failure leaves nothing of it behind.
        let mut seats = match self.seats.remove(workload.name) {
            Some(seats) => Some(seats),
            None if workload.shape == Shape::Connect => None,
            None => Some(self.seat(workload).await?),
        };

        let start = Instant::now() + ramp;
        let window = Window {
            start,
            end: start + measure,
        };
        let (tallies, cpu_ns) =
            tokio::join!(self.callers(workload, &mut seats, window), clock(window));
        let tallies = tallies?;
        if let Some(seats) = seats {
            self.seats.insert(workload.name, seats);
        }
        summarise(&tallies, measure, cpu_ns)
    }

    /// All callers as tasks of their own, on the workers. Those still at it when this is dropped are aborted.
    async fn callers(
        &self,
        workload: Workload,
        seats: &mut Option<Seats<A>>,
        window: Window,
    ) -> Result<Vec<Tally>, Fault> {
        let Some(seats) = seats else {
            let arm = self.arm.clone();
            let payloads = load::payloads(0, workload.size);
            let mut task = JoinSet::new();
            task.spawn(async move { load::connect(arm, workload, &payloads, window).await });
            return task.join_all().await.into_iter().collect();
        };
        let mut tasks = JoinSet::new();
        for (mut caller, payloads) in seats.callers.drain(..) {
            tasks.spawn(async move {
                let tally = load::work(&mut caller, workload, &payloads, window).await?;
                Ok::<_, Fault>((caller, payloads, tally))
            });
        }
        let mut tallies = Vec::with_capacity(workload.callers);
        while let Some(done) = tasks.join_next().await {
            let (caller, payloads, tally) = done??;
            seats.callers.push((caller, payloads));
            tallies.push(tally);
        }
        Ok(tallies)
    }

    async fn seat(&self, workload: Workload) -> Result<Seats<A>, Fault> {
        let link = self.arm.link().await?;
        let mut callers = Vec::with_capacity(workload.callers);
        for number in 0..workload.callers {
            callers.push((
                link.caller().await?,
                load::payloads(number, workload.size).into(),
            ));
        }
        Ok(Seats {
            _link: link,
            callers,
        })
    }
}

/// Processor time between the window's two ends. Runs on the thread that waits for the slice, not on a worker.
async fn clock(window: Window) -> Option<u64> {
    sleep_until(window.start.into()).await;
    let before = cpu::nanoseconds("self");
    sleep_until(window.end.into()).await;
    cpu::nanoseconds("self")?.checked_sub(before?)
}

fn summarise(tallies: &[Tally], measure: Duration, cpu_ns: Option<u64>) -> Result<Slice, Fault> {
    let mut histogram = Histogram::<u64>::new(3)?;
    for latency in tallies.iter().flat_map(|tally| &tally.latencies) {
        histogram.record(latency.as_nanos() as u64)?;
    }
    Ok(Slice {
        seconds: measure.as_secs_f64(),
        events: tallies.iter().map(|tally| tally.events).sum(),
        bytes: tallies.iter().map(|tally| tally.bytes).sum(),
        cpu_ns,
        p50: histogram.value_at_quantile(0.50),
        p95: histogram.value_at_quantile(0.95),
        p99: histogram.value_at_quantile(0.99),
        latencies: histogram
            .iter_recorded()
            .map(|step| (step.value_iterated_to(), step.count_at_value()))
            .collect(),
    })
}

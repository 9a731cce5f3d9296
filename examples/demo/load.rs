//! Callers that each make one call after the other, and try again when the server is not there.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicU8, AtomicU64, Ordering},
    },
    time::Duration,
};

use hdrhistogram::Histogram;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep},
};
use tonic::{Code, Status, codegen::Bytes};
use tower_iroh::Channel;
use tower_iroh_proto::echo::{EchoRequest, echo_client::EchoClient};

use crate::Error;

/// Before a call is tried again. The loop is the demo's own, so that nothing is hidden.
const PAUSE: Duration = Duration::from_millis(10);
/// What a call is given in all; past that it has failed.
const PATIENCE: Duration = Duration::from_secs(15);
const SIZE: usize = 64;

/// When a call began, as the server's restart goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum Phase {
    Before,
    Restart,
    After,
}

impl Phase {
    pub(crate) const ALL: [Self; 3] = [Self::Before, Self::Restart, Self::After];
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Before => "before the restart",
            Self::Restart => "around the restart",
            Self::After => "after the restart",
        })
    }
}

/// A load that is running.
pub(crate) struct Load {
    shared: Arc<Shared>,
    callers: JoinSet<Result<[Histogram<u64>; 3], Error>>,
    count: u16,
    lasted: [Duration; 3],
    entered: (Phase, Instant),
}

/// What a load was.
pub(crate) struct Done {
    shared: Arc<Shared>,
    phases: [Measured; 3],
}

/// What was measured in one phase.
pub(crate) struct Measured {
    /// In microseconds, from the first attempt to the answer.
    pub(crate) latencies: Histogram<u64>,
    pub(crate) lasted: Duration,
}

impl Measured {
    pub(crate) fn calls(&self) -> u64 {
        self.latencies.len()
    }
}

impl Load {
    pub(crate) fn start(client: EchoClient<Channel>, count: u16) -> Self {
        let shared = Arc::new(Shared::new());
        let mut callers = JoinSet::new();
        for _ in 0..count {
            callers.spawn(shared.clone().call_on_and_on(client.clone()));
        }
        Self {
            shared,
            callers,
            count,
            lasted: [Duration::ZERO; 3],
            entered: (Phase::Before, Instant::now()),
        }
    }

    pub(crate) fn enter(&mut self, phase: Phase) {
        let (last, since) = self.entered;
        self.lasted[last as usize] += since.elapsed();
        self.entered = (phase, Instant::now());
        self.shared.phase.store(phase as u8, Ordering::Relaxed);
    }

    pub(crate) fn callers(&self) -> u16 {
        self.count
    }

    pub(crate) fn answered(&self) -> u64 {
        self.shared.answered.load(Ordering::Relaxed)
    }

    /// Ends with the first answer past `before` of them.
    pub(crate) async fn answered_more_than(&self, before: u64) {
        while self.answered() <= before {
            sleep(Duration::from_millis(1)).await;
        }
    }

    /// Lets each caller end its call, and puts together what they measured.
    pub(crate) async fn finish(mut self) -> Result<Done, Error> {
        self.enter(Phase::After);
        self.shared.phase.store(STOP, Ordering::Relaxed);
        let mut merged = histograms()?;
        while let Some(caller) = self.callers.join_next().await {
            for (into, from) in merged.iter_mut().zip(caller??) {
                into.add(from)?;
            }
        }
        let mut lasted = self.lasted.into_iter();
        Ok(Done {
            shared: self.shared,
            phases: merged.map(|latencies| Measured {
                latencies,
                lasted: lasted.next().unwrap_or_default(),
            }),
        })
    }
}

impl Done {
    pub(crate) fn of(&self, phase: Phase) -> &Measured {
        &self.phases[phase as usize]
    }

    pub(crate) fn answered(&self) -> u64 {
        self.shared.answered.load(Ordering::Relaxed)
    }

    /// How many attempts ended with UNAVAILABLE and were made again.
    pub(crate) fn retried(&self) -> u64 {
        self.shared.retried.load(Ordering::Relaxed)
    }

    /// The longest time in which no caller at all was answered.
    pub(crate) fn gap(&self) -> Duration {
        Duration::from_micros(self.shared.gap.load(Ordering::Relaxed))
    }
}

/// In place of a phase: no further call.
const STOP: u8 = u8::MAX;

#[derive(Debug)]
struct Shared {
    phase: AtomicU8,
    answered: AtomicU64,
    retried: AtomicU64,
    began: Instant,
    /// When somebody was last answered, in microseconds since `began`.
    last: AtomicU64,
    gap: AtomicU64,
}

impl Shared {
    fn new() -> Self {
        Self {
            phase: AtomicU8::new(Phase::Before as u8),
            answered: AtomicU64::new(0),
            retried: AtomicU64::new(0),
            began: Instant::now(),
            last: AtomicU64::new(0),
            gap: AtomicU64::new(0),
        }
    }

    async fn call_on_and_on(
        self: Arc<Self>,
        mut client: EchoClient<Channel>,
    ) -> Result<[Histogram<u64>; 3], Error> {
        let mut latencies = histograms()?;
        let payload = Bytes::from(vec![42; SIZE]);
        // A call belongs to the phase in which it began.
        while let Some(histogram) = latencies.get_mut(self.phase.load(Ordering::Relaxed) as usize) {
            let began = Instant::now();
            let answer = self.call(&mut client, &payload, began).await?;
            if answer != payload {
                return Err(
                    format!("{SIZE} bytes were sent and {} came back", answer.len()).into(),
                );
            }
            histogram.record(micros(began.elapsed()))?;
            self.note_answer();
        }
        Ok(latencies)
    }

    /// One call, with as many attempts as it takes. An echo may be made twice; only for such calls is this loop right.
    async fn call(
        &self,
        client: &mut EchoClient<Channel>,
        payload: &Bytes,
        began: Instant,
    ) -> Result<Bytes, Status> {
        loop {
            let payload = payload.clone();
            match client.echo(EchoRequest { payload }).await {
                Ok(answer) => return Ok(answer.into_inner().payload),
                Err(status) if status.code() == Code::Unavailable && began.elapsed() < PATIENCE => {
                    self.retried.fetch_add(1, Ordering::Relaxed);
                    sleep(PAUSE).await;
                }
                Err(status) => return Err(status),
            }
        }
    }

    fn note_answer(&self) {
        self.answered.fetch_add(1, Ordering::Relaxed);
        let now = micros(self.began.elapsed());
        let last = self.last.fetch_max(now, Ordering::Relaxed);
        self.gap
            .fetch_max(now.saturating_sub(last), Ordering::Relaxed);
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// One per phase, from a microsecond to a minute with three digits.
fn histograms() -> Result<[Histogram<u64>; 3], Error> {
    let empty = Histogram::new_with_bounds(1, 60_000_000, 3)?;
    Ok(Phase::ALL.map(|_| empty.clone()))
}

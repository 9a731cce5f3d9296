//! Calls at a steady pace, streams beside them, and what became of each.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval, timeout},
};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Status};
use tower_iroh::{
    Channel, TransportKind,
    layers::{Fault, select::Selected},
};
use tower_iroh_proto::echo::{EchoRequest, StreamRequest, echo_client::EchoClient};

/// How much goes on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    pub(crate) per_second: u32,
    pub(crate) deadline: Duration,
    pub(crate) streams: usize,
}

/// What has happened so far.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    pub(crate) answered: u64,
    /// Over iroh, over TCP.
    by_arm: [u64; 2],
    /// What each answer took, in microseconds, since it was asked last.
    pub(crate) took: Vec<u64>,
    pub(crate) failed: u64,
    /// Of those: provably not begun by the server.
    pub(crate) failed_unsent: u64,
    pub(crate) codes: Vec<(Code, u64)>,
    /// Messages of streams.
    pub(crate) messages: u64,
    /// Streams that ended before their time, and were opened again.
    pub(crate) reopened: u64,
}

/// Calls and streams that go on until they are stopped.
pub(crate) struct Traffic {
    shared: Arc<Mutex<Tally>>,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Traffic {
    pub(crate) fn start(channel: Channel, pace: Pace) -> Self {
        let (shared, stop) = (Arc::<Mutex<Tally>>::default(), CancellationToken::new());
        let mut tasks = JoinSet::new();
        let client = EchoClient::new(channel);
        tasks.spawn(calls(client.clone(), pace, shared.clone(), stop.clone()));
        for _ in 0..pace.streams {
            let streams = streams(client.clone(), shared.clone());
            let stop = stop.clone();
            tasks.spawn(async move {
                stop.run_until_cancelled(streams).await;
            });
        }
        Self {
            shared,
            stop,
            tasks,
        }
    }

    pub(crate) fn tally(&self) -> Tally {
        let tally = lock(&self.shared);
        Tally {
            took: Vec::new(),
            ..tally.clone()
        }
    }

    /// With the times since it was taken last.
    pub(crate) fn take(&self) -> Tally {
        let mut tally = lock(&self.shared);
        let took = std::mem::take(&mut tally.took);
        Tally {
            took,
            ..tally.clone()
        }
    }

    /// Makes no further call, and waits for those that were made.
    pub(crate) async fn stop(mut self) -> Tally {
        self.stop.cancel();
        while self.tasks.join_next().await.is_some() {}
        self.take()
    }
}

impl Tally {
    pub(crate) fn over(&self, arm: TransportKind) -> u64 {
        self.by_arm[arm as usize]
    }

    fn fail(&mut self, status: &Status) {
        self.failed += 1;
        if Fault::find(status).is_some_and(|fault| fault.not_processed()) {
            self.failed_unsent += 1;
        }
        match self
            .codes
            .iter_mut()
            .find(|(code, _)| *code == status.code())
        {
            Some((_, count)) => *count += 1,
            None => self.codes.push((status.code(), 1)),
        }
    }
}

fn lock(tally: &Mutex<Tally>) -> MutexGuard<'_, Tally> {
    tally.lock().unwrap_or_else(PoisonError::into_inner)
}

async fn calls(
    client: EchoClient<Channel>,
    pace: Pace,
    tally: Arc<Mutex<Tally>>,
    stop: CancellationToken,
) {
    let mut ticks = interval(Duration::from_secs(1) / pace.per_second);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Burst);
    let mut open = JoinSet::new();
    for number in 0_u64.. {
        if stop.run_until_cancelled(ticks.tick()).await.is_none() {
            break;
        }
        while open.try_join_next().is_some() {}
        let (mut client, tally) = (client.clone(), tally.clone());
        open.spawn(async move {
            let mut request = Request::new(EchoRequest {
                payload: number.to_be_bytes().to_vec().into(),
            });
            request.set_timeout(pace.deadline);
            let began = Instant::now();
            let answer = client.echo(request).await;
            let mut tally = lock(&tally);
            match answer {
                Ok(answer) => {
                    tally.answered += 1;
                    tally.took.push(began.elapsed().as_micros() as u64);
                    if let Some(selected) = answer.extensions().get::<Selected>() {
                        tally.by_arm[selected.arm as usize] += 1;
                    }
                }
                Err(status) => tally.fail(&status),
            }
        });
    }
    open.join_all().await;
}

/// A stream of a message every 50 ms. One that is silent for a second is given up, as an application would that wants its messages.
async fn streams(mut client: EchoClient<Channel>, tally: Arc<Mutex<Tally>>) {
    const SILENCE: Duration = Duration::from_secs(1);
    loop {
        let wanted = StreamRequest {
            count: u32::MAX,
            size: 64,
            interval_ms: 50,
        };
        if let Ok(Ok(answer)) = timeout(SILENCE, client.server_stream(wanted)).await {
            let mut messages = answer.into_inner();
            while let Ok(Ok(Some(_))) = timeout(SILENCE, messages.message()).await {
                lock(&tally).messages += 1;
            }
        }
        lock(&tally).reopened += 1;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

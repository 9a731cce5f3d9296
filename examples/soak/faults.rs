//! What goes wrong, at random: one worker per host, and one for guests.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use rand::{RngExt as _, SeedableRng as _, rngs::SmallRng};
use tokio::time::{Instant, sleep};
use tower_iroh::Links;

use crate::{
    Error,
    calls::Wish,
    clients::{Arm, Client},
    ledger::Ledger,
    udp_way::Weather,
    world::Host,
};

/// So many of the last faults are told where the run fails.
const TOLD: usize = 30;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Fault {
    /// A server is gone without a goodbye, and comes back on another port.
    Kill,
    /// A server shuts down gracefully, and comes back on another port.
    Drain,
    /// A client closes its connection.
    Close,
    /// Nothing passes the way for a while.
    Cut,
    /// Packets get lost on it.
    Loss,
    /// Packets take longer.
    Delay,
    /// A client with an endpoint of its own comes, calls and goes.
    Guest,
}

/// The faults so far.
#[derive(Debug)]
pub(crate) struct Log {
    began: Instant,
    counts: Mutex<BTreeMap<Fault, u64>>,
    last: Mutex<VecDeque<String>>,
}

impl Log {
    pub(crate) fn new() -> Self {
        Self {
            began: Instant::now(),
            counts: Mutex::default(),
            last: Mutex::default(),
        }
    }

    fn note(&self, fault: Fault, what: String) {
        *locked(&self.counts).entry(fault).or_default() += 1;
        let mut last = locked(&self.last);
        if last.len() == TOLD {
            last.pop_front();
        }
        let at = self.began.elapsed().as_secs_f64();
        last.push_back(format!("{at:8.2} s  {fault:?} {what}"));
    }

    pub(crate) fn counts(&self) -> BTreeMap<Fault, u64> {
        locked(&self.counts).clone()
    }

    pub(crate) fn last(&self) -> Vec<String> {
        locked(&self.last).iter().cloned().collect()
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Whether it is told to stop before that time is over.
async fn stopped_within(calm: Duration, stop: &mut tokio::sync::watch::Receiver<bool>) -> bool {
    let stopped = stop.wait_for(|stop| *stop);
    tokio::time::timeout(calm, stopped).await.is_ok()
}

/// Troubles one host until it is told to stop, and leaves it running and well.
pub(crate) async fn trouble(
    host: Arc<Host>,
    clients: Vec<Links>,
    log: Arc<Log>,
    seed: u64,
    mut stop: tokio::sync::watch::Receiver<bool>,
) -> Result<(), Error> {
    let mut rng = SmallRng::seed_from_u64(seed);
    loop {
        let calm = Duration::from_millis(rng.random_range(200..2500));
        if stopped_within(calm, &mut stop).await {
            return Ok(());
        }
        let while_ = Duration::from_millis(rng.random_range(50..2500));
        let name = &host.name;
        match (rng.random_range(0..10), &host.way) {
            (0..2, _) => {
                log.note(Fault::Kill, format!("{name}, back after {while_:?}"));
                host.kill();
                sleep(while_).await;
                host.restart(&clients).await?;
            }
            (2..4, _) => {
                log.note(Fault::Drain, format!("{name}, back after {while_:?}"));
                host.drain().await?;
                sleep(while_).await;
                host.restart(&clients).await?;
            }
            (4..8, Some(way)) => {
                let (fault, weather) = weather(&mut rng);
                log.note(fault, format!("{name}, {weather:?} for {while_:?}"));
                way.set(weather);
                sleep(while_).await;
                way.set(Weather::default());
            }
            _ => {
                let client = rng.random_range(0..clients.len());
                log.note(Fault::Close, format!("{name}, by client {client}"));
                if let Some(links) = clients.get(client) {
                    links.close(host.peer().id());
                }
            }
        }
    }
}

fn weather(rng: &mut SmallRng) -> (Fault, Weather) {
    let fine = Weather::default();
    match rng.random_range(0..3) {
        0 => (Fault::Cut, Weather { cut: true, ..fine }),
        1 => {
            let loss = f64::from(rng.random_range(1..25)) / 100.0;
            (Fault::Loss, Weather { loss, ..fine })
        }
        _ => {
            let delay = Duration::from_millis(rng.random_range(1..60));
            (Fault::Delay, Weather { delay, ..fine })
        }
    }
}

/// Clients that come, make a few calls and go again.
pub(crate) async fn guests(
    hosts: Vec<Arc<Host>>,
    ledger: Arc<Ledger>,
    log: Arc<Log>,
    seed: u64,
    mut stop: tokio::sync::watch::Receiver<bool>,
) -> Result<(), Error> {
    let mut rng = SmallRng::seed_from_u64(seed);
    loop {
        let calm = Duration::from_millis(rng.random_range(500..3000));
        if stopped_within(calm, &mut stop).await {
            return Ok(());
        }
        let calls = rng.random_range(0..6);
        log.note(Fault::Guest, format!("makes {calls} calls"));
        let guest = Client::new(&hosts).await?;
        for _ in 0..calls {
            let host = rng.random_range(0..hosts.len());
            let arm = Arm::ALL[rng.random_range(0..Arm::ALL.len())];
            if let Some(channel) = guest.channel(host, arm) {
                Wish::draw(&mut rng).make(&ledger, channel, arm).await;
            }
        }
        guest.close().await;
    }
}

//! The honest callers: ten over each transport, of whom two make a new connection for every call.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use hdrhistogram::Histogram;
use iroh::Endpoint;
use tokio::{
    task::JoinSet,
    time::{Instant, MissedTickBehavior, interval_at, sleep},
};
use tonic::{Request, Status};
use tower_iroh::{Channel, Peer, TransportKind, presets::Offline};
use tower_iroh_proto::echo::{EchoRequest, echo_client::EchoClient};

use crate::{Error, keys};

/// How many of the ten callers of a transport make a new connection for every call.
const NEWCOMERS: u8 = 2;
/// Between two calls of a caller that keeps its connection: 16 of them make 196 calls a second.
const PACE: Duration = Duration::from_micros(81_632);
/// Between two calls of a newcomer: four of them make 4 a second.
const NEW_PACE: Duration = Duration::from_secs(1);
/// A call that takes longer has failed.
const DEADLINE: Duration = Duration::from_secs(5);

/// What became of the calls of one phase.
#[derive(Debug)]
pub(crate) struct Tally {
    /// Microseconds from when a call was due to its answer.
    pub(crate) calls: Histogram<u64>,
    /// The same for newcomers, connection included.
    pub(crate) newcomers: Histogram<u64>,
    pub(crate) failed: u64,
    /// Why, and how often.
    pub(crate) reasons: BTreeMap<String, u64>,
}

impl Default for Tally {
    fn default() -> Self {
        // One microsecond to a minute with three digits is always valid.
        let histogram = || {
            Histogram::new_with_bounds(1, 60_000_000, 3)
                .unwrap_or_else(|error| unreachable!("{error}"))
        };
        Self {
            calls: histogram(),
            newcomers: histogram(),
            failed: 0,
            reasons: BTreeMap::new(),
        }
    }
}

impl Tally {
    /// A quantile of the calls on connections that are kept.
    pub(crate) fn quantile(&self, at: f64) -> Duration {
        Duration::from_micros(self.calls.value_at_quantile(at))
    }

    /// The slowest newcomer.
    pub(crate) fn worst_newcomer(&self) -> Duration {
        Duration::from_micros(self.newcomers.max())
    }

    pub(crate) fn add(&mut self, other: &Self) -> Result<(), Error> {
        self.calls.add(&other.calls)?;
        self.newcomers.add(&other.newcomers)?;
        self.failed += other.failed;
        for (reason, count) in &other.reasons {
            *self.reasons.entry(reason.clone()).or_default() += count;
        }
        Ok(())
    }
}

type Phase = Arc<Mutex<Tally>>;

/// The callers, as long as it lives.
pub(crate) struct Callers {
    phase: Arc<Mutex<Phase>>,
    callers: JoinSet<()>,
}

/// One of the callers.
#[derive(Clone)]
struct Caller {
    number: u8,
    over: TransportKind,
    peer: Peer,
}

impl Callers {
    /// Starts them all. Each has been answered once when this returns.
    pub(crate) async fn start(peer: &Peer) -> Result<Self, Error> {
        let phase = Arc::<Mutex<Phase>>::default();
        let mut callers = JoinSet::new();
        for number in 0..2 * keys::CALLERS {
            let over = match number < keys::CALLERS {
                true => TransportKind::Iroh,
                false => TransportKind::Tcp,
            };
            let caller = Caller {
                number,
                over,
                peer: peer.clone(),
            };
            caller.anew().await?;
            let phase = phase.clone();
            // Not all at one moment.
            let begin = Instant::now() + Duration::from_millis(u64::from(number) * 4);
            if number % keys::CALLERS < NEWCOMERS {
                callers.spawn(newcomer(caller, phase, begin));
            } else {
                let (endpoint, channel) = caller.connect().await?;
                callers.spawn(regular(endpoint, channel, phase, begin));
            }
        }
        Ok(Self { phase, callers })
    }

    /// What became of the calls that were due since the last time. Waits until all of them have ended.
    pub(crate) async fn next_phase(&mut self) -> Result<Tally, Error> {
        let ended = std::mem::take(&mut *lock(&self.phase));
        // Each call in flight has a clone; a deadline bounds the wait.
        while Arc::strong_count(&ended) > 1 {
            sleep(Duration::from_millis(5)).await;
        }
        if let Some(ended) = self.callers.try_join_next() {
            return Err(format!("a caller ended: {ended:?}").into());
        }
        Ok(std::mem::take(&mut *lock(&ended)))
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Caller {
    /// A channel of its own, and its endpoint over iroh.
    async fn connect(&self) -> Result<(Option<Endpoint>, Channel), Error> {
        let key = keys::honest(self.number);
        match self.over {
            TransportKind::Iroh => {
                let endpoint = Endpoint::builder(Offline).secret_key(key).bind().await?;
                let channel = Channel::builder(endpoint.clone())
                    .peer(self.peer.clone())
                    .build()?;
                Ok((Some(endpoint), channel))
            }
            _ => Ok((None, Channel::tcp(key).peer(self.peer.clone()).build()?)),
        }
    }

    /// One call over a connection of its own.
    async fn anew(&self) -> Result<(), Error> {
        let (endpoint, channel) = self.connect().await?;
        let called = call(channel).await;
        if let Some(endpoint) = endpoint {
            // Not part of the call.
            tokio::spawn(async move { endpoint.close().await });
        }
        called
    }
}

async fn call(channel: Channel) -> Result<(), Error> {
    let mut request = Request::new(EchoRequest {
        payload: bytes::Bytes::from_static(&[7; 64]),
    });
    request.set_timeout(DEADLINE);
    let called = EchoClient::new(channel).echo(request).await;
    // Without the causes, so that the same reasons are counted together.
    let short = |status: Status| format!("{:?}, {}", status.code(), status.message()).into();
    called.map(drop).map_err(short)
}

async fn regular(
    endpoint: Option<Endpoint>,
    channel: Channel,
    phase: Arc<Mutex<Phase>>,
    begin: Instant,
) {
    let channel = &channel;
    each(begin, PACE, &phase, |due, phase| {
        let channel = channel.clone();
        tokio::spawn(async move {
            note(&phase, due, call(channel).await, false);
        });
    })
    .await;
    drop(endpoint);
}

async fn newcomer(caller: Caller, phase: Arc<Mutex<Phase>>, begin: Instant) {
    each(begin, NEW_PACE, &phase, |due, phase| {
        let caller = caller.clone();
        tokio::spawn(async move {
            let called = caller.anew().await;
            let over = caller.over;
            let called = called.map_err(|error| format!("newcomer over {over}: {error}").into());
            note(&phase, due, called, true);
        });
    })
    .await;
}

/// Calls `begin_call` for ever, when the next one is due.
async fn each(
    begin: Instant,
    pace: Duration,
    phase: &Mutex<Phase>,
    mut begin_call: impl FnMut(Instant, Phase),
) {
    let mut due = interval_at(begin, pace);
    due.set_missed_tick_behavior(MissedTickBehavior::Burst);
    loop {
        let due = due.tick().await;
        let phase = lock(phase).clone();
        begin_call(due, phase);
    }
}

fn note(phase: &Mutex<Tally>, due: Instant, called: Result<(), Error>, is_new: bool) {
    let micros = u64::try_from(due.elapsed().as_micros()).unwrap_or(u64::MAX);
    let mut tally = lock(phase);
    let times = match is_new {
        true => &mut tally.newcomers,
        false => &mut tally.calls,
    };
    times.saturating_record(micros.max(1));
    if let Err(error) = called {
        tally.failed += 1;
        *tally.reasons.entry(error.to_string()).or_default() += 1;
    }
}

//! The lanes of one connection: permits and a row of streams each.

use std::{
    pin::pin,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use futures_util::{FutureExt, future::BoxFuture};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tower_iroh_layers::Urgency;

use super::{
    Http2, Lanes,
    header_list::HeaderListLimit,
    permits::{NoPermit, Permit, Permits},
    stream::{Slot, Stream},
};
use crate::{
    error::{Error, ErrorKind},
    pool::{Refusals, Runtime},
};

/// Opens a lane's streams.
pub(crate) trait Opener: Send + Sync + 'static {
    /// Opens a stream. The future is a task of the lane's: it bounds its own time, and does not keep the connection alive.
    fn open(self: &Arc<Self>, stream: NewStream) -> BoxFuture<'static, Result<Http2, Error>>;
}

/// A stream to be opened.
#[derive(Debug)]
pub(crate) struct NewStream {
    pub(crate) urgency: Urgency,
    pub(super) limit: StreamLimit,
    pub(super) header_list: HeaderListLimit,
    /// The peer has refused a stream before, so it is to [confirm](Http2::confirmed) this one before calls go on it.
    pub(crate) confirm: bool,
}

/// How a stream's HTTP/2 connection says how many calls its peer takes on it.
#[derive(Clone, Debug)]
pub(crate) struct StreamLimit {
    permits: Permits,
    stream: usize,
}

/// What h2 has for the peer's limit until the peer's SETTINGS have come, which it does not tell otherwise. Where they name no limit it has `usize::MAX`.
pub(super) const UNTOLD: usize = usize::MAX - 1;

impl StreamLimit {
    /// `calls` is what h2 has for the peer's limit.
    pub(super) fn set(&self, calls: impl FnOnce() -> usize) {
        let told = || Some(calls()).filter(|calls| *calls != UNTOLD);
        self.permits.limit(self.stream, told);
    }
}

/// Shuts the lanes of one connection. Clones share, and do not keep the lanes' streams.
#[derive(Clone, Debug)]
pub(crate) struct Gate {
    inner: Arc<GateInner>,
}

#[derive(Debug)]
struct GateInner {
    is_closed: AtomicBool,
    /// The peer has refused a stream.
    refused: AtomicBool,
    closed: CancellationToken,
    permits: Vec<Permits>,
}

impl Gate {
    /// No further call is let in, and the calls that wait are told so at once. The calls on the streams go on.
    pub(crate) fn close(&self) {
        // First, so that a call that was turned away does not find the connection usable.
        self.inner.is_closed.store(true, Ordering::Release);
        for permits in &self.inner.permits {
            permits.close();
        }
        self.inner.closed.cancel();
    }

    pub(crate) fn is_closed(&self) -> bool {
        self.inner.is_closed.load(Ordering::Acquire)
    }

    /// Closes it when the guard is dropped.
    pub(crate) fn close_on_drop(self) -> GateGuard {
        GateGuard(self)
    }
}

/// See [`Gate::close_on_drop`].
#[derive(Debug)]
pub(crate) struct GateGuard(Gate);

impl Drop for GateGuard {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// Why a call has no stream.
#[derive(Debug)]
pub(crate) enum NoStream {
    /// The connection takes no further call; another one may.
    Closed,
    /// This stream could not be opened; the lane has another one, for which the call may wait.
    Paused(Error),
    Failed(Error),
}

impl From<NoPermit> for NoStream {
    fn from(why: NoPermit) -> Self {
        match why {
            NoPermit::Closed => Self::Closed,
            NoPermit::QueueFull => Self::Failed(Error::new(
                ErrorKind::Exhausted,
                "the lane is full, and its queue is full as well: raise LaneConfig::max_waiting or make fewer calls at once",
            )),
        }
    }
}

impl From<NoStream> for Error {
    fn from(why: NoStream) -> Self {
        match why {
            NoStream::Closed => Self::new(
                ErrorKind::Lost,
                "the connection takes no further call: it was retired or lost",
            ),
            NoStream::Paused(error) | NoStream::Failed(error) => error,
        }
    }
}

/// The lanes of one connection.
#[derive(Debug)]
pub(crate) struct LaneSet {
    config: Lanes,
    lanes: Vec<Arc<Lane>>,
    gate: Gate,
    /// Whether lanes that spread their calls do so.
    spreads: AtomicBool,
}

#[derive(Debug)]
struct Lane {
    permits: Permits,
    slots: Box<[Slot]>,
    spread: bool,
    urgency: Urgency,
    header_list: HeaderListLimit,
    gate: Gate,
    long_waits: Refusals,
    runtime: Runtime,
}

/// How long a call waits for a permit before the log says so.
const LONG_WAIT: Duration = Duration::from_secs(1);
const LONG_WAITS: &str = "permit";

impl LaneSet {
    /// Lanes as configured; the configuration has been validated. Their streams live on `runtime`.
    pub(crate) fn new(config: Lanes, runtime: Runtime) -> Self {
        let permits: Vec<_> = config
            .lanes
            .iter()
            .map(|lane| {
                let (fill, most) = (lane.fill, lane.calls_per_stream);
                Permits::new(lane.max_streams, fill, most, lane.max_waiting)
            })
            .collect();
        let gate = Gate {
            inner: Arc::new(GateInner {
                is_closed: AtomicBool::new(false),
                refused: AtomicBool::new(false),
                closed: CancellationToken::new(),
                permits: permits.clone(),
            }),
        };
        let lanes = config.lanes.iter().zip(permits).map(|(lane, permits)| {
            Arc::new(Lane {
                permits,
                slots: (0..lane.max_streams).map(|_| Slot::new()).collect(),
                spread: lane.spread,
                urgency: middle(lane.urgencies.clone()),
                header_list: HeaderListLimit(config.max_header_list_size),
                gate: gate.clone(),
                long_waits: Refusals::new("tower_iroh_client_lane_waits_total"),
                runtime: runtime.clone(),
            })
        });
        Self {
            lanes: lanes.collect(),
            config,
            gate,
            spreads: AtomicBool::new(false),
        }
    }

    /// What shuts these lanes.
    pub(crate) fn gate(&self) -> &Gate {
        &self.gate
    }

    /// Forgets all streams: the next call on each opens another.
    pub(crate) fn renew(&self) {
        for slot in self.lanes.iter().flat_map(|lane| lane.slots.iter()) {
            slot.renew();
        }
    }

    /// Whether lanes that are meant to use all of their streams at once do, from the next call on.
    pub(crate) fn spread(&self, spread: bool) {
        if self.spreads.swap(spread, Ordering::Relaxed) != spread {
            for lane in self.lanes.iter().filter(|lane| lane.spread) {
                lane.permits.spread(spread);
            }
        }
    }

    /// Whether the lane of such urgency has its small writes copied.
    pub(crate) fn copies(&self, urgency: Urgency) -> bool {
        self.config.lanes[self.config.index(urgency, None)].copies
    }

    /// Opens the first stream of the lane that calls take which say nothing, for a peer that does not wait for the first call.
    pub(crate) fn warm(&self, opener: &Arc<impl Opener>) {
        let lane = self.config.index(Urgency::default(), None);
        // A failure is for the first call to be told.
        let _ = self.lanes[lane].stream(0, opener);
    }

    /// How many calls wait for a permit, of all lanes.
    pub(crate) fn waiting(&self) -> usize {
        self.lanes.iter().map(|lane| lane.permits.waiting()).sum()
    }

    /// Takes a permit of the lane for such a call, waiting by urgency where it is full.
    ///
    /// # Errors
    /// [`ErrorKind::Exhausted`] when too many calls wait already.
    pub(crate) async fn acquire(
        &self,
        urgency: Urgency,
        message_len: Option<u32>,
    ) -> Result<LanePermit, NoStream> {
        let lane = &self.lanes[self.config.index(urgency, message_len)];
        let permit = match lane.permits.acquire(urgency).now_or_never() {
            Some(permit) => permit?,
            // Boxed, to keep the future of other calls small.
            None => Box::pin(lane.wait(urgency)).await?,
        };
        Ok(LanePermit {
            permit,
            lane: lane.clone(),
        })
    }
}

impl Lane {
    /// Waits for a permit, and says so if that takes long.
    async fn wait(&self, urgency: Urgency) -> Result<Permit, NoPermit> {
        let mut permit = pin!(self.permits.acquire(urgency));
        if let Ok(permit) = timeout(LONG_WAIT, permit.as_mut()).await {
            return permit;
        }
        let name = self.urgency.to_string();
        self.long_waits.add(LONG_WAITS, |suppressed| {
            tracing::warn!(
                lane = name, waiting = self.permits.waiting(), suppressed,
                "calls wait for a permit of their lane: it has as many as LaneConfig::calls_per_stream and the server's MAX_CONCURRENT_STREAMS allow"
            );
        });
        permit.await
    }

    fn stream(&self, stream: usize, opener: &Arc<impl Opener>) -> Result<Stream, Error> {
        self.slots[stream].get(&self.runtime, || {
            opener.open(NewStream {
                urgency: self.urgency,
                header_list: self.header_list,
                limit: StreamLimit {
                    permits: self.permits.clone(),
                    stream,
                },
                confirm: self.gate.inner.refused.load(Ordering::Relaxed),
            })
        })
    }

    /// What the failure of a stream means for the calls that were to go on it. Where another stream of the lane is open, calls wait for that one
    /// until the next opening is due: a lane that works is full, and has not failed.
    fn failed(&self, stream: usize, error: Error) -> NoStream {
        let mut others = self.slots.iter().enumerate();
        let has_other = others.any(|(index, slot)| index != stream && slot.is_open());
        let pause = || self.permits.pause(stream);
        if has_other && self.slots[stream].pause(&self.runtime, pause) {
            return NoStream::Paused(error);
        }
        NoStream::Failed(error)
    }
}

/// The middle of a lane's urgencies stands for all of them on the wire.
fn middle(urgencies: std::ops::RangeInclusive<u8>) -> Urgency {
    let middle = (urgencies.start() + urgencies.end()).div_ceil(2);
    Urgency::new(middle).unwrap_or_default()
}

/// A call's place in a lane and on one of its streams; dropping it gives both up.
#[derive(Debug)]
pub(crate) struct LanePermit {
    permit: Permit,
    lane: Arc<Lane>,
}

impl LanePermit {
    fn slot(&self) -> &Slot {
        &self.lane.slots[self.permit.stream()]
    }

    /// The HTTP/2 connection that the call goes on, where it is open already.
    pub(crate) fn open(&self) -> Option<Arc<Http2>> {
        self.slot().open()
    }

    /// The HTTP/2 connection that the call goes on, opened by a task of the lane's where it is not. Cancel safe: the opening goes on without its callers.
    pub(crate) async fn http2(&self, opener: &Arc<impl Opener>) -> Result<Arc<Http2>, NoStream> {
        loop {
            if let Some(open) = self.open() {
                return Ok(open);
            }
            if self.lane.gate.is_closed() {
                return Err(NoStream::Closed);
            }
            let index = self.permit.stream();
            let failed = |error| self.lane.failed(index, error);
            let mut outcome = match self.lane.stream(index, opener).map_err(failed)? {
                Stream::Open(open) => return Ok(open),
                Stream::Opening(outcome) => outcome,
            };
            let opened = async {
                let outcome = outcome.wait_for(Option::is_some).await.ok()?;
                outcome.as_ref().map(|(result, _)| result.clone())
            };
            let opened = tokio::select! {
                biased;
                opened = opened => opened,
                () = self.lane.gate.inner.closed.cancelled() => return Err(NoStream::Closed),
            };
            match opened {
                Some(result) => return result.map_err(failed),
                // Its runtime is ending; what is left of it may take a moment.
                None => tokio::task::yield_now().await,
            }
        }
    }

    /// Says that `ended` takes no more calls, so that the next one opens a new stream.
    pub(crate) fn replace(&self, ended: &Arc<Http2>) {
        if self.slot().replace(ended) {
            self.lane.gate.inner.refused.store(true, Ordering::Relaxed);
        }
    }
}

#[cfg(test)]
mod tests;

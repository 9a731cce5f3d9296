//! The lanes of one connection: a room and a row of streams each.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use tokio::sync::OnceCell;
use tower_iroh_layers::Urgency;

use super::{
    Http2, Lanes,
    permits::{Permit, Permits},
};
use crate::{
    error::{Error, ErrorKind},
    lock::lock,
    pool::Runtime,
};

/// Who opens a lane's streams.
pub(crate) trait Opener: Send + Sync {
    fn open(
        self: &Arc<Self>,
        urgency: Urgency,
    ) -> impl Future<Output = Result<Http2, Error>> + Send;
}

/// The lanes of one connection.
#[derive(Debug)]
pub(crate) struct LaneSet {
    config: Lanes,
    lanes: Vec<Lane>,
    /// Whether lanes that spread their calls do so.
    spreads: AtomicBool,
    _runtime: Runtime,
}

#[derive(Debug)]
struct Lane {
    permits: Permits,
    streams: Arc<[Slot]>,
    calls_per_stream: usize,
    spread: bool,
    urgency: Urgency,
}

/// A stream of a lane, opened when it is needed first.
#[derive(Debug, Default)]
struct Slot {
    calls: AtomicUsize,
    /// Replaced when the stream in it has ended.
    stream: Mutex<Arc<OnceCell<Arc<Http2>>>>,
}

impl LaneSet {
    /// Lanes as configured; the configuration has been validated.
    pub(crate) fn new(config: Lanes, runtime: Runtime) -> Self {
        let lanes = config
            .lanes
            .iter()
            .map(|lane| Lane {
                permits: Permits::new(
                    lane.max_streams.saturating_mul(lane.calls_per_stream),
                    lane.max_waiting,
                ),
                streams: (0..lane.max_streams).map(|_| Slot::default()).collect(),
                calls_per_stream: lane.calls_per_stream,
                spread: lane.spread,
                urgency: middle(lane.urgencies.clone()),
            })
            .collect();
        Self {
            config,
            lanes,
            spreads: AtomicBool::new(false),
            _runtime: runtime,
        }
    }

    /// Forgets all streams: the next call on each opens another.
    pub(crate) fn renew(&self) {
        for slot in self.lanes.iter().flat_map(|lane| lane.streams.iter()) {
            *slot.lock() = Arc::default();
        }
    }

    /// Whether lanes that are meant to use all of their streams at once do, from the next call on.
    pub(crate) fn spread(&self, spread: bool) {
        self.spreads.store(spread, Ordering::Relaxed);
    }

    /// Whether the lane of such urgency has its small writes copied.
    pub(crate) fn copies(&self, urgency: Urgency) -> bool {
        self.config.lanes[self.config.index(urgency, None)].copies
    }

    /// Takes a place in the lane for such a call, waiting by urgency where it is full.
    ///
    /// # Errors
    /// [`ErrorKind::Exhausted`] when too many wait already.
    pub(crate) async fn acquire(
        &self,
        urgency: Urgency,
        message_len: Option<u32>,
    ) -> Result<LanePermit, Error> {
        let lane = &self.lanes[self.config.index(urgency, message_len)];
        let Ok(permit) = lane.permits.acquire(urgency).await else {
            return Err(Error::new(
                ErrorKind::Exhausted,
                "the lane is full and as many calls wait for it as may",
            ));
        };
        let Some(index) = lane.sit(self.spreads.load(Ordering::Relaxed)) else {
            return Err(Error::new(
                ErrorKind::Internal,
                "a lane gave out more places than it has",
            ));
        };
        Ok(LanePermit {
            stream: StreamPermit {
                streams: lane.streams.clone(),
                index,
            },
            urgency: lane.urgency,
            _permit: permit,
        })
    }
}

impl Lane {
    /// Takes room on a stream; which one. There are as many places in the lane as its streams have room for together.
    fn sit(&self, spreads: bool) -> Option<usize> {
        let take = |slot: &Slot, most| {
            slot.calls
                .fetch_update(Ordering::AcqRel, Ordering::Acquire, |calls| {
                    (calls < most).then_some(calls + 1)
                })
                .is_ok()
        };
        if spreads && self.spread {
            // One with the fewest calls. Who is overtaken here takes any.
            let calls = self
                .streams
                .iter()
                .map(|slot| slot.calls.load(Ordering::Acquire));
            let most = calls.min()?.saturating_add(1).min(self.calls_per_stream);
            if let Some(index) = self.streams.iter().position(|slot| take(slot, most)) {
                return Some(index);
            }
        }
        // The first with room, so that a second is opened only when the first is full, and few calls share the packets of few.
        let mut streams = self.streams.iter();
        streams.position(|slot| take(slot, self.calls_per_stream))
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
    // Before the place: whoever gets the place next must find room on a stream.
    stream: StreamPermit,
    urgency: Urgency,
    _permit: Permit,
}

#[derive(Debug)]
struct StreamPermit {
    streams: Arc<[Slot]>,
    index: usize,
}

impl Drop for StreamPermit {
    fn drop(&mut self) {
        self.streams[self.index]
            .calls
            .fetch_sub(1, Ordering::AcqRel);
    }
}

impl LanePermit {
    fn slot(&self) -> &Slot {
        &self.stream.streams[self.stream.index]
    }

    /// The HTTP/2 connection that the call goes on, opened by whoever needs it first. Cancel safe: the next who needs
    /// it goes on.
    pub(crate) async fn http2(&self, opener: &Arc<impl Opener>) -> Result<Arc<Http2>, Error> {
        let cell = self.slot().lock().clone();
        if let Some(open) = cell.get() {
            return Ok(open.clone());
        }
        let opening =
            cell.get_or_try_init(|| async { opener.open(self.urgency).await.map(Arc::new) });
        opening.await.cloned()
    }

    /// Says that `ended` takes no more calls, so that the next one opens a new stream.
    pub(crate) fn replace(&self, ended: &Arc<Http2>) {
        let mut cell = self.slot().lock();
        if cell.get().is_some_and(|open| Arc::ptr_eq(open, ended)) {
            *cell = Arc::default();
        }
    }
}

impl Slot {
    fn lock(&self) -> std::sync::MutexGuard<'_, Arc<OnceCell<Arc<Http2>>>> {
        lock(&self.stream)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http2::{Explain, LaneConfig};

    /// Knows nothing of what is beneath.
    #[derive(Debug)]
    struct Silent;

    impl Explain for Silent {
        fn explain(&self, error: h2::Error) -> Error {
            Error::from_h2(error, None)
        }

        fn is_refused(&self, _: &h2::Error) -> bool {
            false
        }
    }

    /// Counts how often it was asked; opens connections that nobody answers.
    #[derive(Default)]
    struct Counting(AtomicUsize);

    impl Opener for Counting {
        async fn open(self: &Arc<Self>, _: Urgency) -> Result<Http2, Error> {
            self.0.fetch_add(1, Ordering::SeqCst);
            tokio::task::yield_now().await;
            let (io, peer) = tokio::io::duplex(1024);
            // Kept so that the connection stays open.
            std::mem::forget(peer);
            Http2::handshake(io, Arc::new(Silent))
                .await
                .map_err(|error| Error::from_h2(error, None))
        }
    }

    fn lanes(streams: usize, calls: usize) -> LaneSet {
        let lane = LaneConfig::new(0..=7)
            .max_streams(streams)
            .calls_per_stream(calls);
        LaneSet::new(Lanes::new([lane]), Runtime::new(None))
    }

    #[tokio::test]
    async fn a_second_stream_opens_when_the_first_is_full_and_is_opened_once() {
        let lanes = lanes(2, 3);
        let opener = Arc::new(Counting::default());
        let mut tickets = Vec::new();
        for _ in 0..6 {
            tickets.push(lanes.acquire(Urgency::BULK, None).await.expect("a permit"));
        }
        let opened = tickets[..3].iter().map(|ticket| ticket.http2(&opener));
        let opened = futures_util::future::join_all(opened).await;
        assert_eq!(
            opener.0.load(Ordering::SeqCst),
            1,
            "three at once, one stream"
        );
        let second = tickets[3].http2(&opener).await.expect("open");
        assert!(!Arc::ptr_eq(opened[0].as_ref().expect("open"), &second));
        assert_eq!(opener.0.load(Ordering::SeqCst), 2);
        // A seventh waits until somebody leaves, and takes the room that became free.
        let mut seventh = tokio_test::task::spawn(lanes.acquire(Urgency::HIGHEST, None));
        tokio_test::assert_pending!(seventh.poll());
        tickets.remove(0);
        let seventh = tokio_test::assert_ready!(seventh.poll()).expect("a permit");
        let again = seventh.http2(&opener).await.expect("open");
        assert!(Arc::ptr_eq(opened[1].as_ref().expect("open"), &again));
    }

    #[tokio::test]
    async fn on_a_long_path_calls_are_spread_over_the_streams() {
        let lane = LaneConfig::new(0..=7).max_streams(3).calls_per_stream(2);
        let lanes = LaneSet::new(Lanes::new([lane.spread(true)]), Runtime::new(None));
        let acquire = async || lanes.acquire(Urgency::BULK, None).await.expect("a permit");
        let near = [acquire().await, acquire().await];
        assert_eq!(near.each_ref().map(|ticket| ticket.stream.index), [0, 0]);
        drop(near);
        lanes.spread(true);
        let mut far = Vec::new();
        for _ in 0..6 {
            far.push(acquire().await);
        }
        let seats: Vec<_> = far.iter().map(|ticket| ticket.stream.index).collect();
        assert_eq!(seats, [0, 1, 2, 0, 1, 2]);
        // And where there are fewest.
        far.remove(4);
        assert_eq!(acquire().await.stream.index, 1);
    }

    #[tokio::test]
    async fn an_ended_stream_is_replaced_once() {
        let lanes = lanes(1, 10);
        let opener = Arc::new(Counting::default());
        let one = lanes.acquire(Urgency::BULK, None).await.expect("a permit");
        let two = lanes.acquire(Urgency::BULK, None).await.expect("a permit");
        let ended = one.http2(&opener).await.expect("open");
        one.replace(&ended);
        let fresh = one.http2(&opener).await.expect("open");
        // Whoever noticed late does not throw the fresh one away.
        two.replace(&ended);
        assert!(Arc::ptr_eq(
            &fresh,
            &two.http2(&opener).await.expect("open")
        ));
        assert_eq!(opener.0.load(Ordering::SeqCst), 2);
    }

    #[tokio::test]
    async fn an_opening_that_is_dropped_leaves_the_next_to_open() {
        let lanes = lanes(1, 10);
        let opener = Arc::new(Counting::default());
        let ticket = lanes.acquire(Urgency::BULK, None).await.expect("a permit");
        {
            let mut dropped = tokio_test::task::spawn(ticket.http2(&opener));
            tokio_test::assert_pending!(dropped.poll());
        }
        ticket.http2(&opener).await.expect("open");
        assert_eq!(opener.0.load(Ordering::SeqCst), 2);
    }
}

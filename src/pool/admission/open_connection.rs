//! What a server knows of one open connection: whether it is in use, and whether it is to end.

use std::{
    fmt,
    sync::{
        Arc, Mutex, OnceLock, Weak,
        atomic::{AtomicBool, AtomicU8, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use futures_util::{future::BoxFuture, task::AtomicWaker};
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

use crate::lock::lock;

/// Set in the count of calls once no further call may begin.
const SHUT: usize = 1 << (usize::BITS - 1);

/// Shared by the admission, by the connection's owner, and by the observers of its lanes.
pub(crate) struct OpenConnection {
    began: Instant,
    /// Calls in flight, and [`SHUT`].
    calls: AtomicUsize,
    /// A lane has been opened, or a call has come.
    opened: AtomicBool,
    /// A call has come.
    called: AtomicBool,
    /// When the last call ended, in milliseconds since `began`.
    unused_since: AtomicU64,
    stage: AtomicU8,
    why: OnceLock<Why>,
    /// Cancelled in the last stage.
    shut: CancellationToken,
    /// Told when the last call in flight ends, once the connection is leaving.
    unused: Notify,
    lanes: Mutex<Vec<Weak<AtomicWaker>>>,
    probe: OnceLock<Box<Probe>>,
}

/// Asks the peer for a sign of life, and says whether one came.
pub(crate) type Probe = dyn Fn() -> BoxFuture<'static, bool> + Send + Sync;

/// How far a connection has come on its way to its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub(crate) enum Stage {
    /// Calls may begin.
    Open,
    /// The client is asked to begin no further call. Those that come are served.
    Leaving,
    /// No further call begins.
    Shut,
}

/// Why a server ends a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Why {
    /// No lane was opened in time, or over TCP no call came.
    Unused,
    /// No call was in flight for the idle time.
    Idle,
    /// Another connection needed its place, and no call was in flight.
    Evicted,
    /// Another connection of the peer needed its place, and on this one the peer gave no sign of life.
    Dead,
    /// The maximum age; every call was finished.
    Aged,
    /// The maximum age, and the grace after it. Calls were cut.
    AgeExpired,
}

impl Why {
    /// The label in metrics.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::Unused => "unused",
            Self::Idle => "idle",
            Self::Evicted => "evicted",
            Self::Dead => "dead",
            Self::Aged => "age",
            Self::AgeExpired => "age_expired",
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unused => "nothing began on the connection",
            Self::Idle => "the connection was idle",
            Self::Evicted => "the server is full, and the connection was not in use",
            Self::Dead => "the peer gave no sign of life",
            Self::Aged => "the connection was old",
            Self::AgeExpired => "the connection was old, and its grace ended before its calls",
        })
    }
}

impl OpenConnection {
    pub(crate) fn new(now: Instant) -> Arc<Self> {
        Arc::new(Self {
            began: now,
            calls: AtomicUsize::new(0),
            opened: AtomicBool::new(false),
            called: AtomicBool::new(false),
            unused_since: AtomicU64::new(0),
            stage: AtomicU8::new(Stage::Open as u8),
            why: OnceLock::new(),
            shut: CancellationToken::new(),
            unused: Notify::new(),
            lanes: Mutex::default(),
            probe: OnceLock::new(),
        })
    }

    /// A lane was opened.
    pub(crate) fn opened(&self) {
        self.opened.store(true, Ordering::Relaxed);
    }

    /// A call begins, unless the connection is shut.
    pub(crate) fn begin(&self) -> bool {
        if self.calls.fetch_add(1, Ordering::AcqRel) & SHUT != 0 {
            self.calls.fetch_sub(1, Ordering::AcqRel);
            return false;
        }
        // A store on each call would have the lanes' threads fight over the line.
        if !self.called.load(Ordering::Relaxed) {
            self.called.store(true, Ordering::Relaxed);
            self.opened();
        }
        true
    }

    /// So many calls have ended.
    pub(crate) fn end(&self, calls: usize, now: Instant) {
        if calls == 0 {
            return;
        }
        // Before the count falls: whoever sees no calls sees since when.
        let millis = now.saturating_duration_since(self.began).as_millis();
        let millis = u64::try_from(millis).unwrap_or(u64::MAX);
        self.unused_since.fetch_max(millis, Ordering::Relaxed);
        let left = (self.calls.fetch_sub(calls, Ordering::AcqRel) & !SHUT) - calls;
        if left == 0 && self.stage() == Stage::Leaving {
            self.unused.notify_one();
        }
    }

    pub(crate) fn calls(&self) -> usize {
        self.calls.load(Ordering::Acquire) & !SHUT
    }

    /// Whether somebody has ended the connection. The stage may follow a moment later.
    pub(super) fn begins_no_more(&self) -> bool {
        self.calls.load(Ordering::Acquire) & SHUT != 0
    }

    pub(super) fn has_opened(&self) -> bool {
        self.opened.load(Ordering::Relaxed)
    }

    pub(super) fn has_called(&self) -> bool {
        self.called.load(Ordering::Relaxed)
    }

    pub(super) fn began(&self) -> Instant {
        self.began
    }

    /// How long no call has been in flight, if none is.
    pub(super) fn unused_for(&self, now: Instant) -> Option<Duration> {
        (self.calls() == 0).then(|| {
            let since = Duration::from_millis(self.unused_since.load(Ordering::Relaxed));
            now.saturating_duration_since(self.began + since)
        })
    }

    pub(crate) fn stage(&self) -> Stage {
        match self.stage.load(Ordering::Acquire) {
            0 => Stage::Open,
            1 => Stage::Leaving,
            _ => Stage::Shut,
        }
    }

    /// Asks the client to begin no further call.
    pub(crate) fn leave(&self) {
        self.advance(Stage::Leaving);
        // The last call may have ended just before.
        self.unused.notify_one();
    }

    /// Ends the connection, unless a call is in flight: then nothing happens.
    pub(crate) fn shut_unused(&self, why: Why) -> bool {
        let shut = self
            .calls
            .compare_exchange(0, SHUT, Ordering::AcqRel, Ordering::Acquire)
            .is_ok();
        if shut {
            self.finish(why);
        }
        shut
    }

    /// Ends the connection, with its calls.
    pub(super) fn cut(&self, why: Why) {
        if self.calls.fetch_or(SHUT, Ordering::AcqRel) & SHUT == 0 {
            self.finish(why);
        }
    }

    fn finish(&self, why: Why) {
        let _ = self.why.set(why);
        self.advance(Stage::Shut);
        self.shut.cancel();
    }

    fn advance(&self, stage: Stage) {
        self.stage.fetch_max(stage as u8, Ordering::AcqRel);
        for waker in lock(&self.lanes).iter().filter_map(Weak::upgrade) {
            waker.wake();
        }
    }

    /// Wakes the lane's reader when the stage changes, for as long as the waker lives.
    pub(crate) fn woken(&self) -> Arc<AtomicWaker> {
        let waker = Arc::new(AtomicWaker::new());
        let mut lanes = lock(&self.lanes);
        lanes.retain(|lane| lane.strong_count() > 0);
        lanes.push(Arc::downgrade(&waker));
        waker
    }

    /// Waits until the connection is shut.
    pub(super) async fn is_shut(&self) -> Option<Why> {
        self.shut.cancelled().await;
        self.why.get().copied()
    }

    /// Resolves once no call is in flight, or a moment before one begins. The connection is leaving.
    pub(super) async fn is_unused(&self) {
        while self.calls() > 0 {
            self.unused.notified().await;
        }
    }

    /// Says how the peer can be asked for a sign of life.
    pub(crate) fn probed_by(&self, probe: Box<Probe>) {
        let _ = self.probe.set(probe);
    }

    /// Whether the peer gives a sign of life. One that cannot be asked is believed to live.
    pub(super) async fn answers(&self) -> bool {
        match self.probe.get() {
            Some(probe) => probe().await,
            None => true,
        }
    }
}

impl fmt::Debug for OpenConnection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("OpenConnection")
            .field("calls", &self.calls())
            .field("stage", &self.stage())
            .finish_non_exhaustive()
    }
}

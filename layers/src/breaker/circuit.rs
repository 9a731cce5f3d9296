use std::{
    fmt,
    future::Future,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError, Weak},
    task::{Context, Wake, Waker},
    time::Duration,
};

use tokio::{
    sync::watch,
    time::{Instant, Sleep, sleep_until},
};

use super::{
    Attempt, BreakerConfig, CircuitState, Statistics,
    core::{Core, Entry},
    gate::{Phase, Word},
};

type Rtt = Arc<dyn Fn() -> Option<Duration> + Send + Sync>;

/// What is known of the health of one peer over one transport, and the handle to it.
///
/// Clones share it; give one to each [`BreakerLayer`](super::BreakerLayer) that leads to the same peer, and keep it when a
/// connection is replaced.
#[derive(Clone)]
pub struct Circuit {
    shared: Arc<Shared>,
}

struct Shared {
    core: Core,
    rtt: Option<Rtt>,
    /// The one timer, while somebody waits for a time. Locked before the gate, never within it: a timer that is polled may call its waker.
    timer: Mutex<Option<Pin<Box<Sleep>>>>,
    alarm: Waker,
}

/// What the timer wakes. It does not keep the circuit.
struct Alarm(Weak<Shared>);

impl Wake for Alarm {
    fn wake(self: Arc<Self>) {
        if let Some(shared) = self.0.upgrade() {
            shared.core.wake_all();
        }
    }
}

impl Circuit {
    /// A closed circuit.
    pub fn new(config: BreakerConfig) -> Self {
        Self::builder(config).build()
    }

    /// A closed circuit with more than its rules.
    pub fn builder(config: BreakerConfig) -> CircuitBuilder {
        CircuitBuilder {
            config,
            rtt: None,
            transport: "any",
        }
    }

    /// What it lets through. An open circuit becomes half-open when somebody asks to pass.
    pub fn state(&self) -> CircuitState {
        self.shared.core.changes().borrow().clone()
    }

    /// Follows the state.
    pub fn watch(&self) -> watch::Receiver<CircuitState> {
        self.shared.core.changes().subscribe()
    }

    /// The state and the counts.
    pub fn statistics(&self) -> Statistics {
        self.shared.core.statistics(Instant::now())
    }

    /// Why it lets nothing through and when the next probe is due, as a sentence for an error or a log.
    pub fn why(&self) -> String {
        let now = Instant::now();
        match self.state() {
            CircuitState::Closed => "the circuit breaker is closed".into(),
            CircuitState::ForcedClosed => "the circuit breaker is forced closed".into(),
            CircuitState::ForcedOpen => {
                "the circuit breaker is forced open, until it is released by its handle".into()
            }
            CircuitState::HalfOpen { reason } => {
                format!("the circuit breaker waits for a probe's answer: {reason}")
            }
            CircuitState::Open { until, reason } => {
                let left = until.saturating_duration_since(now).as_secs_f64();
                format!(
                    "the circuit breaker is open: {reason}; the next probe is due in {left:.1} s"
                )
            }
        }
    }

    /// Lets nothing through until [`release`](Self::release).
    pub fn force_open(&self) {
        self.shared.core.force(true);
    }

    /// Lets everything through, and counts nothing, until [`release`](Self::release).
    pub fn force_closed(&self) {
        self.shared.core.force(false);
    }

    /// Ends a force: the circuit is closed and begins to count anew. Nothing happens where there is none.
    pub fn release(&self) {
        self.shared.core.release(Instant::now());
    }

    /// Closes it, whatever it was, and forgets its counts and how often it opened lately.
    pub fn reset(&self) {
        self.shared.core.reset(Instant::now());
    }

    /// Switches observing on or off: a circuit that only observes counts, and changes its state by its rules, but holds nobody.
    pub fn observe_only(&self, observe_only: bool) {
        self.shared.core.observe_only(observe_only);
    }

    /// Says that the way to the peer is there: a new connection, or a packet from it. A circuit that failures of the link opened lets a
    /// probe through at once; one that answers opened waits its time.
    pub fn sign_of_life(&self) {
        self.shared.core.sign_of_life();
    }

    /// One load where the circuit is closed.
    #[inline]
    pub(super) fn enter(&self) -> Option<Attempt> {
        let mut word = self.shared.core.word();
        if word.phase() != Phase::Closed {
            match self.shared.core.enter(Instant::now(), true, None) {
                Entry::Go(as_what) => word = as_what,
                Entry::Wait(_) => return None,
            }
        }
        Some(self.attempt(word))
    }

    #[inline]
    pub(super) fn attempt(&self, word: Word) -> Attempt {
        Attempt::new(self.clone(), word)
    }

    #[inline]
    pub(super) fn core(&self) -> &Core {
        &self.shared.core
    }

    pub(super) fn rtt(&self) -> Option<Duration> {
        self.shared.rtt.as_ref().and_then(|rtt| rtt())
    }

    /// Whether somebody other than `self` has it.
    pub(super) fn is_shared(&self) -> bool {
        Arc::strong_count(&self.shared) > 1
    }

    pub(super) fn is_idle(&self, now: Instant) -> bool {
        self.shared.core.is_idle(now)
    }

    pub(super) fn is_forced(&self) -> bool {
        self.shared.core.is_forced()
    }

    /// Makes the one timer fire at `until`. Returns whether it already has.
    pub(super) fn arm(&self, until: Instant) -> bool {
        let mut timer = self
            .shared
            .timer
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let sleep = timer.get_or_insert_with(|| Box::pin(sleep_until(until)));
        if sleep.deadline() != until {
            sleep.as_mut().reset(until);
        }
        let mut cx = Context::from_waker(&self.shared.alarm);
        sleep.as_mut().poll(&mut cx).is_ready()
    }

    pub(super) fn disarm(&self) {
        let mut timer = self
            .shared
            .timer
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        // Who came meanwhile needs it.
        if self.shared.core.nobody_waits() {
            *timer = None;
        }
    }
}

/// Makes a [`Circuit`].
#[must_use]
pub struct CircuitBuilder {
    config: BreakerConfig,
    rtt: Option<Rtt>,
    transport: &'static str,
}

impl CircuitBuilder {
    /// Asked for the smoothed round-trip time to the peer when a call has exceeded its deadline: less than four of them was no
    /// fair one.
    pub fn rtt(mut self, rtt: impl Fn() -> Option<Duration> + Send + Sync + 'static) -> Self {
        self.rtt = Some(Arc::new(rtt));
        self
    }

    /// The name of the transport that leads to the peer, for the metrics; "any" by default.
    pub fn transport(mut self, name: &'static str) -> Self {
        self.transport = name;
        self
    }

    /// The circuit, closed.
    pub fn build(self) -> Circuit {
        let shared = Arc::new_cyclic(|shared| Shared {
            core: Core::new(self.config, self.transport, Instant::now()),
            rtt: self.rtt,
            timer: Mutex::new(None),
            alarm: Waker::from(Arc::new(Alarm(shared.clone()))),
        });
        Circuit { shared }
    }
}

impl fmt::Debug for CircuitBuilder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CircuitBuilder")
            .field("config", &self.config)
            .field("transport", &self.transport)
            .finish_non_exhaustive()
    }
}

impl fmt::Debug for Circuit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Circuit").field(&self.state()).finish()
    }
}

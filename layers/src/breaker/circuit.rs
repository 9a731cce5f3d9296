use std::{fmt, sync::Arc, time::Duration};

use tokio::{sync::watch, time::Instant};

use super::{
    Attempt, BreakerConfig, CircuitState, Statistics,
    core::{Core, Rtt},
    gate::{Phase, Word},
};
use crate::{clock, hidden::Hidden, setters::setters};

/// The health of one peer over one transport, and the handle to it.
///
/// Clones share it; give one to each [`BreakerLayer`](super::BreakerLayer) that leads to the same peer, and keep it when a
/// connection is replaced.
#[derive(Clone)]
pub struct Circuit {
    core: Arc<Core>,
}

impl Circuit {
    /// A closed circuit.
    pub fn new(config: BreakerConfig) -> Self {
        Self::builder(config).build()
    }

    /// Builds a closed circuit with more settings than its rules.
    pub fn builder(config: BreakerConfig) -> CircuitBuilder {
        CircuitBuilder {
            config,
            rtt: None,
            transport: "any",
        }
    }

    /// What it lets through now. Time alone changes the state only when something reads it: a call, a waiter's timer, this method, or
    /// [`statistics`](Self::statistics).
    pub fn state(&self) -> CircuitState {
        self.core.state(Instant::now())
    }

    /// Follows the changes. No task makes them, so a change by time alone appears here only when something reads the state, as with
    /// [`state`](Self::state). While there is no call and nothing waits, an open circuit stays open here, and one whose probe is a
    /// healthy stream stays half-open. Keep no borrow of the value over a call: a change waits for it.
    pub fn watch(&self) -> watch::Receiver<CircuitState> {
        self.core.changes().subscribe()
    }

    /// The state and the counts.
    pub fn statistics(&self) -> Statistics {
        self.core.statistics(Instant::now())
    }

    /// Says why it lets nothing through and when the next probe is due, as a sentence for an error or a log.
    pub fn why(&self) -> String {
        let now = Instant::now();
        match self.state() {
            CircuitState::Closed => "the circuit breaker is closed".into(),
            CircuitState::ForcedClosed => "the circuit breaker is forced closed".into(),
            CircuitState::ForcedOpen => {
                "the circuit breaker is forced open, until it is released by its handle".into()
            }
            CircuitState::HalfOpen { reason } => {
                format!("the circuit breaker lets one probe at a time through: {reason}")
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
        self.core.force(true);
    }

    /// Lets everything through, and counts nothing, until [`release`](Self::release).
    pub fn force_closed(&self) {
        self.core.force(false);
    }

    /// Whether it is forced closed, so that the breaker neither refuses nor counts a call. It costs one load.
    pub fn is_forced_closed(&self) -> bool {
        self.core.word().phase() == Phase::ForcedClosed
    }

    /// Ends a force: the circuit is closed and counts from zero. Does nothing without a force.
    pub fn release(&self) {
        self.core.release(Instant::now());
    }

    /// Closes the circuit in any state, and forgets its counts and its recent openings.
    pub fn reset(&self) {
        self.core.reset(Instant::now());
    }

    /// Switches observing on or off. A circuit that only observes counts, and changes its state by its rules, but holds no call.
    pub fn observe_only(&self, observe_only: bool) {
        self.core.observe_only(observe_only);
    }

    /// Reports that the link to the peer works: a new connection, or a packet from the peer. A circuit that link failures opened lets a
    /// probe through at once; one that answers opened waits its time.
    pub fn sign_of_life(&self) {
        self.core.sign_of_life();
    }

    /// Reports that the peer has been heard again after a silence, as after a network partition. Does what
    /// [`sign_of_life`](Self::sign_of_life) does. In addition, a circuit that was opened by a call whose deadline passed without any
    /// answer lets a probe through at once.
    pub fn heard_again(&self) {
        self.core.heard_again();
    }

    /// One load where the circuit is closed, by force or not.
    #[inline]
    pub(super) fn enter(&self) -> Option<Attempt> {
        let mut word = self.core.word();
        if !word.lets_all_pass() {
            word = self.core.enter(clock::now(), true).ok()?;
        }
        Some(self.attempt(word))
    }

    #[inline]
    pub(super) fn attempt(&self, word: Word) -> Attempt {
        Attempt::new(self.clone(), word)
    }

    #[inline]
    pub(super) fn core(&self) -> &Core {
        &self.core
    }

    /// Whether another handle than `self` exists.
    pub(super) fn is_shared(&self) -> bool {
        Arc::strong_count(&self.core) > 1
    }

    pub(super) fn is_idle(&self, now: Instant) -> bool {
        self.core.is_idle(now)
    }

    pub(super) fn is_forced(&self) -> bool {
        self.core.is_forced()
    }
}

/// Makes a [`Circuit`].
#[derive(Debug)]
#[must_use]
pub struct CircuitBuilder {
    config: BreakerConfig,
    rtt: Option<Hidden<Rtt>>,
    transport: &'static str,
}

impl CircuitBuilder {
    setters! {
        /// Returns the smoothed round-trip time to the peer. Called when a call has exceeded its deadline: less than four round trips was
        /// not a fair one.
        pub fn rtt(rtt: impl Fn() -> Option<Duration> + Send + Sync + 'static) => rtt = Some(Hidden(Arc::new(rtt)));

        /// The name of the transport that leads to the peer, for the metrics; "any" by default.
        pub fn transport(name: &'static str) => transport = name;
    }

    /// The circuit, closed.
    pub fn build(self) -> Circuit {
        Circuit {
            core: Arc::new(Core::new(
                self.config,
                self.transport,
                self.rtt.map(|rtt| rtt.0),
                Instant::now(),
            )),
        }
    }
}

impl fmt::Debug for Circuit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Circuit").field(&self.state()).finish()
    }
}

use tokio::time::Instant;

use super::{
    BreakerConfig,
    backoff::Backoff,
    state::{CircuitState, Codes, OpenReason},
};
use crate::{
    Incident,
    classify::{Outcome, Pushback},
};

/// What a closed and healthy circuit never touches.
pub(super) struct Inner {
    /// When time alone changes the phase.
    pub(super) until: Option<Instant>,
    /// The probe has got a head that is no failure.
    pub(super) answered: bool,
    pub(super) reason: Option<OpenReason>,
    pub(super) backoff: Backoff,
    /// The last incidents that were counted.
    incidents: [Option<Incident>; 8],
    next_incident: usize,
    pub(super) codes: Codes,
    /// What the peer asked for.
    pub(super) not_before: Option<Instant>,
    pub(super) opened: u64,
    pub(super) held: u64,
    pub(super) waiting: usize,
    /// The state that was told last, and how often one was.
    pub(super) told: CircuitState,
    pub(super) changes: u64,
}

/// A peer that asks for more than so many recovery times is not believed.
const MOST_PUSHBACK: u32 = 10;

impl Inner {
    pub(super) fn new(config: &BreakerConfig) -> Self {
        Self {
            until: None,
            answered: false,
            reason: None,
            backoff: Backoff::new(config.first_wait, config.recovery),
            incidents: [None; 8],
            next_incident: 0,
            codes: Codes::default(),
            not_before: None,
            opened: 0,
            held: 0,
            waiting: 0,
            told: CircuitState::Closed,
            changes: 0,
        }
    }

    pub(super) fn is_new(&mut self, incident: Incident) -> bool {
        if self.incidents.contains(&Some(incident)) {
            return false;
        }
        self.incidents[self.next_incident] = Some(incident);
        self.next_incident = (self.next_incident + 1) % self.incidents.len();
        true
    }

    /// Notes how long the peer asks to be left alone.
    pub(super) fn heed(&mut self, now: Instant, outcome: &Outcome, config: &BreakerConfig) {
        if let Some(Pushback::After(wait)) = outcome.pushback() {
            let at = now + wait.min(config.recovery * MOST_PUSHBACK);
            self.not_before = self.not_before.max(Some(at));
        }
    }
}

use std::fmt;

use tokio::time::Instant;

use super::{
    Circuit,
    gate::{Phase, Word},
};
use crate::classify::{Observe, Outcome};

/// One attempt, from when it was let in to its verdict; dropped without one, it gives its permit back.
///
/// It is public because the type of a response's body names it.
pub struct Attempt {
    circuit: Option<Circuit>,
    word: Word,
}

impl Attempt {
    #[inline]
    pub(super) fn new(circuit: Circuit, word: Word) -> Self {
        Self {
            circuit: Some(circuit),
            word,
        }
    }

    /// Whether it decides if the circuit closes.
    #[inline]
    pub(super) fn is_probe(&self) -> bool {
        self.word.phase() == Phase::Taken
    }

    /// Another handle on the probe that this attempt is, if it is one.
    #[inline]
    pub(super) fn probe(&self) -> Option<Probe> {
        let circuit = self.circuit.as_ref()?;
        self.is_probe().then(|| Probe {
            circuit: circuit.clone(),
            word: self.word,
        })
    }
}

impl Observe for Attempt {
    fn ended(mut self, outcome: &Outcome) {
        if let Some(circuit) = self.circuit.take() {
            let core = circuit.core();
            core.ended(self.word, Instant::now, outcome, || circuit.rtt());
        }
    }
}

impl Drop for Attempt {
    fn drop(&mut self) {
        if let Some(circuit) = &self.circuit {
            circuit.core().given_up(self.word);
        }
    }
}

impl fmt::Debug for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attempt").field("word", &self.word).finish()
    }
}

/// A probe that has a head that is no failure says so at once: its end may be days away.
pub(super) struct Probe {
    circuit: Circuit,
    word: Word,
}

impl Probe {
    pub(super) fn answered(self) {
        self.circuit.core().answered(self.word, Instant::now());
    }
}

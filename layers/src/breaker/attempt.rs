use std::{fmt, mem};

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
    circuit: Circuit,
    word: Word,
}

impl Attempt {
    #[inline]
    pub(super) fn new(circuit: Circuit, word: Word) -> Self {
        Self { circuit, word }
    }

    /// Whether it decides if the circuit closes.
    #[inline]
    pub(super) fn is_probe(&self) -> bool {
        self.word.phase() == Phase::Taken
    }
}

impl Observe for Attempt {
    #[inline]
    fn answered(&mut self) {
        if self.is_probe() {
            self.circuit.core().answered(self.word, Instant::now());
        }
    }

    #[inline]
    fn ended(mut self, outcome: &Outcome) {
        // What is dropped below has no permit.
        let word = mem::replace(&mut self.word, Word::BYSTANDER);
        let circuit = &self.circuit;
        circuit
            .core()
            .ended(word, Instant::now, outcome, || circuit.rtt());
    }
}

impl Drop for Attempt {
    #[inline]
    fn drop(&mut self) {
        if self.is_probe() {
            self.circuit.core().given_up(self.word);
        }
    }
}

impl fmt::Debug for Attempt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Attempt").field("word", &self.word).finish()
    }
}

use std::{fmt, mem};

use http::Request;
use tokio::time::Instant;

use super::{
    Circuit, Probing,
    gate::{Phase, Word},
};
use crate::{
    Deadline,
    classify::{Observe, Outcome},
};

/// One attempt, from when it was let in to its verdict; dropped without one, it gives its permit back.
///
/// It is public because the type of a response's body names it.
pub struct Attempt {
    circuit: Circuit,
    word: Word,
    /// Whether an error of the peer's application counts, as the method's configuration says.
    counts_application: bool,
}

impl Attempt {
    #[inline]
    pub(super) fn new(circuit: Circuit, word: Word) -> Self {
        Self {
            circuit,
            word,
            counts_application: false,
        }
    }

    /// The request is about to go. Returns the deadline that the attempt is judged by: none, and no look at the clock, if it decides nothing.
    #[inline]
    pub(super) fn begin<B>(&mut self, request: &mut Request<B>) -> Option<Deadline> {
        if !self.word.has_a_say() {
            return None;
        }
        if self.is_probe() {
            request.extensions_mut().insert(Probing);
        }
        let config = self.circuit.core().config();
        self.counts_application = config.counts_application(request.uri().path());
        Deadline::of(request)
    }

    /// Whether it decides if the circuit closes.
    #[inline]
    fn is_probe(&self) -> bool {
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
        let counts = self.counts_application;
        circuit
            .core()
            .ended(word, Instant::now, outcome, counts, || circuit.rtt());
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

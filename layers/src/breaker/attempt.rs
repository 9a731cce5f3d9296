use std::{fmt, mem};

use super::{
    AttemptObservers, Circuit, Probing,
    gate::{Phase, Word},
};
use crate::{
    classify::{Observe, Outcome, Tracking},
    clock,
};
use http::Request;

/// One attempt, from its admission to its verdict. Dropped without a verdict, it returns its permit.
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

    /// The request is about to be sent, and is followed from now on.
    #[inline]
    pub(super) fn begin<B, O: Observe>(
        mut self,
        request: &mut Request<B>,
        tracking: &mut Tracking<AttemptObservers<O>>,
    ) {
        if self.has_a_say() {
            if self.is_probe() {
                request.extensions_mut().insert(Probing);
            }
            let config = self.circuit.core().config();
            self.counts_application = config.counts_application(request.uri().path());
        }
        if let Some((_, attempt)) = tracking.observer() {
            *attempt = Some(self);
        }
    }

    /// Whether its end counts.
    #[inline]
    pub(super) fn has_a_say(&self) -> bool {
        self.word.has_a_say()
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
            self.circuit.core().answered(self.word, clock::now());
        }
    }

    #[inline]
    fn ended(mut self, outcome: &Outcome) {
        // What is dropped below has no permit.
        let word = mem::replace(&mut self.word, Word::BYSTANDER);
        let core = self.circuit.core();
        core.ended(word, outcome, self.counts_application);
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

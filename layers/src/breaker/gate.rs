//! Which calls may pass: one word that says the phase, and the state beside it.
//!
//! The word is written only under the lock and read without it. It carries a generation that changes with each phase, so whoever
//! began under an earlier word (a straggler, a probe that was given up) is known by its word, and decides nothing.
//!
//! The atomics and the lock come from `super::sync`, so that `tests/breaker_loom.rs` can put loom's in their place.

use std::{
    ops::{Deref, DerefMut},
    sync::PoisonError,
};

use super::sync::{AtomicU64, Mutex, MutexGuard, Ordering};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Phase {
    Closed,
    Open,
    /// Half-open, and the permit is there.
    Free,
    /// Half-open, and a probe has the permit.
    Taken,
    ForcedOpen,
    ForcedClosed,
}

/// A phase and its generation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Word(u64);

const PHASE_BITS: u32 = 3;

impl Word {
    fn new(phase: Phase, generation: u64) -> Self {
        Self(generation << PHASE_BITS | phase as u64)
    }

    /// The word of who goes without having a say. No gate comes to it.
    pub(crate) const BYSTANDER: Self = Self(u64::MAX);

    #[inline]
    pub(crate) fn phase(self) -> Phase {
        match self.0 & ((1 << PHASE_BITS) - 1) {
            0 => Phase::Closed,
            1 => Phase::Open,
            2 => Phase::Free,
            3 => Phase::Taken,
            4 => Phase::ForcedOpen,
            _ => Phase::ForcedClosed,
        }
    }

    /// Whether all calls pass, so that nobody has to ask under the lock.
    #[inline]
    pub(crate) fn lets_all_pass(self) -> bool {
        matches!(self.phase(), Phase::Closed | Phase::ForcedClosed)
    }

    /// Whether the end of a call that began under this word decides anything.
    #[inline]
    pub(crate) fn has_a_say(self) -> bool {
        matches!(self.phase(), Phase::Closed | Phase::Taken)
    }

    fn next(self, phase: Phase) -> Self {
        Self::new(phase, (self.0 >> PHASE_BITS) + 1)
    }
}

pub(crate) struct Gate<T> {
    word: AtomicU64,
    state: Mutex<T>,
}

impl<T> Gate<T> {
    pub(crate) fn new(state: T) -> Self {
        Self {
            word: AtomicU64::new(Word::new(Phase::Closed, 0).0),
            state: Mutex::new(state),
        }
    }

    /// The word as it is now. Whoever reads "closed" here also sees what was reset before it closed.
    #[inline]
    pub(crate) fn word(&self) -> Word {
        Word(self.word.load(Ordering::Acquire))
    }

    /// Locks it if nothing has changed since `word`; who began under another word has no say.
    pub(crate) fn lock_if(&self, word: Word) -> Option<Held<'_, T>> {
        let held = self.lock();
        (held.word() == word).then_some(held)
    }

    pub(crate) fn lock(&self) -> Held<'_, T> {
        Held {
            word: &self.word,
            state: self.state.lock().unwrap_or_else(PoisonError::into_inner),
            wakes: false,
        }
    }
}

/// The gate, locked.
pub(crate) struct Held<'a, T> {
    word: &'a AtomicU64,
    state: MutexGuard<'a, T>,
    /// Whether what has changed concerns those who wait. They are woken once the lock is released: a waker is foreign code.
    pub(crate) wakes: bool,
}

impl<T> Held<'_, T> {
    pub(crate) fn word(&self) -> Word {
        // Written only under this lock.
        Word(self.word.load(Ordering::Relaxed))
    }

    /// Goes to `phase`, in a new generation, which concerns all who wait.
    pub(crate) fn shift(&mut self, phase: Phase) -> Word {
        self.wakes = true;
        self.set(phase)
    }

    /// Takes the permit if it is there.
    pub(crate) fn take(&mut self) -> Option<Word> {
        // Wakes nobody: they were woken when the permit came, and it is gone.
        (self.word().phase() == Phase::Free).then(|| self.set(Phase::Taken))
    }

    fn set(&mut self, phase: Phase) -> Word {
        let word = self.word().next(phase);
        self.word.store(word.0, Ordering::Release);
        word
    }
}

impl<T> Deref for Held<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.state
    }
}

impl<T> DerefMut for Held<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.state
    }
}

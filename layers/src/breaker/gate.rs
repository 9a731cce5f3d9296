//! Who may pass: one word that says the phase, and the waiters beside it.
//!
//! The word is written only under the lock and read without it. It carries a generation that changes with each phase, so whoever
//! began under an earlier word (a straggler, a probe that was given up) is known by its word, and decides nothing.
//!
//! The atomics and the lock come from `super::sync`, so that `tests/breaker_loom.rs` can put loom's in their place.

use std::{
    collections::BTreeMap,
    mem,
    ops::{Deref, DerefMut},
    sync::PoisonError,
    task::Waker,
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

/// A waiter's name at the gate; none until it has waited.
pub(crate) type Ticket = Option<u64>;

pub(crate) struct Gate<T> {
    word: AtomicU64,
    inside: Mutex<Inside<T>>,
}

struct Inside<T> {
    waiters: BTreeMap<u64, Waker>,
    next_waiter: u64,
    state: T,
}

impl<T> Gate<T> {
    pub(crate) fn new(state: T) -> Self {
        Self {
            word: AtomicU64::new(Word::new(Phase::Closed, 0).0),
            inside: Mutex::new(Inside {
                waiters: BTreeMap::new(),
                next_waiter: 0,
                state,
            }),
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
            inside: Some(self.inside.lock().unwrap_or_else(PoisonError::into_inner)),
            woken: BTreeMap::new(),
            gone: None,
        }
    }
}

/// The gate, locked. Whom a change wakes is woken after the lock is released: a waker is foreign code.
pub(crate) struct Held<'a, T> {
    word: &'a AtomicU64,
    inside: Option<MutexGuard<'a, Inside<T>>>,
    woken: BTreeMap<u64, Waker>,
    /// Dropped after the lock too: with its last waker a task may go, and the waiter in it comes here.
    gone: Option<Waker>,
}

impl<T> Held<'_, T> {
    pub(crate) fn word(&self) -> Word {
        // Written only under this lock.
        Word(self.word.load(Ordering::Relaxed))
    }

    /// Goes to `phase`, in a new generation, and wakes all who wait.
    pub(crate) fn shift(&mut self, phase: Phase) -> Word {
        self.wake_all();
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

    /// Leaves a waker that the next change wakes. Returns whether the waiter is new.
    pub(crate) fn wait(&mut self, ticket: &mut Ticket, waker: &Waker) -> bool {
        let inside = self.inside_mut();
        let new = ticket.is_none();
        let id = *ticket.get_or_insert_with(|| {
            inside.next_waiter += 1;
            inside.next_waiter
        });
        let same = inside.waiters.get(&id);
        if !same.is_some_and(|old| old.will_wake(waker)) {
            self.gone = inside.waiters.insert(id, waker.clone());
        }
        new
    }

    pub(crate) fn leave(&mut self, ticket: u64) {
        self.gone = self.inside_mut().waiters.remove(&ticket);
    }

    pub(crate) fn waiting(&self) -> usize {
        self.inside().waiters.len()
    }

    pub(crate) fn wake_all(&mut self) {
        let mut waiters = mem::take(&mut self.inside_mut().waiters);
        self.woken.append(&mut waiters);
    }

    /// Releases the lock; nothing but the drop may follow.
    pub(crate) fn unlock(&mut self) {
        drop(self.inside.take());
    }

    fn inside(&self) -> &Inside<T> {
        self.inside.as_ref().expect("held until it is dropped")
    }

    fn inside_mut(&mut self) -> &mut Inside<T> {
        self.inside.as_mut().expect("held until it is dropped")
    }
}

impl<T> Deref for Held<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.inside().state
    }
}

impl<T> DerefMut for Held<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        &mut self.inside_mut().state
    }
}

impl<T> Drop for Held<'_, T> {
    fn drop(&mut self) {
        self.unlock();
        for waker in mem::take(&mut self.woken).into_values() {
            waker.wake();
        }
    }
}

#![allow(dead_code, reason = "each layer needs some of it")]

use std::sync::{self, MutexGuard, PoisonError};

/// A mutex that ignores poison: a panic under any lock here leaves nothing half-done.
#[derive(Debug, Default)]
pub(crate) struct Mutex<T>(sync::Mutex<T>);

impl<T> Mutex<T> {
    pub(crate) const fn new(value: T) -> Self {
        Self(sync::Mutex::new(value))
    }

    pub(crate) fn lock(&self) -> MutexGuard<'_, T> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

//! A table that grows up to a cap and is read without a lock.

use std::{collections::HashMap, sync::Arc};

use crate::mutex::Mutex;
use arc_swap::ArcSwap;

/// Values by name: the first `cap` names have one each, all others share one.
///
/// It is copied when it grows, so reading takes no lock and no allocation; it grows no more than `cap` times.
pub(super) struct Capped<V> {
    cap: usize,
    known: ArcSwap<HashMap<Box<str>, Arc<V>>>,
    growing: Mutex<()>,
    other: Arc<V>,
}

impl<V> Capped<V> {
    pub(super) fn new(cap: usize, other: V) -> Self {
        Self {
            cap,
            known: ArcSwap::default(),
            growing: Mutex::new(()),
            other: Arc::new(other),
        }
    }

    /// The value of a known name; the shared one if no more names fit; `None` for a name that [`learn`](Self::learn) would add.
    pub(super) fn get(&self, name: &str) -> Option<Arc<V>> {
        let known = self.known.load();
        match known.get(name) {
            Some(value) => Some(value.clone()),
            None => (known.len() >= self.cap).then(|| self.other.clone()),
        }
    }

    /// The value for all names without one of their own.
    pub(super) fn other(&self) -> &Arc<V> {
        &self.other
    }

    /// Adds a name, if there is space.
    pub(super) fn learn(&self, name: &str, make: impl FnOnce() -> V) -> Arc<V> {
        let _growing = self.growing.lock();
        if let Some(value) = self.get(name) {
            return value;
        }
        let value = Arc::new(make());
        let mut known = HashMap::clone(&self.known.load());
        known.insert(name.into(), value.clone());
        self.known.store(Arc::new(known));
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_names_are_kept_and_the_rest_share_one_value() {
        let table = Capped::new(2, "other");
        assert!(table.get("a").is_none());
        assert_eq!(*table.learn("a", || "a"), "a");
        assert_eq!(*table.learn("a", || "again"), "a");
        assert_eq!(*table.learn("b", || "b"), "b");
        assert_eq!(*table.learn("c", || "c"), "other");
        assert_eq!(table.get("c").as_deref(), Some(&"other"));
        assert_eq!(table.get("a").as_deref(), Some(&"a"));
    }

    #[test]
    fn a_cap_of_nothing_names_nothing() {
        let table = Capped::new(0, ());
        assert!(table.get("a").is_some());
    }

    #[test]
    fn threads_that_learn_at_once_agree() {
        let table = Capped::new(8, usize::MAX);
        std::thread::scope(|scope| {
            for thread in 0..4 {
                let table = &table;
                scope.spawn(move || {
                    for name in 0..32 {
                        table.learn(&name.to_string(), || thread);
                    }
                });
            }
        });
        let own = (0..32)
            .filter(|name| {
                !Arc::ptr_eq(&table.get(&name.to_string()).expect("full"), table.other())
            })
            .count();
        assert_eq!(own, 8);
    }
}

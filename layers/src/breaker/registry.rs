use std::{collections::HashMap, fmt, hash::Hash, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{BreakerConfig, Circuit};
use crate::mutex::Mutex;

/// The circuits of many peers, one per key: the peer, or the peer and the transport.
///
/// A closed circuit that nothing else holds is forgotten some time after its last use. There is no task for that: the next
/// [`circuit`](Self::circuit) call does it. Clones share the circuits.
pub struct Registry<K> {
    shared: Arc<Mutex<Circuits<K>>>,
}

struct Circuits<K> {
    config: BreakerConfig,
    idle: Duration,
    most: usize,
    circuits: HashMap<K, Entry>,
    swept: Instant,
}

struct Entry {
    circuit: Circuit,
    /// When it was last asked for, or seen to be held.
    used: Instant,
}

impl<K: Hash + Eq + Clone> Registry<K> {
    /// Forgotten after 10 minutes without use.
    pub const IDLE: Duration = Duration::from_secs(600);
    /// With this many circuits, a new one replaces an unused one.
    pub const MOST: usize = 4096;

    /// An empty registry with [`IDLE`](Self::IDLE) and [`MOST`](Self::MOST). All its circuits have `config`.
    pub fn new(config: BreakerConfig) -> Self {
        Self::bounded(config, Self::IDLE, Self::MOST)
    }

    /// Forgets circuits after `idle` without use. With `most` circuits, a new one replaces the one that has been unused for longest.
    /// Circuits that are held or forced are never forgotten, so there are more while that many are in use.
    pub fn bounded(config: BreakerConfig, idle: Duration, most: usize) -> Self {
        let circuits = Circuits {
            config,
            idle,
            most,
            circuits: HashMap::new(),
            swept: Instant::now(),
        };
        Self {
            shared: Arc::new(Mutex::new(circuits)),
        }
    }

    /// The circuit of `key`; creates it if there is none.
    pub fn circuit(&self, key: &K) -> Circuit {
        self.circuit_or(key, Circuit::new)
    }

    /// The circuit of `key`; if there is none, `new` creates it, for example with [`Circuit::builder`]. `new` must not use this registry.
    pub fn circuit_or(&self, key: &K, new: impl FnOnce(BreakerConfig) -> Circuit) -> Circuit {
        let now = Instant::now();
        let mut all = self.shared.lock();
        if now.saturating_duration_since(all.swept) >= all.idle / 4 {
            all.sweep(now);
        }
        if let Some(entry) = all.circuits.get_mut(key) {
            entry.used = now;
            return entry.circuit.clone();
        }
        all.make_room();
        let circuit = new(all.config.clone());
        let entry = Entry {
            circuit: circuit.clone(),
            used: now,
        };
        all.circuits.insert(key.clone(), entry);
        circuit
    }

    /// The circuit of `key` if there is one. Asking does not count as use.
    pub fn get(&self, key: &K) -> Option<Circuit> {
        let all = self.shared.lock();
        all.circuits.get(key).map(|entry| entry.circuit.clone())
    }

    /// All circuits, for a status page.
    pub fn all(&self) -> Vec<(K, Circuit)> {
        let all = self.shared.lock();
        let entries = all.circuits.iter();
        entries
            .map(|(key, entry)| (key.clone(), entry.circuit.clone()))
            .collect()
    }
}

impl<K: Hash + Eq + Clone> Circuits<K> {
    fn sweep(&mut self, now: Instant) {
        self.swept = now;
        let idle = self.idle;
        self.circuits.retain(|_, entry| {
            if entry.circuit.is_shared() {
                entry.used = now;
            }
            now.saturating_duration_since(entry.used) < idle || !entry.circuit.is_idle(now)
        });
    }

    fn make_room(&mut self) {
        if self.circuits.len() < self.most {
            return;
        }
        let entries = self.circuits.iter();
        let unused =
            entries.filter(|(_, entry)| !entry.circuit.is_shared() && !entry.circuit.is_forced());
        let oldest = unused.min_by_key(|(_, entry)| entry.used);
        if let Some(key) = oldest.map(|(key, _)| key.clone()) {
            self.circuits.remove(&key);
        }
    }
}

impl<K> Clone for Registry<K> {
    fn clone(&self) -> Self {
        Self {
            shared: self.shared.clone(),
        }
    }
}

impl<K> fmt::Debug for Registry<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn registry(most: usize) -> Registry<u32> {
        Registry::bounded(BreakerConfig::default(), Registry::<u32>::IDLE, most)
    }

    fn keys(registry: &Registry<u32>) -> Vec<u32> {
        let mut keys: Vec<_> = registry.all().into_iter().map(|(key, _)| key).collect();
        keys.sort_unstable();
        keys
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_unused_closed_and_not_held_is_forgotten() {
        let registry = registry(100);
        let held = registry.circuit(&1);
        registry.circuit(&2);
        registry.circuit(&3).force_open();
        tokio::time::advance(Registry::<u32>::IDLE).await;
        registry.circuit(&4);
        assert_eq!(keys(&registry), [1, 3, 4]);
        held.force_open();
        let same = registry.circuit(&1).state();
        assert_eq!(same, held.state(), "still the same one");
    }

    #[tokio::test(start_paused = true)]
    async fn full_of_unused_ones_it_forgets_the_oldest() {
        let registry = registry(2);
        registry.circuit(&1);
        tokio::time::advance(Duration::from_secs(1)).await;
        let held = registry.circuit(&2);
        tokio::time::advance(Duration::from_secs(1)).await;
        registry.circuit(&3);
        assert_eq!(keys(&registry), [2, 3]);
        let other = registry.circuit(&3);
        registry.circuit(&4);
        assert_eq!(keys(&registry), [2, 3, 4], "all others are held");
        drop((held, other));
    }
}

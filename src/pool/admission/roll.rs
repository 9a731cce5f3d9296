//! Which of many connections goes when there are too many.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::open_connection::{OpenConnection, Why};

/// At most so many connections are looked at for one that goes. A stranger at line rate must not make the server look at all of them each time.
const LOOKS: usize = 64;

/// The least time without a call after which a connection that has had one counts as unused. It spares callers that are between two calls.
pub(super) const REST: Duration = Duration::from_secs(1);

/// Open connections in the order of their admission.
#[derive(Debug, Default)]
pub(super) struct Roll {
    /// Those that had no call when they were looked at last.
    strangers: BTreeMap<u64, Arc<OpenConnection>>,
    /// Those that had one.
    callers: BTreeMap<u64, Arc<OpenConnection>>,
    /// Where the next look at `callers` begins.
    next: u64,
}

impl Roll {
    pub(super) fn len(&self) -> usize {
        self.strangers.len() + self.callers.len()
    }

    pub(super) fn add(&mut self, number: u64, connection: Arc<OpenConnection>) {
        self.strangers.insert(number, connection);
    }

    pub(super) fn remove(&mut self, number: u64) -> bool {
        self.strangers.remove(&number).is_some() || self.callers.remove(&number).is_some()
    }

    /// All of them, the oldest first.
    pub(super) fn all(&self) -> Vec<(u64, Arc<OpenConnection>)> {
        let all = self.strangers.iter().chain(&self.callers);
        let mut all: Vec<_> = all.map(|(number, one)| (*number, one.clone())).collect();
        all.sort_unstable_by_key(|(number, _)| *number);
        all
    }

    /// Shuts one connection without a call in flight and says which: the oldest that has never had a call, if it is at least so old; else the one that
    /// has been unused longest among the next [`LOOKS`].
    ///
    /// The oldest and not the newest stranger: a caller makes its first call within a round trip, so an attacker would have to fill
    /// the server once in that time to drive it out.
    pub(super) fn evict(&mut self, now: Instant, stranger: Duration) -> Option<u64> {
        while let Some(entry) = self.strangers.first_entry() {
            // Each connection moves once in its life, so this is paid for by its admission.
            if entry.get().has_called() {
                let (number, connection) = entry.remove_entry();
                self.callers.insert(number, connection);
                continue;
            }
            let is_old = now.saturating_duration_since(entry.get().began()) >= stranger;
            if is_old && entry.get().shut_unused(Why::Evicted) {
                return Some(entry.remove_entry().0);
            }
            break;
        }
        let (before, after) = (
            self.callers.range(..self.next),
            self.callers.range(self.next..),
        );
        let looked_at: Vec<_> = after.chain(before).take(LOOKS).collect();
        self.next = looked_at.last().map_or(0, |(number, _)| **number + 1);
        let unused = |(number, one): &(&u64, &Arc<OpenConnection>)| {
            let unused = one.unused_for(now).filter(|unused| *unused >= REST)?;
            Some((unused, **number))
        };
        let mut unused: Vec<_> = looked_at.iter().filter_map(unused).collect();
        unused.sort_unstable_by(|one, other| other.cmp(one));
        let evicted = unused.into_iter().find_map(|(_, number)| {
            // A call may have begun since.
            self.callers[&number]
                .shut_unused(Why::Evicted)
                .then_some(number)
        })?;
        self.callers.remove(&evicted);
        Some(evicted)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    #[test]
    fn strangers_go_first_then_the_longest_unused_and_none_with_a_call() {
        let began = Instant::now();
        let mut roll = Roll::default();
        let all: Vec<_> = (0..5).map(|_| OpenConnection::new(began)).collect();
        for (number, one) in all.iter().enumerate() {
            roll.add(number as u64, one.clone());
        }
        for one in &all[..4] {
            assert!(one.begin());
        }
        for (number, at) in [(1, 20), (2, 10), (3, 30)] {
            all[number].end(1, began + seconds(at));
        }
        let now = began + seconds(30) + REST / 2;
        let mut evict = |now| roll.evict(now, Duration::ZERO);
        assert_eq!(evict(now), Some(4), "it never had a call");
        assert_eq!(evict(now), Some(2), "unused since 10 s");
        assert_eq!(evict(now), Some(1));
        assert_eq!(evict(now), None, "between two calls, and in a call");
        assert_eq!(evict(now + REST), Some(3));
        assert_eq!(evict(now + REST), None, "in a call");
        assert!(!all[2].begin() && all[0].begin());
    }

    #[test]
    fn each_look_is_short_and_all_are_looked_at_in_turn() {
        let began = Instant::now();
        let mut roll = Roll::default();
        let busy: Vec<_> = (0..1000).map(|_| OpenConnection::new(began)).collect();
        for (number, one) in busy.iter().enumerate() {
            assert!(one.begin());
            roll.add(number as u64, one.clone());
        }
        busy[999].end(1, began);
        let now = began + seconds(60);
        let looks = (1..).find(|_| roll.evict(now, Duration::ZERO).is_some());
        assert_eq!(looks, Some(1000_usize.div_ceil(LOOKS)));
    }
}

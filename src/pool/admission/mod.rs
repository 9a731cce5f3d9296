//! Which connections a server takes: how many of all callers together, and how many of each. And which of them ends when there are too many.
//!
//! Both transports use this one rule. A connection counts until its [`Admitted`] is dropped, or until another took its place.

use std::{
    collections::HashMap,
    fmt,
    hash::Hash,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::future::join_all;
use tokio::{sync::Semaphore, time::Instant};

use crate::lock::lock;

mod allowed;
mod handshakes;
mod lifetime;
mod open_connection;
mod refusals;
mod roll;

pub(crate) use allowed::{Allowed, REFUSED, REVOKED, not_allowed};
pub(crate) use handshakes::{Busy, HandshakePermit, Handshakes, Source};
pub(crate) use lifetime::Lifetime;
pub(crate) use open_connection::{OpenConnection, Probe, Stage, Why};
pub(crate) use refusals::Refusals;
use roll::{REST, Roll};

/// How many connections may be open at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) connections: usize,
    /// Of one caller that has proved its key.
    pub(crate) per_peer: usize,
    /// Of all callers that have no identity.
    pub(crate) anonymous: usize,
}

impl Limits {
    /// How many connections may be on their way out beside those that count: an eighth of all, and 16 at least.
    fn ending(self) -> usize {
        (self.connections / 8).max(16)
    }
}

/// How many callers may wait at once until their own older connections have been probed.
const PROBING: usize = 64;

/// Counts open connections. Beyond the limits it evicts one that is not in use, or refuses. Clones share the counts.
#[derive(Debug)]
pub(crate) struct Admission<K> {
    shared: Arc<Shared<K>>,
}

#[derive(Debug)]
struct Shared<K> {
    limits: Limits,
    open: Mutex<Open<K>>,
    probing: Semaphore,
}

/// The open connections: all of them, and by caller. `None` stands for the callers without an identity.
#[derive(Debug)]
struct Open<K> {
    admitted: u64,
    all: Roll,
    by_caller: HashMap<Option<K>, Roll>,
    /// Whose the evicted connections are that have not ended yet.
    ending: usize,
    owners: HashMap<u64, Option<K>>,
}

impl<K: Eq + Hash> Open<K> {
    /// Counts a connection no longer. False if it was not counted.
    fn remove(&mut self, number: u64) -> bool {
        let Some(caller) = self.owners.remove(&number) else {
            return false;
        };
        self.all.remove(number);
        if let Some(roll) = self.by_caller.get_mut(&caller) {
            roll.remove(number);
            if roll.len() == 0 {
                self.by_caller.remove(&caller);
            }
        }
        true
    }

    /// Another connection takes this one's place.
    fn evicted(&mut self, number: u64) {
        if self.remove(number) {
            self.ending += 1;
        }
    }
}

impl<K: Eq + Hash + Clone> Admission<K> {
    pub(crate) fn new(limits: Limits) -> Self {
        let open = Open {
            admitted: 0,
            all: Roll::default(),
            by_caller: HashMap::new(),
            ending: 0,
            owners: HashMap::new(),
        };
        Self {
            shared: Arc::new(Shared {
                limits,
                open: Mutex::new(open),
                probing: Semaphore::new(PROBING),
            }),
        }
    }

    /// Counts one more connection of a caller, perhaps in the place of another, or says which limit refuses it.
    pub(crate) fn admit(
        &self,
        caller: Option<K>,
        connection: &Arc<OpenConnection>,
        now: Instant,
    ) -> Result<Admitted<K>, Full> {
        let limits = self.shared.limits;
        let open = &mut *lock(&self.shared.open);
        let may_evict = open.ending < limits.ending();
        let (most, full) = match caller {
            Some(_) => (limits.per_peer, Full::PerPeer(limits.per_peer)),
            None => (limits.anonymous, Full::Anonymous(limits.anonymous)),
        };
        if let Some(roll) = open.by_caller.get_mut(&caller)
            && roll.len() >= most
        {
            // The caller may just have opened several, each for a call that is on its way.
            let evicted = may_evict.then(|| roll.evict(now, REST)).flatten();
            open.evicted(evicted.ok_or(full)?);
        } else if open.all.len() >= limits.connections {
            let evicted = may_evict.then(|| open.all.evict(now, Duration::ZERO));
            let full = Full::Connections(limits.connections);
            open.evicted(evicted.flatten().ok_or(full)?);
        }
        let number = open.admitted;
        open.admitted += 1;
        open.all.add(number, connection.clone());
        let roll = open.by_caller.entry(caller.clone()).or_default();
        roll.add(number, connection.clone());
        open.owners.insert(number, caller);
        Ok(Admitted {
            shared: self.shared.clone(),
            number,
        })
    }

    /// Like [`admit`](Self::admit). Where the caller has all connections that it may have, each of them is asked for a sign of life, and the oldest that gives
    /// none goes, whatever is in flight on it: a caller that comes back after its process died is not kept out by what it left behind.
    pub(crate) async fn admit_over_dead(
        &self,
        caller: K,
        connection: &Arc<OpenConnection>,
    ) -> Result<Admitted<K>, Full> {
        let admit = || self.admit(Some(caller.clone()), connection, Instant::now());
        let full = match admit() {
            Err(full @ Full::PerPeer(_)) => full,
            decided => return decided,
        };
        // Each of these is a connection that nothing counts yet.
        let Ok(_probing) = self.shared.probing.try_acquire() else {
            return Err(full);
        };
        let own = {
            let open = lock(&self.shared.open);
            let roll = open.by_caller.get(&Some(caller.clone()));
            roll.map(Roll::all).unwrap_or_default()
        };
        let answers = join_all(own.iter().map(|(_, one)| one.answers())).await;
        {
            let mut open = lock(&self.shared.open);
            let counted = |number| open.owners.contains_key(&number);
            let dead = own.iter().zip(answers);
            let mut dead = dead.filter_map(|(own, answers)| (!answers).then_some(own));
            if let Some((number, dead)) = dead.find(|(number, _)| counted(*number)) {
                dead.cut(Why::Dead);
                open.evicted(*number);
            }
        }
        admit()
    }

    /// How many connections are open.
    pub(crate) fn open(&self) -> usize {
        lock(&self.shared.open).all.len()
    }
}

/// One open connection. It is no longer counted once this is dropped.
#[derive(Debug)]
pub(crate) struct Admitted<K: Eq + Hash> {
    shared: Arc<Shared<K>>,
    number: u64,
}

impl<K: Eq + Hash> Drop for Admitted<K> {
    fn drop(&mut self) {
        let mut open = lock(&self.shared.open);
        if !open.remove(self.number) {
            open.ending -= 1;
        }
    }
}

/// The limit that refused a connection. Its text goes to the caller and into the server's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Full {
    Connections(usize),
    PerPeer(usize),
    Anonymous(usize),
}

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Connections(most) => write!(
                f,
                "the server takes {most} connections and has them all; try again later"
            ),
            Self::PerPeer(most) => write!(
                f,
                "the server takes {most} connections of one peer and this peer has them all; close one or share it"
            ),
            Self::Anonymous(most) => write!(
                f,
                "the server takes {most} connections without TLS and has them all; use TLS or try again later"
            ),
        }
    }
}

#[cfg(test)]
mod tests;

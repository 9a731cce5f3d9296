//! Which connections a server takes: how many of all callers together, and how many of each.
//!
//! Both transports use this one rule. A connection counts until its [`Admitted`] is dropped.

use std::{
    collections::HashMap,
    fmt,
    hash::Hash,
    sync::{Arc, Mutex},
};

use crate::lock::lock;

mod allowed;
mod handshakes;
mod refusals;

pub(crate) use allowed::{Allowed, REFUSED, REVOKED, not_allowed};
pub(crate) use handshakes::{Busy, HandshakePermit, Handshakes, Source};
pub(crate) use refusals::Refusals;

/// How many connections may be open at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Limits {
    pub(crate) connections: usize,
    /// Of one caller that has proved its key.
    pub(crate) per_peer: usize,
    /// Of all callers that have no identity.
    pub(crate) anonymous: usize,
}

/// Counts open connections and refuses the ones beyond the limits. Clones share the counts.
#[derive(Debug)]
pub(crate) struct Admission<K> {
    shared: Arc<Shared<K>>,
}

#[derive(Debug)]
struct Shared<K> {
    limits: Limits,
    open: Mutex<Open<K>>,
}

/// The open connections: all of them, and by caller. `None` stands for the callers without an identity.
#[derive(Debug)]
struct Open<K> {
    connections: usize,
    by_caller: HashMap<Option<K>, usize>,
}

impl<K: Eq + Hash + Clone> Admission<K> {
    pub(crate) fn new(limits: Limits) -> Self {
        let open = Open {
            connections: 0,
            by_caller: HashMap::new(),
        };
        Self {
            shared: Arc::new(Shared {
                limits,
                open: Mutex::new(open),
            }),
        }
    }

    /// Counts one more connection of a caller, or says which limit refuses it.
    pub(crate) fn admit(&self, caller: Option<K>) -> Result<Admitted<K>, Full> {
        let limits = self.shared.limits;
        let mut open = lock(&self.shared.open);
        if open.connections >= limits.connections {
            return Err(Full::Connections(limits.connections));
        }
        let (most, full) = match caller {
            Some(_) => (limits.per_peer, Full::PerPeer(limits.per_peer)),
            None => (limits.anonymous, Full::Anonymous(limits.anonymous)),
        };
        if open.by_caller.get(&caller).copied().unwrap_or(0) >= most {
            return Err(full);
        }
        *open.by_caller.entry(caller.clone()).or_default() += 1;
        open.connections += 1;
        Ok(Admitted {
            shared: self.shared.clone(),
            caller,
        })
    }

    /// How many connections are open.
    pub(crate) fn open(&self) -> usize {
        lock(&self.shared.open).connections
    }
}

/// One open connection. It is no longer counted once this is dropped.
#[derive(Debug)]
pub(crate) struct Admitted<K: Eq + Hash> {
    shared: Arc<Shared<K>>,
    caller: Option<K>,
}

impl<K: Eq + Hash> Drop for Admitted<K> {
    fn drop(&mut self) {
        let mut open = lock(&self.shared.open);
        open.connections -= 1;
        if let Some(count) = open.by_caller.get_mut(&self.caller) {
            *count -= 1;
            if *count == 0 {
                open.by_caller.remove(&self.caller);
            }
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
mod tests {
    use proptest::prelude::*;

    use super::*;

    const LIMITS: Limits = Limits {
        connections: 5,
        per_peer: 2,
        anonymous: 3,
    };

    #[test]
    fn a_refusal_names_its_limit() {
        let admission = Admission::new(LIMITS);
        let mut open: Vec<_> = (0..2).map(|_| admission.admit(Some('a'))).collect();
        let refused = admission.admit(Some('a')).expect_err("the third of a peer");
        assert_eq!(refused, Full::PerPeer(2));
        assert!(refused.to_string().contains("2 connections of one peer"));
        open.extend((0..3).map(|_| admission.admit(None)));
        assert!(open.iter().all(Result::is_ok));
        let refused = admission.admit(Some('b')).expect_err("the sixth of all");
        assert_eq!(refused, Full::Connections(5));
        drop(open.swap_remove(0));
        let refused = admission.admit(None).expect_err("the fourth without a key");
        assert_eq!(refused, Full::Anonymous(3));
    }

    proptest! {
        /// A step either asks for a connection of a caller or closes one of those that are open.
        #[test]
        fn the_counts_are_those_of_the_open_connections(
            steps in proptest::collection::vec((any::<bool>(), 0..4u8, any::<prop::sample::Index>()), 0..200),
        ) {
            let admission = Admission::new(LIMITS);
            let mut open = Vec::new();
            for (opens, caller, which) in steps {
                let caller = caller.checked_sub(1);
                let of = |open: &[Admitted<u8>], caller| {
                    open.iter().filter(|one| one.caller == caller).count()
                };
                if opens {
                    let most = if caller.is_some() { LIMITS.per_peer } else { LIMITS.anonymous };
                    let has_room = open.len() < LIMITS.connections && of(&open, caller) < most;
                    match admission.admit(caller) {
                        Ok(admitted) => {
                            prop_assert!(has_room);
                            open.push(admitted);
                        }
                        Err(_) => prop_assert!(!has_room),
                    }
                } else if !open.is_empty() {
                    let which = which.index(open.len());
                    drop(open.swap_remove(which));
                }
                prop_assert_eq!(admission.open(), open.len());
                let counted = lock(&admission.shared.open).by_caller.clone();
                prop_assert!(counted.iter().all(|(caller, count)| *count == of(&open, *caller) && *count > 0));
                prop_assert_eq!(counted.values().sum::<usize>(), open.len());
            }
        }
    }
}

//! Which handshakes a server lets begin: how many of all callers together, and how many of each source.
//!
//! Both transports use this one rule. Until a quarter of the permits are taken nobody is limited, so that many callers behind one address are served in normal
//! times. Beyond a quarter, a source that holds its share gets no more. Once all are taken, a source that has less of its share than another takes one from
//! that, its oldest: so somebody with many addresses needs as many as there are permits to keep others out.

use std::{
    collections::{HashMap, VecDeque},
    fmt,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex},
};

use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::lock::lock;

/// Where a handshake comes from.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Source {
    /// An address that its caller has proved to receive at. Of IPv6 it is the first 64 bits, because one caller has all the rest.
    Address(IpAddr),
    /// Something that passes on the packets of many callers, by its name.
    Via(String),
    /// An address that could be forged.
    Unproven,
    /// Nobody has asked.
    Unknown,
}

impl Source {
    pub(crate) fn address(addr: IpAddr) -> Self {
        match addr.to_canonical() {
            IpAddr::V6(addr) => {
                let network = addr.to_bits() & !u128::from(u64::MAX);
                Self::Address(Ipv6Addr::from_bits(network).into())
            }
            addr => Self::Address(addr),
        }
    }

    /// How many of the permits this source may hold while the server is busy.
    fn share(&self, most: usize) -> usize {
        match self {
            Self::Address(_) => (most / 8).max(2),
            Self::Via(_) => (most / 2).max(2),
            Self::Unproven => 0,
            Self::Unknown => most,
        }
    }
}

/// Counts handshakes in flight and refuses the ones beyond the limits. Clones share the counts.
#[derive(Clone, Debug)]
pub(crate) struct Handshakes {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    most: usize,
    counts: Mutex<Counts>,
    released: Notify,
}

#[derive(Debug, Default)]
struct Counts {
    taken: usize,
    /// The number of the next permit.
    next: u64,
    /// Oldest first.
    by_source: HashMap<Source, VecDeque<Held>>,
}

#[derive(Debug)]
struct Held {
    number: u64,
    displaced: CancellationToken,
}

impl Counts {
    fn of(&self, source: &Source) -> usize {
        self.by_source.get(source).map_or(0, VecDeque::len)
    }

    /// Takes a permit from the source that has most of its share, if that is more than `source` would have. Returns whether there was one.
    fn displace_for(&mut self, source: &Source, most: usize) -> bool {
        let weight = |source: &Source| source.share(most).max(1);
        let (has, own) = (self.of(source) + 1, weight(source));
        let richest = self.by_source.iter_mut().max_by(|(one, a), (other, b)| {
            let (a, b) = (a.len() * weight(other), b.len() * weight(one));
            a.cmp(&b)
        });
        let Some((rich, held)) = richest else {
            return false;
        };
        if held.len() * own <= has * weight(rich) {
            return false;
        }
        let Some(oldest) = held.pop_front() else {
            return false;
        };
        oldest.displaced.cancel();
        self.taken -= 1;
        true
    }
}

impl Handshakes {
    pub(crate) fn new(most: usize) -> Self {
        Self {
            shared: Arc::new(Shared {
                most,
                counts: Mutex::default(),
                released: Notify::new(),
            }),
        }
    }

    /// Counts one more handshake of a source, or says which limit refuses it.
    pub(crate) fn try_acquire(&self, source: Source) -> Result<HandshakePermit, Busy> {
        let most = self.shared.most;
        let mut counts = lock(&self.shared.counts);
        let is_busy = counts.taken > most / 4;
        if is_busy && source == Source::Unproven {
            return Err(Busy::Unproven);
        }
        let share = source.share(most);
        let has = counts.of(&source);
        let has_room = counts.taken < most || (has < share && counts.displace_for(&source, most));
        if !has_room {
            return Err(Busy::Handshakes(most));
        }
        if is_busy && has >= share {
            return Err(Busy::Source(share));
        }
        let displaced = CancellationToken::new();
        let number = counts.next;
        counts.next += 1;
        counts.taken += 1;
        let held = counts.by_source.entry(source.clone()).or_default();
        held.push_back(Held {
            number,
            displaced: displaced.clone(),
        });
        Ok(HandshakePermit {
            shared: self.shared.clone(),
            source,
            number,
            displaced,
        })
    }

    /// Waits until the source may begin one more. Cancel safe. Each permit that is released wakes everybody who waits, in the order of their arrival.
    pub(crate) async fn acquire(&self, source: Source) -> HandshakePermit {
        loop {
            // Before the look, so that a release between the two is not missed.
            let released = self.shared.released.notified();
            match self.try_acquire(source.clone()) {
                Ok(permit) => return permit,
                Err(_) => released.await,
            }
        }
    }

    /// How many are in flight.
    #[cfg(test)]
    pub(crate) fn taken(&self) -> usize {
        lock(&self.shared.counts).taken
    }
}

/// One handshake in flight. It is no longer counted once this is dropped.
#[derive(Debug)]
pub(crate) struct HandshakePermit {
    shared: Arc<Shared>,
    source: Source,
    number: u64,
    displaced: CancellationToken,
}

impl HandshakePermit {
    /// Waits until another source takes this permit. The handshake must end then. Cancel safe.
    pub(crate) async fn displaced(&self) -> Busy {
        self.displaced.cancelled().await;
        Busy::Displaced
    }

    pub(crate) fn is_displaced(&self) -> bool {
        self.displaced.is_cancelled()
    }
}

impl Drop for HandshakePermit {
    fn drop(&mut self) {
        let mut counts = lock(&self.shared.counts);
        if let Some(held) = counts.by_source.get_mut(&self.source) {
            // A displaced one is counted no more.
            let at = held.iter().position(|held| held.number == self.number);
            let released = at.and_then(|at| held.remove(at)).is_some();
            if held.is_empty() {
                counts.by_source.remove(&self.source);
            }
            counts.taken -= usize::from(released);
        }
        drop(counts);
        self.shared.released.notify_waiters();
    }
}

/// The limit that refused a handshake. Its text goes into the server's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Busy {
    Handshakes(usize),
    Source(usize),
    Unproven,
    /// Another source has taken the permit.
    Displaced,
}

impl Busy {
    /// The label of the metric.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::Source(_) | Self::Displaced => "source",
            Self::Handshakes(_) | Self::Unproven => "handshakes",
        }
    }
}

impl fmt::Display for Busy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Handshakes(most) => write!(f, "all {most} handshakes are in flight"),
            Self::Source(share) => write!(
                f,
                "more than a quarter of the handshakes are in flight, and this source has its share of {share}"
            ),
            Self::Displaced => f.write_str(
                "all handshakes are in flight, and this source has more of its share than another that asks for one",
            ),
            Self::Unproven => f.write_str(
                "more than a quarter of the handshakes are in flight, and the caller has not proved its address",
            ),
        }
    }
}

#[cfg(test)]
mod tests;

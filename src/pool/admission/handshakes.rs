//! Which handshakes a server lets begin: how many of all callers together, and how many of each source.
//!
//! Both transports use this one rule. Until a quarter of the permits are taken nobody is limited, so that many callers behind one address are served in normal
//! times. Beyond a quarter, a source that holds its share gets no more.

use std::{
    collections::HashMap,
    fmt,
    net::{IpAddr, Ipv6Addr},
    sync::{Arc, Mutex},
};

use tokio::sync::Notify;

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
    by_source: HashMap<Source, usize>,
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
        if counts.taken >= most {
            return Err(Busy::Handshakes(most));
        }
        let share = source.share(most);
        if is_busy && counts.by_source.get(&source).copied().unwrap_or(0) >= share {
            return Err(Busy::Source(share));
        }
        counts.taken += 1;
        *counts.by_source.entry(source.clone()).or_default() += 1;
        Ok(HandshakePermit {
            shared: self.shared.clone(),
            source,
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
}

impl Drop for HandshakePermit {
    fn drop(&mut self) {
        let mut counts = lock(&self.shared.counts);
        counts.taken -= 1;
        if let Some(count) = counts.by_source.get_mut(&self.source) {
            *count -= 1;
            if *count == 0 {
                counts.by_source.remove(&self.source);
            }
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
}

impl Busy {
    /// The label of the metric.
    pub(crate) fn reason(self) -> &'static str {
        match self {
            Self::Source(_) => "source",
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
            Self::Unproven => f.write_str(
                "more than a quarter of the handshakes are in flight, and the caller has not proved its address",
            ),
        }
    }
}

#[cfg(test)]
mod tests;

//! The queue: order, limits and accounts. Pure: the caller passes the time and the values.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tokio::time::Instant;

use super::{
    BufferStats, Overflow,
    entry::{End, Full, Key, Late, Limits, Ticket},
};
use crate::Urgency;

/// Calls that no longer wait, each with the limit that ended it.
pub(super) type Evicted<T, Why> = Vec<(Ticket, T, Why)>;

const LEVELS: usize = Urgency::LOWEST.get() as usize + 1;

pub(super) struct Queue<T> {
    limits: Limits,
    /// Per urgency, by arrival. The oldest of all is the oldest of eight heads, so nothing needs a second index.
    levels: [BTreeMap<u64, (Ticket, T)>; LEVELS],
    /// Calls that may be sent now, and calls that wait for their own time. Each call is in exactly one of the two.
    due: BTreeSet<Key>,
    deferred: BTreeSet<(Instant, Key)>,
    deadlines: BTreeSet<(Instant, Key)>,
    next_seq: u64,
    /// Calls in flight that may come back, and the bytes of their messages: their capacity stays reserved.
    flying: usize,
    flying_bytes: usize,
    /// `waiting` and `bytes` are kept here too; `oldest` is not.
    stats: BufferStats,
}

impl<T> Queue<T> {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            levels: std::array::from_fn(|_| BTreeMap::new()),
            due: BTreeSet::new(),
            deferred: BTreeSet::new(),
            deadlines: BTreeSet::new(),
            next_seq: 0,
            flying: 0,
            flying_bytes: 0,
            stats: BufferStats::default(),
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.stats.waiting == 0
    }

    pub(super) fn stats(&self, now: Instant) -> BufferStats {
        BufferStats {
            oldest: self
                .oldest(&[0; LEVELS])
                .map(|ticket| now.saturating_duration_since(ticket.arrived)),
            ..self.stats
        }
    }

    /// The counters, without a look at the queue.
    pub(super) fn counters(&self) -> &BufferStats {
        &self.stats
    }

    /// Whether no waiting call may go now.
    pub(super) fn is_idle(&self, now: Instant) -> bool {
        self.is_empty() || self.next_try(now).is_some()
    }

    /// When the first waiting call may go; `None` if at once, or if none waits.
    pub(super) fn next_try(&self, now: Instant) -> Option<Instant> {
        let (at, _) = self.deferred.first().filter(|(at, _)| *at > now)?;
        self.due.is_empty().then_some(*at)
    }

    /// All waiting calls may go now.
    pub(super) fn hurry(&mut self) {
        let deferred = std::mem::take(&mut self.deferred);
        self.due.extend(deferred.into_iter().map(|(_, key)| key));
    }

    pub(super) fn next_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    /// Accepts a call that does not wait: it is in flight at once. Without capacity for it the ticket says that it is not held.
    pub(super) fn straight(
        &mut self,
        now: Instant,
        urgency: Urgency,
        bytes: usize,
        deadline: Option<Instant>,
    ) -> Ticket {
        let mut ticket = self.ticket(now, urgency, bytes, deadline);
        ticket.unheld = self.lacks(bytes, self.stats.waiting, self.stats.bytes);
        self.stats.accepted += 1;
        self.depart(&mut ticket);
        ticket
    }

    /// Accepts a call that waits, or refuses it. Returns the calls that were dropped for it.
    ///
    /// A refused call has displaced no other.
    pub(super) fn arrive(
        &mut self,
        now: Instant,
        urgency: Urgency,
        bytes: usize,
        deadline: Option<Instant>,
        value: T,
    ) -> Result<(Key, Evicted<T, Full>), (T, Full)> {
        let ticket = self.ticket(now, urgency, bytes, deadline);
        match self.make_room(&ticket) {
            Ok(gone) => {
                self.stats.accepted += 1;
                self.insert(ticket, value);
                Ok((ticket.key, gone))
            }
            Err(full) => {
                self.stats.rejected += 1;
                Err((value, full))
            }
        }
    }

    /// Puts back a call that was in flight and held, to its old position; its capacity was kept. It is not taken before its ticket's
    /// `not_before`. Without time left it has expired.
    pub(super) fn put_back(
        &mut self,
        now: Instant,
        ticket: Ticket,
        value: T,
    ) -> Result<(), (T, Late)> {
        self.land(&ticket);
        if let Some(late) = self.late(&ticket, now) {
            self.stats.expired += 1;
            return Err((value, late));
        }
        self.insert(ticket, value);
        Ok(())
    }

    /// The next call, which is then in flight. Calls whose time is over are skipped and returned too.
    pub(super) fn take(&mut self, now: Instant) -> (Option<(Ticket, T)>, Evicted<T, Late>) {
        let mut gone = Vec::new();
        while let Some(&(at, key)) = self.deferred.first()
            && at <= now
        {
            self.deferred.pop_first();
            self.due.insert(key);
        }
        while let Some(key) = self.due.pop_first() {
            let Some((mut ticket, value)) = self.remove(key) else {
                continue;
            };
            if let Some(late) = self.late(&ticket, now) {
                self.stats.expired += 1;
                gone.push((ticket, value, late));
                continue;
            }
            self.depart(&mut ticket);
            return (Some((ticket, value)), gone);
        }
        (None, gone)
    }

    /// A call that was in flight has ended.
    pub(super) fn end(&mut self, ticket: &Ticket, end: End) {
        self.land(ticket);
        match end {
            End::Delivered => self.stats.delivered += 1,
            End::Failed => self.stats.failed += 1,
            End::Cancelled => self.stats.cancelled += 1,
        }
    }

    /// A caller has left. `None` if its call no longer waits.
    pub(super) fn leave(&mut self, key: Key) -> Option<T> {
        let (_, value) = self.remove(key)?;
        self.stats.cancelled += 1;
        Some(value)
    }

    /// Takes out the calls whose deadline has passed and, on a `sweep`, those whose time to live is over.
    pub(super) fn expire(&mut self, now: Instant, sweep: bool) -> Evicted<T, Late> {
        let mut gone = Vec::new();
        while let Some((at, key)) = self.deadlines.first().copied()
            && at <= now
        {
            match self.remove(key) {
                Some((ticket, value)) => gone.push((ticket, value, Late::Deadline)),
                // Not to be: each deadline has its call. Better an index mended than a loop without end.
                None => drop(self.deadlines.pop_first()),
            }
        }
        for level in 0..if sweep { LEVELS } else { 0 } {
            // A level is in the order of arrival, so the first that is in time ends it.
            while let Some(key) = self.first_of(level, 0).map(|ticket| ticket.key)
                && let Some((ticket, value)) =
                    self.remove_if(key, |ticket, ttl| ticket.is_past(ttl, now))
            {
                gone.push((ticket, value, Late::Ttl));
            }
        }
        self.stats.expired += gone.len() as u64;
        gone
    }

    /// Takes out everything.
    pub(super) fn clear(&mut self) -> Vec<(Ticket, T)> {
        let mut gone = Vec::new();
        while let Some(key) = self.head()
            && let Some(entry) = self.remove(key)
        {
            gone.push(entry);
        }
        self.stats.dropped += gone.len() as u64;
        gone
    }

    fn ticket(
        &mut self,
        arrived: Instant,
        urgency: Urgency,
        bytes: usize,
        deadline: Option<Instant>,
    ) -> Ticket {
        let seq = self.next_seq;
        self.next_seq += 1;
        Ticket {
            key: Key { urgency, seq },
            bytes,
            arrived,
            deadline,
            attempts: 0,
            rejections: 0,
            not_before: None,
            unheld: None,
        }
    }

    fn depart(&mut self, ticket: &mut Ticket) {
        ticket.attempts = ticket.attempts.saturating_add(1);
        self.stats.attempts += 1;
        self.stats.in_flight += 1;
        if ticket.unheld.is_none() {
            self.flying += 1;
            self.flying_bytes += ticket.bytes;
        }
    }

    fn land(&mut self, ticket: &Ticket) {
        self.stats.in_flight -= 1;
        if ticket.unheld.is_none() {
            self.flying -= 1;
            self.flying_bytes -= ticket.bytes;
        }
    }

    fn late(&self, ticket: &Ticket, now: Instant) -> Option<Late> {
        if ticket.deadline.is_some_and(|at| at <= now) {
            return Some(Late::Deadline);
        }
        ticket.is_past(self.limits.ttl, now).then_some(Late::Ttl)
    }

    fn insert(&mut self, ticket: Ticket, value: T) {
        if let Some(at) = ticket.deadline {
            self.deadlines.insert((at, ticket.key));
        }
        match ticket.not_before {
            Some(at) => self.deferred.insert((at, ticket.key)),
            None => self.due.insert(ticket.key),
        };
        self.levels[ticket.key.level()].insert(ticket.key.seq, (ticket, value));
        self.stats.waiting += 1;
        self.stats.bytes += ticket.bytes;
    }

    fn remove(&mut self, key: Key) -> Option<(Ticket, T)> {
        let (ticket, value) = self.levels[key.level()].remove(&key.seq)?;
        if let Some(at) = ticket.deadline {
            self.deadlines.remove(&(at, key));
        }
        let deferred = ticket.not_before.map(|at| (at, key));
        if !deferred.is_some_and(|entry| self.deferred.remove(&entry)) {
            self.due.remove(&key);
        }
        self.stats.waiting -= 1;
        self.stats.bytes -= ticket.bytes;
        Some((ticket, value))
    }

    fn remove_if(
        &mut self,
        key: Key,
        when: impl FnOnce(&Ticket, Duration) -> bool,
    ) -> Option<(Ticket, T)> {
        let (ticket, _) = self.levels[key.level()].get(&key.seq)?;
        if !when(ticket, self.limits.ttl) {
            return None;
        }
        self.remove(key)
    }

    fn head(&self) -> Option<Key> {
        (0..LEVELS).find_map(|level| Some(self.first_of(level, 0)?.key))
    }

    /// The first ticket of a level from `seq` on.
    fn first_of(&self, level: usize, seq: u64) -> Option<&Ticket> {
        let (_, (ticket, _)) = match seq {
            0 => self.levels[level].first_key_value()?,
            _ => self.levels[level].range(seq..).next()?,
        };
        Some(ticket)
    }

    /// The oldest ticket; `from` gives the first number to look at in each level.
    fn oldest(&self, from: &[u64; LEVELS]) -> Option<&Ticket> {
        (0..LEVELS)
            .filter_map(|level| self.first_of(level, from[level]))
            .min_by_key(|ticket| ticket.key.seq)
    }

    /// Which limit a call of `newcomer` bytes exceeds, if this many calls with this many bytes wait.
    fn lacks(&self, newcomer: usize, waiting: usize, bytes: usize) -> Option<Full> {
        let limits = &self.limits;
        if newcomer > limits.bytes {
            Some(Full::TooLarge)
        } else if waiting + self.flying >= limits.calls {
            Some(Full::Calls)
        } else if bytes + self.flying_bytes + newcomer > limits.bytes {
            Some(Full::Bytes)
        } else {
            None
        }
    }

    /// Takes out the calls that have to be dropped so that `newcomer` fits; none if it cannot fit.
    fn make_room(&mut self, newcomer: &Ticket) -> Result<Evicted<T, Full>, Full> {
        let (mut waiting, mut held) = (self.stats.waiting, self.stats.bytes);
        let lacks = |waiting, held| self.lacks(newcomer.bytes, waiting, held);
        let Some(first) = lacks(waiting, held) else {
            return Ok(Vec::new());
        };
        if first == Full::TooLarge {
            return Err(first);
        }
        let victims: Vec<Key> = match self.limits.overflow {
            Overflow::RejectNewest => return Err(first),
            Overflow::DropOldest => {
                let mut from = [0; LEVELS];
                let mut victims = Vec::new();
                while let Some(full) = lacks(waiting, held) {
                    let victim = self
                        .oldest(&from)
                        .filter(|ticket| ticket.key.seq < newcomer.key.seq)
                        .ok_or(full)?;
                    from[victim.key.level()] = victim.key.seq + 1;
                    (waiting, held) = (waiting - 1, held - victim.bytes);
                    victims.push(victim.key);
                }
                victims
            }
            Overflow::DropLowest => {
                let mut victims = Vec::new();
                let mut upwards = self
                    .levels
                    .iter()
                    .rev()
                    .flat_map(|level| level.values().rev());
                while let Some(full) = lacks(waiting, held) {
                    let (victim, _) = upwards
                        .next()
                        .filter(|(ticket, _)| ticket.key > newcomer.key)
                        .ok_or(full)?;
                    (waiting, held) = (waiting - 1, held - victim.bytes);
                    victims.push(victim.key);
                }
                victims
            }
        };
        let gone: Vec<_> = victims
            .into_iter()
            .filter_map(|key| self.remove(key))
            .map(|(ticket, value)| (ticket, value, first))
            .collect();
        self.stats.dropped += gone.len() as u64;
        Ok(gone)
    }
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;

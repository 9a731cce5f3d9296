//! Schedules the copies of a connection within a budget. Pure: the caller passes the time.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use tokio::time::Instant;

use crate::wire::StreamCopy;

/// The budget for the copies of one connection: the burst in bytes, and bytes per second.
const BUDGET: f64 = 64.0 * 1024.0;
/// The least that a copy counts, in bytes, because even a small packet has a cost.
const LEAST: usize = 64;
/// How many copies may wait. The budget keeps the queue below this while due copies are sent.
const MOST_WAITING: usize = 2048;
/// How many copies each write gets.
const COPIES: u32 = 2;

/// Copies that are not due yet.
#[derive(Debug)]
pub(super) struct CopySchedule {
    left: f64,
    at: Instant,
    /// The budget was used up, and is not half full again.
    dry: bool,
    waiting: BTreeMap<(Instant, u64), Bytes>,
    number: u64,
}

impl CopySchedule {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            left: BUDGET,
            at: now,
            dry: false,
            waiting: BTreeMap::new(),
            number: 0,
        }
    }

    /// Schedules the copies of a write, `delay` apart, within the budget. Returns whether one of them is due before all others.
    pub(super) fn plan(
        &mut self,
        now: Instant,
        delay: Duration,
        (stream, offset): (u64, u64),
        bytes: &[u8],
    ) -> bool {
        if !self.pay(now, COPIES as usize * bytes.len().max(LEAST)) {
            return false;
        }
        let copy = StreamCopy::encode(stream, offset, bytes);
        let first = self.next().is_none_or(|next| now + delay < next);
        for nth in 1..=COPIES {
            self.number += 1;
            let key = (now + delay * nth, self.number);
            self.waiting.insert(key, copy.clone());
        }
        first
    }

    /// A copy helps little if the copy before it is missing. So a lane that writes more than the budget has all of its writes
    /// copied for a while, then none, instead of every second write.
    fn pay(&mut self, now: Instant, bytes: usize) -> bool {
        let earned = now.saturating_duration_since(self.at).as_secs_f64() * BUDGET;
        self.at = now;
        self.left = (self.left + earned).min(BUDGET);
        let bytes = bytes as f64;
        let enough = if self.dry { BUDGET / 2.0 } else { bytes };
        self.dry = self.left < enough.max(bytes);
        if self.dry || self.waiting.len() >= MOST_WAITING {
            return false;
        }
        self.left -= bytes;
        true
    }

    /// When the next copy is due.
    pub(super) fn next(&self) -> Option<Instant> {
        self.waiting.first_key_value().map(|((due, _), _)| *due)
    }

    /// A copy that is due.
    pub(super) fn due(&mut self, now: Instant) -> Option<Bytes> {
        let first = self.waiting.first_entry()?;
        (first.key().0 <= now).then(|| first.remove())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DELAY: Duration = Duration::from_millis(5);

    fn sent(schedule: &mut CopySchedule, now: Instant) -> Vec<Bytes> {
        std::iter::from_fn(|| schedule.due(now)).collect()
    }

    #[test]
    fn a_write_is_copied_twice_each_after_its_delay() {
        let start = Instant::now();
        let mut schedule = CopySchedule::new(start);
        assert_eq!(schedule.next(), None);
        assert!(
            schedule.plan(start, DELAY, (4, 7), b"abc"),
            "the first is due first"
        );
        let later = start + DELAY / 2;
        assert!(
            !schedule.plan(later, DELAY, (4, 10), b"de"),
            "somebody is before it"
        );
        let (abc, de) = (
            StreamCopy::encode(4, 7, b"abc"),
            StreamCopy::encode(4, 10, b"de"),
        );
        assert_eq!(schedule.next(), Some(start + DELAY));
        assert!(sent(&mut schedule, later).is_empty());
        assert_eq!(sent(&mut schedule, start + DELAY), vec![abc.clone()]);
        assert_eq!(sent(&mut schedule, start + 2 * DELAY), [de.clone(), abc]);
        assert_eq!(sent(&mut schedule, start + 3 * DELAY), [de]);
        assert_eq!(schedule.next(), None);
    }

    #[test]
    fn small_calls_stay_within_the_budget() {
        let mut now = Instant::now();
        let mut schedule = CopySchedule::new(now);
        for n in 0..10_000 {
            // 200 calls a second of 100 bytes.
            now += Duration::from_millis(5);
            schedule.plan(now, DELAY, (0, 100 * n), &[0; 100]);
            assert!(!schedule.dry);
            sent(&mut schedule, now);
        }
    }

    #[test]
    fn a_lane_that_writes_much_is_copied_in_runs() {
        let start = Instant::now();
        let mut now = start;
        let mut schedule = CopySchedule::new(now);
        let (mut copied, mut changes, mut last) = (0, 0, true);
        for n in 0..10_000 {
            now += Duration::from_millis(1);
            schedule.plan(now, DELAY, (0, 1000 * n), &[0; 1000]);
            changes += u32::from(schedule.dry == last);
            last = !schedule.dry;
            copied += sent(&mut schedule, now)
                .iter()
                .map(Bytes::len)
                .sum::<usize>();
        }
        let allowed = BUDGET * (1.0 + (now - start).as_secs_f64());
        // The budget counts a write's bytes, not the few of the copy's head.
        assert!((copied as f64) < allowed * 1.01, "{copied} of {allowed}");
        assert!(copied as f64 > allowed * 0.8, "{copied} of {allowed}");
        assert!(changes < 50, "{changes} runs in ten seconds");
    }

    proptest! {
        #[test]
        fn whatever_is_written_the_budget_holds_and_every_copy_is_sent_once(
            writes in proptest::collection::vec((0u64..20_000, 1usize..1000), 1..300),
        ) {
            let start = Instant::now();
            let mut now = start;
            let mut schedule = CopySchedule::new(now);
            let mut copies: BTreeMap<Bytes, u32> = BTreeMap::new();
            let mut cost = 0;
            for (n, (micros, len)) in writes.into_iter().enumerate() {
                now += Duration::from_micros(micros);
                schedule.plan(now, DELAY, (n as u64, 0), &vec![0; len]);
                for copy in sent(&mut schedule, now) {
                    cost += copy.len().max(LEAST);
                    *copies.entry(copy).or_default() += 1;
                }
                prop_assert!(schedule.next().is_none_or(|next| next > now));
                prop_assert!(schedule.waiting.len() <= MOST_WAITING + 1);
            }
            let allowed = BUDGET * (1.0 + (now - start).as_secs_f64());
            prop_assert!(cost as f64 <= allowed * 1.1);
            for copy in sent(&mut schedule, now + 2 * DELAY) {
                *copies.entry(copy).or_default() += 1;
            }
            prop_assert!(copies.values().all(|&times| times == COPIES));
            prop_assert_eq!(schedule.next(), None);
        }
    }
}

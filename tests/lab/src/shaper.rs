use std::time::{Duration, Instant};

use rand::{RngExt, SeedableRng, rngs::StdRng};

use crate::{Conditions, Loss};

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It arrives then.
    Arrives(Instant),
    /// The link lost it.
    Lost,
    /// The queue was full.
    QueueFull,
    /// The link is cut.
    Cut,
}

/// Decides the fate of each packet in one direction of a link. Pure: it is told the time, and its luck comes from a seed.
#[derive(Debug)]
pub struct Shaper {
    conditions: Conditions,
    rng: StdRng,
    /// When the link has sent all that was let in.
    free_at: Option<Instant>,
    /// When the last packet that keeps its place arrives.
    last_due: Option<Instant>,
    in_burst: bool,
    /// The silence that is going on or comes next.
    stall: Option<(Instant, Instant)>,
}

impl Shaper {
    /// One that does nothing to packets yet.
    pub fn new(seed: u64) -> Self {
        Self {
            conditions: Conditions::default(),
            rng: StdRng::seed_from_u64(seed),
            free_at: None,
            last_due: None,
            in_burst: false,
            stall: None,
        }
    }

    /// What it does from the next packet on. Those under way arrive as they were meant to.
    pub fn set(&mut self, conditions: Conditions) {
        self.conditions = conditions;
        self.in_burst = false;
        self.stall = None;
    }

    /// What it does.
    pub fn conditions(&self) -> Conditions {
        self.conditions
    }

    /// The fate of a packet of `bytes` that comes at `now`.
    pub fn admit(&mut self, now: Instant, bytes: usize) -> Fate {
        if self.conditions.cut {
            return Fate::Cut;
        }
        let Some(left) = self.send(now, bytes) else {
            return Fate::QueueFull;
        };
        if self.is_lost() {
            return Fate::Lost;
        }
        let mut due = left + self.conditions.delay;
        if !self.conditions.jitter.is_zero() {
            due += self.conditions.jitter.mul_f64(self.rng.random::<f64>());
        }
        if self.conditions.reorder > 0.0 && self.rng.random_bool(self.conditions.reorder.min(1.0)) {
            return Fate::Arrives(due + (self.conditions.delay / 8).max(Duration::from_millis(1)));
        }
        due = self.last_due.map_or(due, |last| due.max(last));
        self.last_due = Some(due);
        Fate::Arrives(due)
    }

    /// When the packet has left the queue and is on its way.
    fn send(&mut self, now: Instant, bytes: usize) -> Option<Instant> {
        let free = self.free_at.map_or(now, |at| at.max(now));
        let mut left = free;
        if let Some(rate) = self.conditions.rate {
            if free - now > self.conditions.queue {
                return None;
            }
            left += Duration::from_secs_f64(bytes as f64 * 8.0 / rate as f64);
        }
        left = self.after_stall(left);
        // Without a rate nothing queues, but nothing overtakes a silence either.
        self.free_at = Some(left);
        Some(left)
    }

    /// The same moment, or the end of the silence in which it falls.
    fn after_stall(&mut self, at: Instant) -> Instant {
        let Some(stalls) = self.conditions.stalls else {
            return at;
        };
        loop {
            let (from, to) = match self.stall {
                Some(stall) if stall.1 > at => stall,
                passed => {
                    // The inverse of the exponential distribution; 1 - x is never 0.
                    let gap = stalls.every.mul_f64(-(1.0 - self.rng.random::<f64>()).ln());
                    let from = passed.map_or(at, |stall| stall.1) + gap;
                    self.stall = Some((from, from + stalls.lasting));
                    if stalls.lasting.is_zero() && gap.is_zero() {
                        return at;
                    }
                    continue;
                }
            };
            return if at < from { at } else { to };
        }
    }

    fn is_lost(&mut self) -> bool {
        match self.conditions.loss {
            Loss::Random(share) => share > 0.0 && self.rng.random_bool(share.min(1.0)),
            Loss::Bursts { begin, end, lost } => {
                let turn = if self.in_burst { end } else { begin };
                if self.rng.random_bool(turn.clamp(0.0, 1.0)) {
                    self.in_burst = !self.in_burst;
                }
                self.in_burst && self.rng.random_bool(lost.clamp(0.0, 1.0))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Stalls;

    const MS: Duration = Duration::from_millis(1);

    fn shaper(conditions: Conditions) -> Shaper {
        let mut shaper = Shaper::new(7);
        shaper.set(conditions);
        shaper
    }

    #[test]
    fn a_rate_spaces_packets_and_its_queue_drops_what_waits_too_long() {
        let mut shaper = shaper(Conditions {
            rate: Some(12_000_000),
            queue: 10 * MS,
            delay: 20 * MS,
            ..Conditions::default()
        });
        let now = Instant::now();
        // 1,500 bytes take a millisecond: eleven find at most 10 ms of queue before them.
        let fates: Vec<_> = (0..12).map(|_| shaper.admit(now, 1500)).collect();
        for (at, fate) in fates.iter().take(11).enumerate() {
            assert_eq!(*fate, Fate::Arrives(now + 20 * MS + MS * (at as u32 + 1)));
        }
        assert_eq!(fates[11], Fate::QueueFull);
        // Once it has drained there is room again.
        assert_eq!(
            shaper.admit(now + 11 * MS, 1500),
            Fate::Arrives(now + 32 * MS)
        );
    }

    #[test]
    fn a_cut_link_passes_nothing_and_a_restored_one_everything() {
        let now = Instant::now();
        let mut shaper = shaper(Conditions {
            cut: true,
            ..Conditions::default()
        });
        assert_eq!(shaper.admit(now, 1), Fate::Cut);
        shaper.set(Conditions::default());
        assert_eq!(shaper.admit(now, 1), Fate::Arrives(now));
    }

    #[test]
    fn the_share_that_is_lost_is_the_one_that_was_asked_for() {
        let now = Instant::now();
        let bursts = Loss::Bursts {
            begin: 0.001,
            end: 0.2,
            lost: 0.5,
        };
        // The link is bad for begin / (begin + end) of the packets.
        for (loss, expected) in [(Loss::Random(0.01), 0.01), (bursts, 0.5 * 0.001 / 0.201)] {
            let mut shaper = shaper(Conditions {
                loss,
                ..Conditions::default()
            });
            let lost = (0..400_000)
                .filter(|_| shaper.admit(now, 100) == Fate::Lost)
                .count();
            let share = lost as f64 / 400_000.0;
            assert!(
                (share / expected - 1.0).abs() < 0.1,
                "{share} of {expected}"
            );
        }
    }

    #[test]
    fn nothing_arrives_in_a_silence() {
        let mut shaper = shaper(Conditions {
            stalls: Some(Stalls {
                every: 50 * MS,
                lasting: 30 * MS,
            }),
            ..Conditions::default()
        });
        let start = Instant::now();
        let arrivals: Vec<_> = (0..10_000)
            .map(|ms| match shaper.admit(start + MS * ms, 100) {
                Fate::Arrives(at) => at,
                fate => panic!("{fate:?}"),
            })
            .collect();
        let late = arrivals
            .iter()
            .enumerate()
            .filter(|(ms, at)| **at > start + MS * *ms as u32)
            .count() as f64;
        // Silent for 30 of 80 ms in the mean.
        assert!((late / 10_000.0 - 30.0 / 80.0).abs() < 0.08, "{late}");
    }

    proptest! {
        #[test]
        fn order_is_kept_unless_reordering_was_asked_for_and_nothing_is_early(
            seed in any::<u64>(), delay in 0u32..50, jitter in 0u32..20, rate in prop::option::of(100_000u64..1_000_000_000),
            packets in prop::collection::vec((0u32..5_000, 40usize..1500), 1..100),
        ) {
            let mut shaper = Shaper::new(seed);
            shaper.set(Conditions { delay: MS * delay, jitter: MS * jitter, rate, ..Conditions::default() });
            let mut now = Instant::now();
            let mut last = now;
            for (gap, bytes) in packets {
                now += Duration::from_micros(gap.into());
                if let Fate::Arrives(due) = shaper.admit(now, bytes) {
                    prop_assert!(due >= now + MS * delay);
                    prop_assert!(due >= last);
                    let most = MS * (delay + jitter + 200) + Duration::from_secs_f64(bytes as f64 * 8.0 / rate.unwrap_or(u64::MAX) as f64);
                    // A packet that waits for one with more jitter is as late as that one.
                    prop_assert!(due <= now + most + MS * jitter);
                    last = due;
                }
            }
        }
    }
}

//! A stream's priority, which falls while the stream exceeds its share. Pure: the caller passes the time.
//!
//! Stream priority in QUIC is strict: while a higher stream has data, a lower one sends nothing. Two rules prevent
//! starvation. Each side applies them to its own writes, so they hold in both directions:
//!
//! - A control lane has a budget of bytes. Beyond it, it queues with bulk until half of the budget has come back.
//! - Every other lane above bulk sends a sixteenth of its bytes at bulk's priority. There it takes turns with bulk, so bulk
//!   keeps a floor of about 6 % however busy the others are, and where there is no bulk nothing changes.

use std::time::Instant;

use tower_iroh_layers::Urgency;

/// A control lane's budget: the burst in bytes, and bytes per second.
const CONTROL_BUDGET: f64 = 256.0 * 1024.0;
/// Of each cycle's bytes the last sixteenth is written at bulk's priority.
const CYCLE: u64 = 1024 * 1024;
const HUMBLE: u64 = CYCLE / 16;

/// The priority of a stream, from the bytes that it has written.
#[derive(Debug)]
pub(crate) struct StreamPriority {
    urgency: Urgency,
    rule: Rule,
    lowered: bool,
}

#[derive(Debug)]
enum Rule {
    /// At bulk's priority or below: it never changes.
    None,
    Budget {
        left: f64,
        at: Instant,
    },
    Share {
        written: u64,
    },
}

impl StreamPriority {
    pub(crate) fn new(urgency: Urgency, now: Instant) -> Self {
        let rule = if urgency >= Urgency::BULK {
            Rule::None
        } else if urgency <= Urgency::CONTROL {
            Rule::Budget {
                left: CONTROL_BUDGET,
                at: now,
            }
        } else {
            Rule::Share { written: 0 }
        };
        Self {
            urgency,
            rule,
            lowered: false,
        }
    }

    /// The priority for QUIC, where larger values go first.
    pub(crate) fn priority(&self) -> i32 {
        let urgency = if self.lowered {
            Urgency::BULK
        } else {
            self.urgency
        };
        i32::from(Urgency::LOWEST.get() - urgency.get())
    }

    /// Counts `bytes` that were written. Returns the new priority if it changed.
    pub(crate) fn wrote(&mut self, now: Instant, bytes: usize) -> Option<i32> {
        let lowered = match &mut self.rule {
            Rule::None => return None,
            Rule::Budget { left, at } => {
                let earned = now.saturating_duration_since(*at).as_secs_f64() * CONTROL_BUDGET;
                *at = now;
                *left = (*left + earned).min(CONTROL_BUDGET) - bytes as f64;
                // The debt is bounded, so that one flood does not lower the priority for hours.
                *left = left.max(-CONTROL_BUDGET);
                let enough = if self.lowered {
                    CONTROL_BUDGET / 2.0
                } else {
                    0.0
                };
                *left < enough
            }
            Rule::Share { written } => {
                *written = (*written + bytes as u64) % CYCLE;
                *written >= CYCLE - HUMBLE
            }
        };
        (lowered != self.lowered).then(|| {
            self.lowered = lowered;
            self.priority()
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use proptest::prelude::*;

    use super::*;

    #[test]
    fn urgent_streams_go_first() {
        let now = Instant::now();
        let of = |urgency| StreamPriority::new(urgency, now).priority();
        assert!(of(Urgency::HIGHEST) > of(Urgency::CONTROL));
        assert!(of(Urgency::CONTROL) > of(Urgency::INTERACTIVE));
        assert!(of(Urgency::INTERACTIVE) > of(Urgency::BULK));
        assert_eq!(of(Urgency::LOWEST), 0);
    }

    #[test]
    fn heartbeats_keep_their_priority_and_a_flood_loses_it_for_a_while() {
        let mut now = Instant::now();
        let mut control = StreamPriority::new(Urgency::CONTROL, now);
        let native = control.priority();
        for _ in 0..10_000 {
            now += Duration::from_millis(10);
            assert_eq!(control.wrote(now, 200), None, "100 heartbeats a second");
        }
        let mut lowered = None;
        for _ in 0..64 {
            lowered = control.wrote(now, 16 * 1024).or(lowered);
        }
        assert_eq!(
            lowered,
            Some(StreamPriority::new(Urgency::BULK, now).priority())
        );
        now += Duration::from_secs(1);
        assert_eq!(control.wrote(now, 200), None, "the debt is not paid yet");
        now += Duration::from_secs(1);
        assert_eq!(control.wrote(now, 200), Some(native));
    }

    #[test]
    fn an_interactive_stream_sends_a_sixteenth_at_the_level_of_bulk() {
        let now = Instant::now();
        let mut stream = StreamPriority::new(Urgency::INTERACTIVE, now);
        let bulk = StreamPriority::new(Urgency::BULK, now).priority();
        let mut humble = 0;
        const CHUNK: usize = 4096;
        for _ in 0..100_000 {
            humble += u64::from(stream.priority() == bulk);
            stream.wrote(now, CHUNK);
        }
        let share = humble as f64 / 100_000.0;
        assert!((0.05..0.08).contains(&share), "{share}");
    }

    proptest! {
        #[test]
        fn a_priority_is_the_native_one_or_bulk_s(
            urgency in 0u8..=7,
            writes in proptest::collection::vec((0usize..1 << 20, 0u64..2_000), 0..200),
        ) {
            let urgency = Urgency::new(urgency).expect("in range");
            let mut now = Instant::now();
            let mut priority = StreamPriority::new(urgency, now);
            let native = priority.priority();
            let bulk = StreamPriority::new(Urgency::BULK, now).priority();
            for (bytes, pause) in writes {
                now += Duration::from_millis(pause);
                let before = priority.priority();
                match priority.wrote(now, bytes) {
                    Some(changed) => prop_assert_ne!(changed, before),
                    None => prop_assert_eq!(priority.priority(), before),
                }
                prop_assert!([native, bulk].contains(&priority.priority()));
            }
            // Whoever has been quiet gets its priority back with the next small write, or never lost it.
            if urgency <= Urgency::CONTROL {
                priority.wrote(now + Duration::from_secs(60), 1);
                prop_assert_eq!(priority.priority(), native);
            }
        }
    }
}

//! Notices that a peer does not answer while calls wait for it, and that it is heard again. Pure: it is told what was sent and received.
//!
//! QUIC's own probes come at ever longer intervals (`docs/decisions/knock-when-silent.md`), so after a partition of seconds a connection would
//! stay mute for seconds more, although the link is there. A ping in between is a probe as well: its acknowledgement tells what else was lost.

use std::time::{Duration, Instant};

/// How often it is looked, while calls are open.
pub(super) const LOOK: Duration = Duration::from_millis(250);
/// For so long at least nothing came before anybody knocks; on a long path it is two round trips.
const PATIENCE: Duration = Duration::from_millis(500);
/// So many looks in a row found something sent. An acknowledgement of ours, which nobody answers, is in one.
const LOOKS: u32 = 2;

/// What a look found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Sign {
    Nothing,
    /// Still no answer: it is time to send something new.
    Knock,
    /// The peer was silent, and is not any more.
    Heard,
}

/// What a connection has done so far.
#[derive(Clone, Copy, Debug)]
pub(super) struct Look {
    pub(super) now: Instant,
    /// Datagrams.
    pub(super) sent: u64,
    /// Datagrams.
    pub(super) received: u64,
    /// The smoothed round trip.
    pub(super) rtt: Duration,
    /// Whether calls are open.
    pub(super) waiting: bool,
}

#[derive(Debug, Default)]
pub(super) struct Silence {
    sent: u64,
    received: u64,
    /// When something was sent first that nothing has answered.
    since: Option<Instant>,
    /// Looks that found something sent, since anything came.
    unanswered: u32,
    knocked: Option<Instant>,
}

impl Silence {
    pub(super) fn look(&mut self, look: Look) -> Sign {
        let sends = std::mem::replace(&mut self.sent, look.sent) != look.sent;
        if std::mem::replace(&mut self.received, look.received) != look.received {
            self.since = None;
            self.unanswered = 0;
            return match self.knocked.take() {
                Some(_) => Sign::Heard,
                None => Sign::Nothing,
            };
        }
        if sends {
            self.unanswered = self.unanswered.saturating_add(1);
        }
        let since = match self.since {
            Some(since) => since,
            None if sends => *self.since.insert(look.now),
            None => return Sign::Nothing,
        };
        let patience = PATIENCE.max(look.rtt * 2);
        let from = self.knocked.unwrap_or(since);
        let due = look.now.saturating_duration_since(from) >= patience;
        if look.waiting && self.unanswered >= LOOKS && due {
            self.knocked = Some(look.now);
            return Sign::Knock;
        }
        Sign::Nothing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RTT: Duration = Duration::from_millis(40);

    /// Looks at these datagrams sent and received, one after the other.
    fn signs(rtt: Duration, waiting: bool, counts: &[(u64, u64)]) -> Vec<Sign> {
        let began = Instant::now();
        let mut silence = Silence::default();
        let looks = counts.iter().zip(0..);
        looks
            .map(|(&(sent, received), number)| {
                silence.look(Look {
                    now: began + LOOK * number,
                    sent,
                    received,
                    rtt,
                    waiting,
                })
            })
            .collect()
    }

    #[test]
    fn who_does_not_answer_is_knocked_at_twice_a_second_until_it_is_heard() {
        use Sign::{Heard, Knock, Nothing};
        let probes = [
            (9, 9),
            (10, 9),
            (11, 9),
            (12, 9),
            (13, 9),
            (13, 9),
            (13, 9),
            (14, 9),
            (14, 10),
            (15, 11),
        ];
        assert_eq!(
            signs(RTT, true, &probes),
            [
                Nothing, Nothing, Nothing, Knock, Nothing, Knock, Nothing, Knock, Heard, Nothing
            ]
        );
        assert!(
            signs(RTT, false, &probes)
                .iter()
                .all(|sign| *sign == Nothing)
        );
    }

    #[test]
    fn an_acknowledgement_of_ours_needs_no_answer() {
        let idle = [
            (1, 1),
            (2, 1),
            (2, 1),
            (2, 1),
            (2, 1),
            (2, 1),
            (2, 1),
            (2, 1),
        ];
        let signs = signs(RTT, true, &idle);
        assert!(signs.iter().all(|sign| *sign == Sign::Nothing), "{signs:?}");
    }

    #[test]
    fn a_long_path_has_time_for_two_round_trips() {
        let busy: Vec<_> = (0..8).map(|number| (number + 1, 1)).collect();
        let signs = signs(Duration::from_millis(600), true, &busy);
        let first = signs.iter().position(|sign| *sign == Sign::Knock);
        assert_eq!(first, Some(6), "1.25 s and more after the first: {signs:?}");
    }
}

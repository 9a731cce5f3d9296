//! Notices that a peer does not answer while calls wait for it, and that it answers again. Pure: it is told what was sent and received.
//!
//! QUIC and TCP repeat what has no answer at ever longer intervals (`docs/decisions/knock-when-silent.md`). After a partition of seconds a connection
//! would stay mute for seconds more, although the path works again. Over QUIC a ping in between is a probe as well: its acknowledgement tells what was
//! lost. Over TCP it only tells a peer that is silent from one that is slow; a dial beside the connection finds the path.

use std::time::{Duration, Instant};

/// How often a connection is looked at while calls are open.
const LOOK: Duration = Duration::from_millis(250);
/// When a transport's peer counts as silent.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Patience {
    /// Minimum silence before the first ping, and between two pings. On a long path it is two round trips.
    pub(crate) least: Duration,
    /// How many looks in a row must have found something sent.
    pub(crate) looks: u32,
}

/// How many pings of one silence go out at full pace. Over QUIC each opens a stream, and all of them arrive at once when the path works again.
const PINGS: u32 = 12;
/// How long after a change of its path a connection may still be silent for it.
const MOVES: Duration = Duration::from_secs(10);
/// How many pings one silence has at most.
const MOST_PINGS: u32 = 16;

/// What a look found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sign {
    Nothing,
    /// Still no answer: it is time to send something new.
    Ping,
    /// The peer was silent, and answers again.
    Heard,
}

/// What a connection has done so far.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Look<P> {
    pub(crate) now: Instant,
    /// The path in use, where a connection can change it.
    pub(crate) path: P,
    /// Datagrams, or bytes.
    pub(crate) sent: u64,
    /// In the same unit.
    pub(crate) received: u64,
    /// The smoothed round trip.
    pub(crate) rtt: Duration,
    /// Whether calls are open.
    pub(crate) waiting: bool,
}

#[derive(Debug)]
pub(crate) struct Silence<P> {
    patience: Patience,
    path: Option<P>,
    moved: Option<Instant>,
    sent: u64,
    received: u64,
    /// When the first datagram was sent that has no answer.
    since: Option<Instant>,
    /// Looks that found something sent, since something was received.
    unanswered: u32,
    /// The pings of this silence: how many, and when the last one was due.
    pings: u32,
    pinged: Option<Instant>,
}

impl<P: Copy + PartialEq> Silence<P> {
    pub(crate) fn new(patience: Patience) -> Self {
        Self {
            patience,
            path: None,
            moved: None,
            sent: 0,
            received: 0,
            since: None,
            unanswered: 0,
            pings: 0,
            pinged: None,
        }
    }

    /// When to look again: `None` if not before a call begins. A peer that was found silent is looked at until it is heard.
    pub(crate) fn next_look(&self, waiting: bool) -> Option<Duration> {
        (waiting || self.pinged.is_some()).then_some(LOOK)
    }

    /// Whether the peer was found silent, and has not been heard since.
    pub(crate) fn is_silent(&self) -> bool {
        self.pinged.is_some()
    }

    /// How many pings this silence has had, the one that is due now included.
    pub(crate) fn pings(&self) -> u32 {
        self.pings
    }

    /// Whether the connection has changed its path not long ago. A dial beside it would only delay its recovery (`docs/decisions/after-a-change-of-address.md`).
    pub(crate) fn moves(&self, now: Instant) -> bool {
        self.moved
            .is_some_and(|moved| now.saturating_duration_since(moved) < MOVES)
    }

    pub(crate) fn look(&mut self, look: Look<P>) -> Sign {
        if self
            .path
            .replace(look.path)
            .is_some_and(|path| path != look.path)
        {
            self.moved = Some(look.now);
        }
        let sends = std::mem::replace(&mut self.sent, look.sent) != look.sent;
        if std::mem::replace(&mut self.received, look.received) != look.received {
            self.since = None;
            self.unanswered = 0;
            self.pings = 0;
            return match self.pinged.take() {
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
        let slower = if self.pings < PINGS { 1 } else { 4 };
        let patience = self.patience.least.max(look.rtt * 2) * slower;
        let from = self.pinged.unwrap_or(since);
        let due = look.now.saturating_duration_since(from) >= patience;
        if look.waiting && self.unanswered >= self.patience.looks && due && self.pings < MOST_PINGS
        {
            self.pinged = Some(look.now);
            self.pings += 1;
            return Sign::Ping;
        }
        Sign::Nothing
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const RTT: Duration = Duration::from_millis(40);
    const QUIC: Patience = Patience {
        least: Duration::from_millis(500),
        looks: 2,
    };

    /// Looks at these datagrams sent and received, one after the other.
    fn signs(rtt: Duration, waiting: bool, counts: &[(u64, u64)]) -> Vec<Sign> {
        let began = Instant::now();
        let mut silence = Silence::new(QUIC);
        let looks = counts.iter().zip(0..);
        looks
            .map(|(&(sent, received), number)| {
                silence.look(Look {
                    now: began + LOOK * number,
                    path: 0u32,
                    sent,
                    received,
                    rtt,
                    waiting,
                })
            })
            .collect()
    }

    #[test]
    fn a_silent_peer_is_pinged_twice_a_second_until_it_is_heard() {
        use Sign::{Heard, Nothing, Ping};
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
                Nothing, Nothing, Nothing, Ping, Nothing, Ping, Nothing, Ping, Heard, Nothing
            ]
        );
        assert!(
            signs(RTT, false, &probes)
                .iter()
                .all(|sign| *sign == Nothing)
        );
    }

    #[test]
    fn a_connection_that_changed_its_path_is_known_for_a_while() {
        let now = Instant::now();
        let mut silence = Silence::new(QUIC);
        let mut look = |path: u32, seconds| {
            let now = now + Duration::from_secs(seconds);
            silence.look(Look {
                now,
                path,
                sent: 0,
                received: 0,
                rtt: RTT,
                waiting: true,
            });
            silence.moves(now)
        };
        assert!(!look(0, 0));
        assert!(look(2, 1) && look(2, 10));
        assert!(!look(2, 11));
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
        let first = signs.iter().position(|sign| *sign == Sign::Ping);
        assert_eq!(first, Some(6), "1.25 s and more after the first: {signs:?}");
    }

    /// All of a silence's pings arrive at once when the path works again.
    #[test]
    fn one_silence_has_a_bounded_number_of_pings() {
        let mut counts = vec![(0, 1)];
        counts.extend((0..400).map(|number| (number + 1, 1)));
        let signs = signs(RTT, true, &counts);
        let pings = |until: Duration| {
            let looks = until.div_duration_f64(LOOK) as usize;
            let signs = signs.iter().take(looks);
            signs.filter(|sign| **sign == Sign::Ping).count()
        };
        let seconds = [5, 7, 10, 15, 100].map(|seconds| pings(Duration::from_secs(seconds)));
        assert_eq!(seconds, [9, 12, 13, 16, 16]);
    }

    #[test]
    fn a_connection_that_nobody_waits_for_is_not_looked_at() {
        let mut silence = Silence::new(QUIC);
        assert_eq!(silence.next_look(false), None);
        assert_eq!(silence.next_look(true), Some(LOOK));
        let mut look = Look {
            now: Instant::now(),
            path: 0u32,
            sent: 0,
            received: 0,
            rtt: RTT,
            waiting: true,
        };
        while silence.look(look) != Sign::Ping {
            look.now += LOOK;
            look.sent += 1;
        }
        assert_eq!(silence.next_look(false), Some(LOOK), "until it is heard");
        look.received += 1;
        assert_eq!(silence.look(look), Sign::Heard);
        assert_eq!(silence.next_look(false), None);
    }
}

use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn queue(calls: usize, bytes: usize, overflow: Overflow) -> Queue<u64> {
    Queue::new(Limits {
        calls,
        bytes,
        ttl: SECOND * 30,
        overflow,
    })
}

fn urgency(n: u8) -> Urgency {
    Urgency::new(n).expect("in range")
}

/// accepted = delivered + failed + expired + dropped + cancelled + in flight + waiting.
fn sum(stats: &BufferStats) -> u64 {
    stats.delivered
        + stats.failed
        + stats.expired
        + stats.dropped
        + stats.cancelled
        + stats.in_flight
        + stats.waiting as u64
}

/// Fills a queue with calls of (urgency, bytes), valued by their place in the list.
fn filled(mut queue: Queue<u64>, calls: &[(u8, usize)]) -> Queue<u64> {
    let now = Instant::now();
    for (n, &(u, bytes)) in calls.iter().enumerate() {
        let arrived = queue.arrive(now, urgency(u), bytes, None, n as u64);
        assert!(arrived.is_ok(), "call {n}");
    }
    queue
}

fn drain(mut queue: Queue<u64>) -> Vec<u64> {
    let now = Instant::now();
    std::iter::from_fn(|| Some(queue.take(now).0?.1)).collect()
}

fn arrive(queue: &mut Queue<u64>, u: u8, bytes: usize) -> Result<Vec<u64>, Full> {
    match queue.arrive(Instant::now(), urgency(u), bytes, None, 99) {
        Ok((_, gone)) => Ok(gone.into_iter().map(|(_, value, _)| value).collect()),
        Err((_, full)) => Err(full),
    }
}

#[test]
fn urgency_first_then_arrival() {
    let queue = filled(
        queue(9, 9, Overflow::RejectNewest),
        &[(3, 1), (6, 1), (1, 1), (3, 1), (1, 1)],
    );
    assert_eq!(drain(queue), [2, 4, 0, 3, 1]);
}

#[test]
fn each_policy_lets_another_go() {
    let calls = [(3, 1), (1, 1), (6, 1), (6, 1)];
    let mut reject = filled(queue(4, 100, Overflow::RejectNewest), &calls);
    assert_eq!(arrive(&mut reject, 0, 1), Err(Full::Calls));
    assert_eq!(drain(reject), [1, 0, 2, 3]);

    let mut oldest = filled(queue(4, 100, Overflow::DropOldest), &calls);
    assert_eq!(arrive(&mut oldest, 7, 1), Ok(vec![0]));
    assert_eq!(drain(oldest), [1, 2, 3, 99]);

    let mut lowest = filled(queue(4, 100, Overflow::DropLowest), &calls);
    assert_eq!(
        arrive(&mut lowest, 5, 1),
        Ok(vec![3]),
        "the newest of the lowest"
    );
    assert_eq!(
        arrive(&mut lowest, 6, 1),
        Err(Full::Calls),
        "itself the lowest"
    );
    assert_eq!(drain(lowest), [1, 0, 99, 2]);
}

#[test]
fn bytes_are_a_limit_of_their_own() {
    let calls = [(3, 4), (6, 4)];
    let mut reject = filled(queue(9, 10, Overflow::RejectNewest), &calls);
    assert_eq!(arrive(&mut reject, 0, 3), Err(Full::Bytes));
    assert_eq!(arrive(&mut reject, 0, 11), Err(Full::TooLarge));
    assert_eq!(arrive(&mut reject, 0, 2), Ok(vec![]));

    let mut oldest = filled(queue(9, 10, Overflow::DropOldest), &calls);
    assert_eq!(arrive(&mut oldest, 3, 10), Ok(vec![0, 1]));

    let mut lowest = filled(queue(9, 10, Overflow::DropLowest), &calls);
    assert_eq!(
        arrive(&mut lowest, 5, 7),
        Err(Full::Bytes),
        "one is less urgent, and its going would not do"
    );
    assert_eq!(lowest.counters().waiting, 2, "so nobody went");
    assert_eq!(arrive(&mut lowest, 5, 6), Ok(vec![1]));
}

#[test]
fn a_call_that_comes_back_stands_where_it_stood() {
    let now = Instant::now();
    let mut queue = filled(queue(9, 9, Overflow::RejectNewest), &[(3, 1), (3, 1)]);
    let (ticket, value) = queue.take(now).0.expect("a head");
    assert_eq!((value, ticket.attempts), (0, 1));
    assert!(queue.put_back(now, ticket, value).is_ok());
    let (ticket, value) = queue.take(now).0.expect("a head");
    assert_eq!((value, ticket.attempts), (0, 2));
    assert_eq!(queue.counters().attempts, 2);
    // Its time goes on.
    let late = queue.put_back(now + SECOND * 31, ticket, value);
    assert_eq!(late, Err((0, Late::Ttl)));
    assert_eq!(queue.counters().expired, 1);
    assert_eq!(sum(queue.counters()), queue.counters().accepted);
}

#[test]
fn a_call_that_was_rejected_lets_the_others_pass() {
    let now = Instant::now();
    let mut queue = filled(queue(9, 9, Overflow::RejectNewest), &[(1, 1), (3, 1)]);
    let (mut ticket, value) = queue.take(now).0.expect("a head");
    ticket.rejected(now);
    let again = ticket.not_before.expect("a time");
    assert!(queue.put_back(now, ticket, value).is_ok());
    assert_eq!(queue.next_try(now), None);
    assert_eq!(queue.take(now).0.expect("the other").1, 1);
    assert!(queue.is_idle(now) && queue.next_try(now) == Some(again));
    assert!(queue.take(now).0.is_none());
    assert!(!queue.is_idle(again));
    assert_eq!(queue.take(again).0.expect("its time").1, 0);
}

#[test]
fn calls_in_flight_keep_their_room() {
    let now = Instant::now();
    let straight = |queue: &mut Queue<u64>, bytes| queue.straight(now, urgency(3), bytes, None);
    let mut queue = queue(3, 10, Overflow::DropOldest);
    let first = straight(&mut queue, 6);
    assert_eq!(first.unheld, None);
    assert_eq!(straight(&mut queue, 11).unheld, Some(Full::TooLarge));
    assert_eq!(straight(&mut queue, 5).unheld, Some(Full::Bytes));
    let second = straight(&mut queue, 1);
    assert_eq!(arrive(&mut queue, 3, 1), Ok(vec![]));
    let beyond = straight(&mut queue, 0);
    assert_eq!(
        beyond.unheld,
        Some(Full::Calls),
        "not refused, and not held"
    );
    assert_eq!(
        arrive(&mut queue, 3, 4),
        Err(Full::Bytes),
        "of 7 none waits"
    );
    assert_eq!(
        arrive(&mut queue, 3, 3),
        Ok(vec![99]),
        "only who waits goes"
    );
    // Whoever comes back needs no room, and whoever ends leaves some.
    assert!(queue.put_back(now, first, 0).is_ok());
    queue.end(&beyond, End::Delivered);
    assert_eq!(straight(&mut queue, 0).unheld, Some(Full::Calls));
    queue.end(&second, End::Delivered);
    assert_eq!(straight(&mut queue, 1).unheld, None);
}

#[test]
fn time_to_live_ends_on_a_sweep_and_a_deadline_at_once() {
    let now = Instant::now();
    let mut queue = queue(9, 9, Overflow::RejectNewest);
    let deadline = Some(now + SECOND);
    assert!(queue.arrive(now, urgency(3), 1, deadline, 0).is_ok());
    assert!(queue.arrive(now, urgency(3), 1, None, 1).is_ok());
    assert_eq!(queue.next_deadline(), deadline);
    let gone = queue.expire(now + SECOND, false);
    assert!(matches!(gone[..], [(_, 0, Late::Deadline)]));
    assert!(queue.expire(now + SECOND * 31, false).is_empty());
    let gone = queue.expire(now + SECOND * 30, true);
    assert!(matches!(gone[..], [(_, 1, Late::Ttl)]));
    assert_eq!(queue.counters().bytes, 0);
    // A head whose time is over is not handed over, swept or not.
    assert!(queue.arrive(now, urgency(3), 1, None, 2).is_ok());
    let (taken, gone) = queue.take(now + SECOND * 30);
    assert!(taken.is_none() && gone.len() == 1);
    assert_eq!(queue.counters().expired, 3);
}

#[derive(Clone, Debug)]
enum Op {
    Arrive {
        urgency: u8,
        bytes: usize,
        deadline: Option<u64>,
    },
    Straight {
        bytes: usize,
    },
    Leave(prop::sample::Index),
    Take,
    /// The seconds until it may be tried again.
    PutBack(prop::sample::Index, Option<u64>),
    Hurry,
    End(prop::sample::Index, u8),
    Pass(u64),
    Sweep,
    Clear,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => (0u8..8, 0usize..8, prop::option::of(1u64..40))
            .prop_map(|(urgency, bytes, deadline)| Op::Arrive { urgency, bytes, deadline }),
        1 => (0usize..8).prop_map(|bytes| Op::Straight { bytes }),
        2 => any::<prop::sample::Index>().prop_map(Op::Leave),
        4 => Just(Op::Take),
        3 => (any::<prop::sample::Index>(), prop::option::of(1u64..20)).prop_map(|(n, wait)| Op::PutBack(n, wait)),
        1 => Just(Op::Hurry),
        2 => (any::<prop::sample::Index>(), 0u8..3).prop_map(|(n, how)| Op::End(n, how)),
        2 => (1u64..15).prop_map(Op::Pass),
        1 => Just(Op::Sweep),
        1 => Just(Op::Clear),
    ]
}

/// The same rules, said with a list.
struct Model {
    waiting: Vec<(Ticket, u64)>,
    flying: Vec<(Ticket, u64)>,
    limits: Limits,
}

impl Model {
    /// Who goes for `newcomer`; `None` if it is refused.
    fn victims(&self, newcomer: Ticket) -> Option<Vec<u64>> {
        let mut left = self.waiting.clone();
        let mut victims = Vec::new();
        loop {
            if self.fits(&left, newcomer.bytes) {
                return Some(victims);
            }
            let next = match self.limits.overflow {
                Overflow::RejectNewest => None,
                Overflow::DropOldest => (0..left.len())
                    .min_by_key(|&n| left[n].0.key.seq)
                    .filter(|&n| left[n].0.key.seq < newcomer.key.seq),
                Overflow::DropLowest => (0..left.len())
                    .max_by_key(|&n| left[n].0.key)
                    .filter(|&n| left[n].0.key > newcomer.key),
            };
            victims.push(left.remove(next?).1);
        }
    }

    /// Calls and bytes that are held if `waiting` wait.
    fn held(&self, waiting: &[(Ticket, u64)]) -> (usize, usize) {
        let flying = self
            .flying
            .iter()
            .filter(|(ticket, _)| ticket.unheld.is_none());
        let all = waiting.iter().chain(flying);
        all.fold((0, 0), |(n, bytes), (ticket, _)| {
            (n + 1, bytes + ticket.bytes)
        })
    }

    fn fits(&self, waiting: &[(Ticket, u64)], newcomer: usize) -> bool {
        let (calls, bytes) = self.held(waiting);
        calls < self.limits.calls && bytes + newcomer <= self.limits.bytes
    }

    fn forget(&mut self, values: &[u64]) {
        self.waiting.retain(|(_, value)| !values.contains(value));
    }

    /// Who may go now, the next one first.
    fn next(&self, now: Instant) -> Option<u64> {
        let due = self
            .waiting
            .iter()
            .filter(|(ticket, _)| ticket.not_before.is_none_or(|at| at <= now));
        due.min_by_key(|(ticket, _)| ticket.key)
            .map(|(_, value)| *value)
    }

    fn late(&self, ticket: &Ticket, now: Instant) -> bool {
        ticket.deadline.is_some_and(|at| at <= now) || now - ticket.arrived >= self.limits.ttl
    }
}

fn values<W>(gone: &Evicted<u64, W>) -> Vec<u64> {
    gone.iter().map(|(_, value, _)| *value).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 10_000, max_shrink_iters: 20_000, ..ProptestConfig::default() })]

    /// Arrival, cancellation, expiry, failure and recovery in any order: the sum holds after each step, and a plain list agrees on who
    /// waits, who is next and who goes.
    #[test]
    fn any_schedule_keeps_the_sum(
        policy in prop_oneof![Just(Overflow::RejectNewest), Just(Overflow::DropOldest), Just(Overflow::DropLowest)],
        ops in prop::collection::vec(op(), 1..60),
    ) {
        let mut now = Instant::now();
        let mut queue = queue(6, 24, policy);
        let mut model = Model { waiting: Vec::new(), flying: Vec::new(), limits: queue.limits };
        let mut ended = 0u64;
        for (n, op) in ops.into_iter().enumerate() {
            let value = n as u64;
            match op {
                Op::Arrive { urgency: u, bytes, deadline } => {
                    let deadline = deadline.map(|secs| now + SECOND * secs as u32);
                    let key = Key { urgency: urgency(u), seq: queue.next_seq };
                    let ticket = Ticket { key, bytes, arrived: now, deadline, attempts: 0, rejections: 0, not_before: None, unheld: None };
                    let expected = model.victims(ticket);
                    match queue.arrive(now, key.urgency, bytes, deadline, value) {
                        Ok((given, gone)) => {
                            prop_assert_eq!(given, key);
                            prop_assert_eq!(Some(values(&gone)), expected);
                            ended += gone.len() as u64;
                            model.forget(&values(&gone));
                            model.waiting.push((ticket, value));
                        }
                        Err(_) => prop_assert_eq!(expected, None),
                    }
                }
                Op::Straight { bytes } => {
                    let fits = model.fits(&model.waiting, bytes);
                    let ticket = queue.straight(now, Urgency::default(), bytes, None);
                    prop_assert_eq!(ticket.unheld.is_none(), fits);
                    model.flying.push((ticket, value));
                }
                Op::Leave(index) if !model.waiting.is_empty() => {
                    let (ticket, value) = model.waiting.remove(index.index(model.waiting.len()));
                    prop_assert_eq!(queue.leave(ticket.key), Some(value));
                    prop_assert_eq!(queue.leave(ticket.key), None, "once");
                    ended += 1;
                }
                Op::Take => {
                    let (taken, gone) = queue.take(now);
                    ended += gone.len() as u64;
                    model.forget(&values(&gone));
                    prop_assert_eq!(taken.as_ref().map(|(_, value)| *value), model.next(now));
                    if let Some((ticket, value)) = taken {
                        prop_assert!(!model.late(&ticket, now));
                        model.forget(&[value]);
                        model.flying.push((ticket, value));
                    }
                }
                Op::PutBack(index, wait) if !model.flying.is_empty() => {
                    let (mut ticket, value) = model.flying.remove(index.index(model.flying.len()));
                    ticket.not_before = wait.map(|secs| now + SECOND * secs as u32);
                    if ticket.unheld.is_some() {
                        queue.end(&ticket, End::Failed);
                        ended += 1;
                    } else if let Err((given, _)) = queue.put_back(now, ticket, value) {
                        prop_assert!(given == value && model.late(&ticket, now));
                        ended += 1;
                    } else {
                        prop_assert!(!model.late(&ticket, now));
                        model.waiting.push((ticket, value));
                    }
                }
                Op::End(index, how) if !model.flying.is_empty() => {
                    let (ticket, _) = model.flying.remove(index.index(model.flying.len()));
                    queue.end(&ticket, [End::Delivered, End::Failed, End::Cancelled][usize::from(how)]);
                    ended += 1;
                }
                Op::Pass(secs) => {
                    now += SECOND * secs as u32;
                    let gone = queue.expire(now, false);
                    ended += gone.len() as u64;
                    model.waiting.retain(|(ticket, _)| ticket.deadline.is_none_or(|at| at > now));
                }
                Op::Sweep => {
                    let gone = queue.expire(now, true);
                    ended += gone.len() as u64;
                    let limits = model.limits;
                    model.waiting.retain(|(ticket, _)| {
                        ticket.deadline.is_none_or(|at| at > now) && now - ticket.arrived < limits.ttl
                    });
                }
                Op::Hurry => {
                    queue.hurry();
                    model.waiting.iter_mut().for_each(|(ticket, _)| ticket.not_before = None);
                }
                Op::Clear => {
                    ended += queue.clear().len() as u64;
                    model.waiting.clear();
                }
                Op::Leave(_) | Op::PutBack(..) | Op::End(..) => {}
            }
            let stats = queue.stats(now);
            prop_assert_eq!(sum(&stats), stats.accepted);
            prop_assert_eq!(stats.accepted, ended + stats.in_flight + stats.waiting as u64);
            prop_assert_eq!(stats.in_flight, model.flying.len() as u64);
            prop_assert_eq!(stats.waiting, model.waiting.len());
            prop_assert_eq!(stats.bytes, model.waiting.iter().map(|(ticket, _)| ticket.bytes).sum::<usize>());
            let (calls, bytes) = model.held(&model.waiting);
            prop_assert!(calls <= 6 && bytes <= 24);
            let oldest = model.waiting.iter().map(|(ticket, _)| ticket).min_by_key(|ticket| ticket.key.seq);
            prop_assert_eq!(stats.oldest, oldest.map(|ticket| now - ticket.arrived));
            prop_assert_eq!(queue.is_idle(now), model.next(now).is_none());
            let first = model.waiting.iter().filter_map(|(ticket, _)| ticket.not_before).min();
            prop_assert_eq!(queue.next_try(now), first.filter(|_| queue.is_idle(now)));
            prop_assert_eq!(
                queue.next_deadline(),
                model.waiting.iter().filter_map(|(ticket, _)| ticket.deadline).min()
            );
        }
    }
}

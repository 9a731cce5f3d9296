//! A lane's permits: each lets one call onto one stream of the lane. They go to the most urgent call that waits, in order of arrival among equals.
//!
//! Readiness: `acquire` does nothing before it is polled. Cancel safety: a dropped [`Acquire`] leaves nothing behind, whether it was waiting or had
//! been given a permit that it had not seen yet. Wake-ups: a call that gives up its permit hands it to the first in the queue and wakes that one alone.

use std::{
    collections::{BTreeMap, HashMap},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll, Waker},
};

use tower_iroh_layers::Urgency;

use crate::lock::lock;

/// How many calls go on a stream before any stream of its lane was told how many its peer takes, which is a round trip. h2 keeps what is beyond the
/// peer's limit to itself, in no order of urgency, and it does not go on another stream then. gRPC's other clients let no call go so early.
const BEFORE_TOLD: usize = 10;

/// The permits of one lane. Clones share.
#[derive(Clone, Debug)]
pub(crate) struct Permits {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    most: usize,
    max_waiting: usize,
}

#[derive(Debug)]
struct State {
    streams: Box<[Stream]>,
    /// How many calls a stream has before a further one is opened.
    fill: usize,
    /// Whether calls go where there are fewest, instead of filling one stream before the next.
    spread: bool,
    /// No further permit is given.
    closed: bool,
    /// In the order in which they are served: the more urgent first, then the earlier.
    waiting: BTreeMap<(Urgency, u64), Waker>,
    /// Calls that were given a permit and have not been polled since, with their stream.
    given: HashMap<u64, usize>,
    next: u64,
}

#[derive(Clone, Debug)]
struct Stream {
    calls: usize,
    /// How many calls it takes. More may be there, from before it was lowered.
    limit: usize,
    /// The peer has said how many it takes; until then a stream goes by what the others were told.
    told: bool,
    /// It takes none for now.
    paused: bool,
}

impl Permits {
    /// A further stream is opened when those before it have `fill` calls. None has more than `most`.
    pub(crate) fn new(streams: usize, fill: usize, most: usize, max_waiting: usize) -> Self {
        let stream = Stream {
            calls: 0,
            limit: most.min(BEFORE_TOLD),
            told: false,
            paused: false,
        };
        Self {
            shared: Arc::new(Shared {
                state: Mutex::new(State {
                    streams: vec![stream; streams].into(),
                    fill,
                    spread: false,
                    closed: false,
                    waiting: BTreeMap::new(),
                    given: HashMap::new(),
                    next: 0,
                }),
                most,
                max_waiting,
            }),
        }
    }

    /// Waits for a permit.
    pub(crate) fn acquire(&self, urgency: Urgency) -> Acquire {
        Acquire {
            shared: self.shared.clone(),
            urgency,
            ticket: None,
        }
    }

    /// How many calls wait for a permit.
    pub(crate) fn waiting(&self) -> usize {
        self.shared.lock().waiting.len()
    }

    /// Whether calls are spread over the streams, from the next one on.
    pub(crate) fn spread(&self, spread: bool) {
        self.shared.change(|state| state.spread = spread);
    }

    /// The peer takes at most `calls` at once on this stream. Permits that are out stay. At least one call is let in, so that the end of a stream that
    /// takes none for now is noticed. `calls` is asked under the lock: of two who tell, the later one knows better. It may not know yet.
    pub(crate) fn limit(&self, stream: usize, calls: impl FnOnce() -> Option<usize>) {
        self.shared.change(|state| {
            let Some(calls) = calls() else { return };
            let limit = calls.clamp(1, self.shared.most);
            state.streams[stream].told = true;
            for (index, other) in state.streams.iter_mut().enumerate() {
                if index == stream || !other.told {
                    other.limit = limit;
                }
            }
        });
    }

    /// Lets no further call onto a stream until the guard is dropped.
    pub(crate) fn pause(&self, stream: usize) -> Pause {
        self.shared.pause(stream, true);
        Pause {
            shared: self.shared.clone(),
            stream,
        }
    }

    /// Refuses everybody who waits, and everybody who asks from now on. Permits that are out stay.
    pub(crate) fn close(&self) {
        let mut state = self.shared.lock();
        state.closed = true;
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        for waker in waiting.into_values() {
            waker.wake();
        }
    }
}

impl Stream {
    fn has_room(&self) -> bool {
        self.calls < self.limit
    }
}

impl State {
    /// The stream that the next call goes on, where one has room.
    fn next_stream(&self) -> Option<usize> {
        let streams = self.streams.iter().enumerate();
        let mut open = streams.filter(|(_, stream)| !stream.paused);
        let fewest = |(_, stream): &(usize, &Stream)| (!stream.has_room(), stream.calls);
        let (index, stream) = if self.spread {
            open.min_by_key(fewest)
        } else if self.streams.iter().any(|stream| stream.told) {
            // A further stream is opened only when those before it have their fill, so that few calls share the packets of few streams.
            let not_full = |(_, it): &(usize, &Stream)| it.has_room() && it.calls < self.fill;
            open.clone()
                .find(not_full)
                .or_else(|| open.min_by_key(fewest))
        } else {
            // Whether the first is full is not known yet.
            open.next()
        }?;
        stream.has_room().then_some(index)
    }

    /// Lets a call onto a stream, and says which, where one has room.
    fn take(&mut self) -> Option<usize> {
        let stream = self.next_stream()?;
        self.streams[stream].calls += 1;
        Some(stream)
    }

    /// Gives a permit to the first in the queue, where there are both. The caller wakes it.
    fn give(&mut self) -> Option<Waker> {
        if self.waiting.is_empty() {
            return None;
        }
        let stream = self.take()?;
        let ((_, ticket), waker) = self.waiting.pop_first()?;
        self.given.insert(ticket, stream);
        Some(waker)
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// Whether a waiting call was given a permit.
    fn give(&self) -> bool {
        let given = self.lock().give();
        given.map(Waker::wake).is_some()
    }

    /// Changes what has room, and gives the room to those who wait.
    fn change(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.lock());
        while self.give() {}
    }

    fn pause(&self, stream: usize, paused: bool) {
        self.change(|state| state.streams[stream].paused = paused);
    }

    fn leave(&self, stream: usize) {
        let mut state = self.lock();
        state.streams[stream].calls -= 1;
        let next = state.give();
        drop(state);
        if let Some(waker) = next {
            waker.wake();
        }
    }
}

/// A call's place on a stream of the lane; dropping it gives it up.
#[derive(Debug)]
pub(crate) struct Permit {
    shared: Arc<Shared>,
    stream: usize,
}

impl Permit {
    /// Which of the lane's streams the call goes on.
    pub(crate) fn stream(&self) -> usize {
        self.stream
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.shared.leave(self.stream);
    }
}

/// See [`Permits::pause`].
#[derive(Debug)]
pub(crate) struct Pause {
    shared: Arc<Shared>,
    stream: usize,
}

impl Drop for Pause {
    fn drop(&mut self) {
        self.shared.pause(self.stream, false);
    }
}

/// Why there is no permit.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum NoPermit {
    /// Too many wait already.
    QueueFull,
    /// The lane takes no further call.
    Closed,
}

/// The wait for a permit.
#[derive(Debug)]
pub(crate) struct Acquire {
    shared: Arc<Shared>,
    urgency: Urgency,
    /// The number in the queue, from the first poll that found no room until the permit is taken.
    ticket: Option<u64>,
}

impl Future for Acquire {
    type Output = Result<Permit, NoPermit>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let mut state = this.shared.lock();
        let stream = match this.ticket {
            None if state.closed => return Poll::Ready(Err(NoPermit::Closed)),
            // Whatever has room here was not given to those who wait, so nobody waits: permits go to the queue first.
            None => match state.take() {
                Some(stream) => stream,
                None if state.waiting.len() >= this.shared.max_waiting => {
                    return Poll::Ready(Err(NoPermit::QueueFull));
                }
                None => {
                    let ticket = state.next;
                    state.next += 1;
                    let key = (this.urgency, ticket);
                    state.waiting.insert(key, cx.waker().clone());
                    this.ticket = Some(ticket);
                    return Poll::Pending;
                }
            },
            Some(ticket) => match state.given.remove(&ticket) {
                Some(stream) => {
                    this.ticket = None;
                    stream
                }
                None if state.closed => {
                    this.ticket = None;
                    return Poll::Ready(Err(NoPermit::Closed));
                }
                None => {
                    let key = (this.urgency, ticket);
                    let old = state.waiting.insert(key, cx.waker().clone());
                    // Dropping a waker can run code of others, who may want this lock.
                    drop(state);
                    drop(old);
                    return Poll::Pending;
                }
            },
        };
        drop(state);
        Poll::Ready(Ok(Permit {
            shared: this.shared.clone(),
            stream,
        }))
    }
}

impl Drop for Acquire {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket else { return };
        let mut state = self.shared.lock();
        let waker = state.waiting.remove(&(self.urgency, ticket));
        // Given and never seen: on to the next.
        let given = state.given.remove(&ticket);
        drop(state);
        drop(waker);
        if let Some(stream) = given {
            self.shared.leave(stream);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use proptest::prelude::*;
    use tokio_test::{assert_pending, assert_ready, task};

    use super::*;

    /// Permits whose peer has said that it takes as many.
    fn permits(streams: usize, calls: usize, max_waiting: usize) -> Permits {
        let permits = Permits::new(streams, calls, calls, max_waiting);
        permits.limit(0, || Some(calls));
        permits
    }

    #[test]
    fn the_more_urgent_goes_first_and_equals_by_arrival() {
        let permits = permits(1, 1, 10);
        let permit =
            assert_ready!(task::spawn(permits.acquire(Urgency::BULK)).poll()).expect("a permit");
        let mut bulk = task::spawn(permits.acquire(Urgency::BULK));
        let mut first = task::spawn(permits.acquire(Urgency::INTERACTIVE));
        let mut second = task::spawn(permits.acquire(Urgency::INTERACTIVE));
        for waiting in [&mut bulk, &mut first, &mut second] {
            assert_pending!(waiting.poll());
        }
        drop(permit);
        assert!(first.is_woken() && !bulk.is_woken() && !second.is_woken());
        drop(assert_ready!(first.poll()).expect("a permit"));
        drop(assert_ready!(second.poll()).expect("a permit"));
        assert_ready!(bulk.poll()).expect("a permit");
    }

    #[test]
    fn a_waiter_who_leaves_with_an_unseen_place_passes_it_on() {
        let permits = permits(1, 1, 10);
        let permit =
            assert_ready!(task::spawn(permits.acquire(Urgency::BULK)).poll()).expect("a permit");
        let mut gone = task::spawn(permits.acquire(Urgency::CONTROL));
        let mut next = task::spawn(permits.acquire(Urgency::BULK));
        assert_pending!(gone.poll());
        assert_pending!(next.poll());
        drop(permit);
        drop(gone);
        assert!(next.is_woken());
        assert_ready!(next.poll()).expect("a permit");
    }

    #[test]
    fn a_full_queue_refuses() {
        let permits = permits(1, 1, 1);
        let _permit = assert_ready!(task::spawn(permits.acquire(Urgency::BULK)).poll());
        let mut waiting = task::spawn(permits.acquire(Urgency::BULK));
        assert_pending!(waiting.poll());
        let refused = assert_ready!(task::spawn(permits.acquire(Urgency::HIGHEST)).poll());
        assert_eq!(refused.expect_err("crowded"), NoPermit::QueueFull);
    }

    #[test]
    fn closed_permits_let_all_go_who_wait() {
        let permits = permits(1, 1, 10);
        let permit =
            assert_ready!(task::spawn(permits.acquire(Urgency::BULK)).poll()).expect("a permit");
        let mut waiting = task::spawn(permits.acquire(Urgency::BULK));
        assert_pending!(waiting.poll());
        permits.close();
        assert!(waiting.is_woken());
        let refused = assert_ready!(waiting.poll()).expect_err("closed");
        assert_eq!(refused, NoPermit::Closed);
        // Room is of no use any more.
        drop(permit);
        let refused = assert_ready!(task::spawn(permits.acquire(Urgency::HIGHEST)).poll());
        assert_eq!(refused.expect_err("closed"), NoPermit::Closed);
    }

    #[test]
    fn a_limit_holds_for_streams_that_were_told_nothing_and_room_goes_to_those_who_wait() {
        let permits = permits(2, 3, 10);
        let acquire = || task::spawn(permits.acquire(Urgency::BULK));
        let stream = || {
            let permit = assert_ready!(acquire().poll()).expect("a permit");
            (permit.stream(), permit)
        };
        let (first, second) = (stream(), stream());
        assert_eq!((first.0, second.0), (0, 0));
        permits.limit(0, || Some(1));
        // What is out stays, the next goes to the other stream, and that one takes one as well.
        let third = stream();
        assert_eq!(third.0, 1);
        let mut waiting = [acquire(), acquire()];
        for waiting in &mut waiting {
            assert_pending!(waiting.poll());
        }
        drop(first);
        assert!(!waiting[0].is_woken(), "one is there still");
        // Told that it takes more, it lets all of them in.
        permits.limit(1, || Some(1000));
        for waiting in &mut waiting {
            let permit = assert_ready!(waiting.poll()).expect("a permit");
            assert_eq!(permit.stream(), 1);
            // It goes on with the next.
            drop(permit);
        }
        permits.limit(1, || Some(0));
        drop((second, third));
        let (first, second) = (stream(), stream());
        assert_eq!((first.0, second.0), (0, 1), "one is let in everywhere");
    }

    #[test]
    fn until_a_stream_was_told_ten_calls_go_on_it_and_no_further_one_opens() {
        let permits = Permits::new(3, 100, usize::MAX, 100);
        let acquire = || task::spawn(permits.acquire(Urgency::BULK));
        let held: Vec<_> = (0..10).map(|_| assert_ready!(acquire().poll())).collect();
        let mut waiting: Vec<_> = (0..20).map(|_| acquire()).collect();
        for waiting in &mut waiting {
            assert_pending!(waiting.poll());
        }
        permits.limit(0, || None);
        assert!(!waiting[0].is_woken(), "nothing is known yet");
        permits.limit(0, || Some(10));
        let streams = waiting.iter_mut().map(|waiting| {
            let permit = assert_ready!(waiting.poll()).expect("a permit");
            (permit.stream(), permit)
        });
        let streams: Vec<_> = streams.collect();
        let on = |n| streams.iter().filter(|(stream, _)| *stream == n).count();
        assert_eq!((on(0), on(1), on(2)), (0, 10, 10));
        drop(held);
    }

    #[test]
    fn streams_have_their_fill_before_further_ones_open_and_then_share_what_comes() {
        let permits = Permits::new(3, 2, usize::MAX, 100);
        for told in 0..3 {
            permits.limit(told, || Some(usize::MAX));
        }
        let stream = || {
            let permit = assert_ready!(task::spawn(permits.acquire(Urgency::BULK)).poll());
            permit.expect("a permit")
        };
        let held: Vec<_> = (0..12).map(|_| stream()).collect();
        let order: Vec<_> = held.iter().map(Permit::stream).collect();
        assert_eq!(order, [0, 0, 1, 1, 2, 2, 0, 1, 2, 0, 1, 2]);
        // A peer that takes fewer has fewer.
        permits.limit(1, || Some(4));
        let next: Vec<_> = (0..3).map(|_| stream()).collect();
        let order: Vec<_> = next.iter().map(Permit::stream).collect();
        assert_eq!(order, [0, 2, 0]);
    }

    proptest! {
        /// Every operation takes the one lock once, so the order of operations is all that a schedule can differ in.
        #[test]
        fn places_are_neither_lost_nor_made(
            streams in 1usize..4,
            calls in 1usize..4,
            fill in 1usize..4,
            steps in proptest::collection::vec((0u8..7, any::<prop::sample::Index>(), 0u8..=7), 0..200),
            closes in any::<bool>(),
        ) {
            let permits = Permits::new(streams, fill, calls, 1000);
            let mut acquiring = Vec::new();
            let mut held = Vec::new();
            let mut pauses: Vec<_> = (0..streams).map(|_| None).collect();
            // Before the first limit no stream has more calls than it takes.
            let mut limited = false;
            let last = steps.len() / 2;
            for (n, (step, which, urgency)) in steps.into_iter().enumerate() {
                match step {
                    _ if closes && n == last => permits.close(),
                    0 => {
                        let urgency = Urgency::new(urgency).expect("in range");
                        let mut acquire = task::spawn(permits.acquire(urgency));
                        match acquire.poll() {
                            Poll::Ready(Ok(permit)) => held.push(permit),
                            Poll::Ready(Err(error)) => prop_assert_eq!(error, NoPermit::Closed),
                            Poll::Pending => acquiring.push(acquire),
                        }
                    }
                    1 if !held.is_empty() => drop(held.swap_remove(which.index(held.len()))),
                    2 => {
                        limited = true;
                        permits.limit(which.index(streams), || (urgency > 0).then_some(usize::from(urgency)));
                    }
                    3 => permits.spread(urgency > 3),
                    4 => {
                        let stream = which.index(streams);
                        pauses[stream] = None;
                        pauses[stream] = Some(permits.pause(stream));
                    }
                    5 => pauses[which.index(streams)] = None,
                    _ if !acquiring.is_empty() => {
                        // Polled, or dropped in whatever state it is.
                        let mut acquire = acquiring.swap_remove(which.index(acquiring.len()));
                        if urgency > 3 {
                            match acquire.poll() {
                                Poll::Ready(Ok(permit)) => held.push(permit),
                                Poll::Ready(Err(error)) => prop_assert_eq!(error, NoPermit::Closed),
                                Poll::Pending => acquiring.push(acquire),
                            }
                        }
                    }
                    _ => {}
                }
                let state = permits.shared.lock();
                let counted: usize = state.streams.iter().map(|stream| stream.calls).sum();
                prop_assert_eq!(counted, held.len() + state.given.len());
                for (index, stream) in state.streams.iter().enumerate() {
                    let here = held.iter().filter(|permit| permit.stream == index).count();
                    let given = state.given.values().filter(|stream| **stream == index).count();
                    prop_assert_eq!(stream.calls, here + given);
                    prop_assert!(stream.limit >= 1 && stream.limit <= calls);
                    prop_assert!(limited || stream.calls <= calls);
                    prop_assert!(stream.calls <= calls, "what was out fitted before");
                    prop_assert_eq!(stream.paused, pauses[index].is_some());
                                    }
                prop_assert!(state.waiting.is_empty() || state.next_stream().is_none(), "nobody waits beside room");
                if state.closed {
                    prop_assert!(state.waiting.is_empty(), "nobody waits for nothing");
                } else {
                    prop_assert_eq!(state.waiting.len() + state.given.len(), acquiring.len());
                }
            }
            drop((acquiring, held));
            let state = permits.shared.lock();
            prop_assert!(state.streams.iter().all(|stream| stream.calls == 0));
            prop_assert!(state.given.is_empty() && state.waiting.is_empty());
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn threads_never_exceed_the_places_and_all_get_one() {
        let permits = permits(1, 3, 10_000);
        let inside = Arc::new(AtomicUsize::new(0));
        let calls: Vec<_> = (0..2_000u32)
            .map(|n| {
                let (permits, inside) = (permits.clone(), inside.clone());
                tokio::spawn(async move {
                    let urgency = Urgency::new((n % 8) as u8).expect("in range");
                    let _permit = permits.acquire(urgency).await.expect("a permit");
                    assert!(inside.fetch_add(1, Ordering::SeqCst) < 3);
                    tokio::task::yield_now().await;
                    inside.fetch_sub(1, Ordering::SeqCst);
                })
            })
            .collect();
        for call in calls {
            call.await.expect("no panic");
        }
        assert_eq!(permits.shared.lock().streams[0].calls, 0);
    }
}

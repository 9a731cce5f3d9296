//! A lane's places for calls: bounded, given to the most urgent who waits, first come first served among equals.
//!
//! Who owns readiness: nobody before a call; a call takes its place inside its own future. What a dropped future leaves behind:
//! nothing, whether it was waiting or had been given a place that it had not seen yet. Who wakes whom: whoever gives up a
//! place hands it to the first in the queue and wakes that one alone.

use std::{
    collections::{BTreeMap, HashSet},
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
    task::{Context, Poll, Waker},
};

use tower_iroh_layers::Urgency;

use crate::lock::lock;
/// The places of one lane.
#[derive(Clone, Debug)]
pub(crate) struct Permits {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    max_waiting: usize,
}

#[derive(Debug)]
struct State {
    free: usize,
    /// In the order in which they are served: the more urgent first, then the earlier.
    waiting: BTreeMap<(Urgency, u64), Waker>,
    /// Given a place, and not polled since.
    given: HashSet<u64>,
    next: u64,
}

impl Permits {
    pub(crate) fn new(places: usize, max_waiting: usize) -> Self {
        Self {
            shared: Arc::new(Shared {
                state: Mutex::new(State {
                    free: places,
                    waiting: BTreeMap::new(),
                    given: HashSet::new(),
                    next: 0,
                }),
                max_waiting,
            }),
        }
    }

    /// Waits for a place.
    pub(crate) fn acquire(&self, urgency: Urgency) -> Acquire {
        Acquire {
            shared: self.shared.clone(),
            urgency,
            ticket: None,
        }
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    fn leave(&self) {
        let mut state = self.lock();
        let Some(((_, ticket), waker)) = state.waiting.pop_first() else {
            state.free += 1;
            return;
        };
        state.given.insert(ticket);
        drop(state);
        waker.wake();
    }
}

/// A place in a lane; dropping it gives it up.
#[derive(Debug)]
pub(crate) struct Permit {
    shared: Arc<Shared>,
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.shared.leave();
    }
}

/// Too many wait already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct QueueFull;

/// The wait for a place.
#[derive(Debug)]
pub(crate) struct Acquire {
    shared: Arc<Shared>,
    urgency: Urgency,
    /// The number in the queue, from the first poll that found no place until the place is taken.
    ticket: Option<u64>,
}

impl Future for Acquire {
    type Output = Result<Permit, QueueFull>;

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let mut state = this.shared.lock();
        match this.ticket {
            None if state.free > 0 => {
                // Whoever waits was not given this place, so nobody waits: places go to the queue first.
                state.free -= 1;
            }
            None => {
                if state.waiting.len() >= this.shared.max_waiting {
                    return Poll::Ready(Err(QueueFull));
                }
                let ticket = state.next;
                state.next += 1;
                state
                    .waiting
                    .insert((this.urgency, ticket), cx.waker().clone());
                this.ticket = Some(ticket);
                return Poll::Pending;
            }
            Some(ticket) => {
                if !state.given.remove(&ticket) {
                    let key = (this.urgency, ticket);
                    let old = state.waiting.insert(key, cx.waker().clone());
                    // Dropping a waker can run code of others, who may want this lock.
                    drop(state);
                    drop(old);
                    return Poll::Pending;
                }
                this.ticket = None;
            }
        }
        drop(state);
        Poll::Ready(Ok(Permit {
            shared: this.shared.clone(),
        }))
    }
}

impl Drop for Acquire {
    fn drop(&mut self) {
        let Some(ticket) = self.ticket else { return };
        let mut state = self.shared.lock();
        if let Some(waker) = state.waiting.remove(&(self.urgency, ticket)) {
            drop(state);
            drop(waker);
            return;
        }
        // The place had been given and was never seen: on to the next.
        state.given.remove(&ticket);
        drop(state);
        self.shared.leave();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use proptest::prelude::*;
    use tokio_test::{assert_pending, assert_ready, task};

    use super::*;

    #[test]
    fn the_more_urgent_goes_first_and_equals_by_arrival() {
        let permits = Permits::new(1, 10);
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
        let permits = Permits::new(1, 10);
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
        let permits = Permits::new(1, 1);
        let _permit = assert_ready!(task::spawn(permits.acquire(Urgency::BULK)).poll());
        let mut waiting = task::spawn(permits.acquire(Urgency::BULK));
        assert_pending!(waiting.poll());
        let refused = assert_ready!(task::spawn(permits.acquire(Urgency::HIGHEST)).poll());
        assert_eq!(refused.expect_err("crowded"), QueueFull);
    }

    proptest! {
        /// Every operation takes the one lock once, so the order of operations is all that a schedule can differ in.
        #[test]
        fn places_are_neither_lost_nor_made(
            places in 1usize..4,
            steps in proptest::collection::vec((0u8..3, any::<prop::sample::Index>(), 0u8..=7), 0..200),
        ) {
            let permits = Permits::new(places, 1000);
            let mut acquiring = Vec::new();
            let mut held = Vec::new();
            for (step, which, urgency) in steps {
                match step {
                    0 => {
                        let urgency = Urgency::new(urgency).expect("in range");
                        let mut acquire = task::spawn(permits.acquire(urgency));
                        match acquire.poll() {
                            Poll::Ready(permit) => held.push(permit.expect("a permit")),
                            Poll::Pending => acquiring.push(acquire),
                        }
                    }
                    1 if !held.is_empty() => drop(held.swap_remove(which.index(held.len()))),
                    _ if !acquiring.is_empty() => {
                        // Polled, or dropped in whatever state it is.
                        let mut acquire = acquiring.swap_remove(which.index(acquiring.len()));
                        if urgency > 3 && let Poll::Ready(permit) = acquire.poll() {
                            held.push(permit.expect("a permit"));
                        }
                    }
                    _ => {}
                }
                let state = permits.shared.lock();
                prop_assert_eq!(state.free + held.len() + state.given.len(), places);
                prop_assert!(state.free == 0 || state.waiting.is_empty(), "nobody waits beside a free permit");
                prop_assert_eq!(state.waiting.len() + state.given.len(), acquiring.len());
            }
            drop((acquiring, held));
            prop_assert_eq!(permits.shared.lock().free, places);
        }
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn threads_never_exceed_the_places_and_all_get_one() {
        let permits = Permits::new(3, 10_000);
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
        assert_eq!(permits.shared.lock().free, 3);
    }
}

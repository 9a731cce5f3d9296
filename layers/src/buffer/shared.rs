//! What the clones of a buffer share with its driver and its callers: one mutex, never held across an await or while foreign code runs.

use std::sync::Arc;

use tokio::{
    sync::{Notify, oneshot},
    time::Instant,
};

use super::{
    BufferConfig, BufferError, BufferReason, BufferStats,
    entry::{End, Full, Key, Late, Ticket},
    error::History,
    held::{Answer, Held, Story, Waiter},
    meter::Meter,
    probe_backoff::ProbeBackoff,
    queue::{Evicted, Queue},
};
use crate::{Methods, mutex::Mutex};
pub(super) struct Shared<R> {
    pub(super) config: BufferConfig,
    pub(super) methods: Methods,
    state: Mutex<State<R>>,
    meter: Meter,
    /// Wakes the driver, the only task that waits here.
    pub(super) changed: Notify,
}

pub(super) struct State<R> {
    pub(super) queue: Queue<Box<Waiter<R>>>,
    pub(super) pace: ProbeBackoff,
    /// The plan of the running driver; `None` while none runs.
    pub(super) driver: Option<Plan>,
}

/// The driver's plan when it goes to sleep.
pub(super) struct Plan {
    /// When it looks for calls whose time is over.
    pub(super) look: Instant,
    /// When it hands the next call over; `None` if as soon as the service is ready.
    pub(super) next_try: Option<Instant>,
}

impl<R> State<R> {
    /// When the next call may be handed over; `None` if at once.
    pub(super) fn next_try(&self, now: Instant) -> Option<Instant> {
        self.pace.holds_until(now).max(self.queue.next_try(now))
    }
}

/// What [`Shared::wait`] and [`Shared::put_back`] leave to do.
pub(super) struct Queued<R> {
    pub(super) place: Place<R>,
    pub(super) answer: oneshot::Receiver<Answer<R>>,
    /// Whether the caller has to start the driver.
    pub(super) start: bool,
}

impl<R> Shared<R> {
    pub(super) fn new(config: BufferConfig, methods: Methods) -> Arc<Self> {
        Arc::new(Self {
            state: Mutex::new(State {
                queue: Queue::new(config.limits),
                pace: ProbeBackoff::new(Instant::now()),
                driver: None,
            }),
            meter: Meter::new(),
            config,
            methods,
            changed: Notify::new(),
        })
    }

    /// Every change goes through here, so the metrics match the accounts.
    pub(super) fn with<T>(&self, change: impl FnOnce(&mut State<R>) -> T) -> T {
        let mut state = self.state.lock();
        let before = *state.queue.counters();
        let result = change(&mut state);
        let now = *state.queue.counters();
        drop(state);
        self.meter.follow(&before, &now);
        result
    }

    pub(super) fn stats(&self) -> BufferStats {
        let now = Instant::now();
        self.with(|state| state.queue.stats(now))
    }

    /// Whether no waiting call may go now, so that a call may try to go straight through.
    pub(super) fn is_idle(&self) -> bool {
        let now = Instant::now();
        self.with(|state| state.queue.is_idle(now))
    }

    /// Accepts a call that goes straight through, unless others wait that may go now. [`Flight::unheld`] says whether it may be kept
    /// meanwhile.
    pub(super) fn straight(self: &Arc<Self>, held: &Held) -> Option<Flight<R>> {
        let urgency = held.urgency();
        let now = Instant::now();
        let deadline = held.story.ends(now);
        let ticket = self.with(|state| {
            state
                .queue
                .is_idle(now)
                .then(|| state.queue.straight(now, urgency, held.len(), deadline))
        })?;
        Some(Flight::new(self.clone(), ticket, now, End::Cancelled))
    }

    /// Accepts a call that waits.
    pub(super) fn wait(self: &Arc<Self>, mut held: Held) -> Result<Queued<R>, BufferError> {
        let now = Instant::now();
        let (urgency, bytes) = (held.urgency(), held.len());
        let deadline = held.story.ends(now);
        held.compact();
        let (caller, answer) = oneshot::channel();
        let waiter = Box::new(Waiter { held, caller });
        let arrived = self.with(|state| {
            let arrived = state.queue.arrive(now, urgency, bytes, deadline, waiter);
            arrived.map(|(key, gone)| (key, gone, self.rouse(state, deadline)))
        });
        match arrived {
            Ok((key, gone, start)) => {
                displace(gone);
                Ok(Queued {
                    place: Place {
                        shared: self.clone(),
                        key,
                    },
                    answer,
                    start,
                })
            }
            Err((waiter, full)) => {
                let mut story = waiter.held.story;
                Err(self.full(full, bytes, &story.history(1)))
            }
        }
    }

    fn full(&self, full: Full, bytes: usize, history: &History) -> BufferError {
        let limits = &self.config.limits;
        let reason = BufferReason::full(full, bytes, limits.calls, limits.bytes);
        BufferError::new(reason, history)
    }

    /// Puts a call that came back to its old position, or tells its caller that its time is over. A call that was `rejected` on this side lets
    /// the others pass until its next try. Returns whether the driver has to be started.
    fn put_back(
        &self,
        mut ticket: Ticket,
        began: Instant,
        mut waiter: Box<Waiter<R>>,
        rejected: bool,
    ) -> bool {
        waiter.held.compact();
        let now = Instant::now();
        if rejected {
            ticket.rejected(now);
        } else {
            ticket.failed();
        }
        let back = self.with(|state| {
            if rejected {
                state.pace.rejected(began, now);
            } else {
                state.pace.failed(began, now);
            }
            // A caller that left while the call was in flight has looked for it in the queue and will not do so again.
            if waiter.caller.is_closed() {
                state.queue.end(&ticket, End::Cancelled);
                return Err((waiter, None));
            }
            match state.queue.put_back(now, ticket, waiter) {
                Ok(()) => Ok(self.rouse(state, ticket.deadline)),
                Err((waiter, late)) => Err((waiter, Some(late))),
            }
        });
        match back {
            Ok(start) => start,
            Err((waiter, late)) => {
                if let Some(late) = late {
                    self.expire(vec![(ticket, waiter, late)]);
                }
                false
            }
        }
    }

    /// Makes sure that the driver knows of a call that has just begun to wait. True if no driver runs and the caller of this has to start one.
    fn rouse(&self, state: &mut State<R>, deadline: Option<Instant>) -> bool {
        let now = Instant::now();
        let next_try = state.next_try(now);
        match &state.driver {
            None => {
                let look = now + self.config.sweep;
                state.driver = Some(Plan { look, next_try });
                true
            }
            Some(plan) => {
                // Emptying the queue has woken the driver already; wake it here only for a time that it does not know of.
                if deadline.is_some_and(|at| at < plan.look) || next_try != plan.next_try {
                    self.changed.notify_one();
                }
                false
            }
        }
    }

    /// Tells callers that their time is over.
    pub(super) fn expire(&self, gone: Evicted<Box<Waiter<R>>, Late>) {
        let ttl = self.config.limits.ttl;
        for (ticket, waiter, late) in gone {
            let (late, ttl) = waiter.held.story.late(late, ttl);
            waiter.refuse(&ticket, |waited| BufferReason::late(late, waited, ttl));
        }
    }

    /// Ends all that wait.
    pub(super) fn clear(&self, why: impl Fn() -> BufferReason) -> usize {
        let gone = self.with(|state| state.queue.clear());
        let count = gone.len();
        self.changed.notify_one();
        for (ticket, waiter) in gone {
            waiter.refuse(&ticket, |_| why());
        }
        count
    }

    /// The driver has ended, or has not come to be.
    pub(super) fn stopped(&self) {
        let gone = self.with(|state| {
            state.driver = None;
            state.queue.clear()
        });
        for (ticket, waiter) in gone {
            waiter.refuse(&ticket, |_| BufferReason::Stopped);
        }
    }
}

fn displace<R>(gone: Evicted<Box<Waiter<R>>, Full>) {
    for (ticket, waiter, _) in gone {
        waiter.refuse(&ticket, |waited| BufferReason::Displaced { waited });
    }
}

/// A waiting caller's hold on its call: dropped with the caller's future, it takes the call and its bytes out at once.
pub(super) struct Place<R> {
    shared: Arc<Shared<R>>,
    key: Key,
}

impl<R> Place<R> {
    pub(super) fn shared(&self) -> &Arc<Shared<R>> {
        &self.shared
    }
}

impl<R> Drop for Place<R> {
    fn drop(&mut self) {
        let (left, empty) = self.shared.with(|state| {
            let left = state.queue.leave(self.key);
            (left, state.queue.is_empty() && state.driver.is_some())
        });
        if left.is_some() && empty {
            // Nothing is left to be driven.
            self.shared.changed.notify_one();
        }
    }
}

/// A call in flight. Its end is counted once, when this is dropped.
pub(super) struct Flight<R> {
    shared: Arc<Shared<R>>,
    ticket: Ticket,
    began: Instant,
    /// `None` once it does not end here.
    end: Option<End>,
}

impl<R> Flight<R> {
    /// `dropped` says what it means when nobody says how it ended.
    pub(super) fn new(
        shared: Arc<Shared<R>>,
        ticket: Ticket,
        began: Instant,
        dropped: End,
    ) -> Self {
        Self {
            shared,
            ticket,
            began,
            end: Some(dropped),
        }
    }

    /// Why nothing is to be kept of the call while it is in flight.
    pub(super) fn unheld(&self) -> Option<Full> {
        self.ticket.unheld
    }

    pub(super) fn end(mut self, end: End) {
        self.end = Some(end);
    }

    /// The call would go back, if something had been kept of it.
    pub(super) fn no_room(mut self, full: Full, mut story: Story) -> BufferError {
        self.end = Some(End::Failed);
        let history = story.history(self.ticket.attempts);
        self.shared.full(full, self.ticket.bytes, &history)
    }

    /// The call would go back, if fewer attempts could have arrived.
    pub(super) fn spent(mut self, mut story: Story) -> BufferError {
        self.end = Some(End::Failed);
        let limit = self.shared.config.max_attempts;
        let history = story.history(self.ticket.attempts);
        BufferError::new(BufferReason::Attempts { limit }, &history)
    }

    /// The peer answered.
    pub(super) fn answered(mut self, end: End) {
        self.end = None;
        let lifted = self.shared.with(|state| {
            state.queue.end(&self.ticket, end);
            state.pace.succeeded()
        });
        if lifted {
            self.shared.changed.notify_one();
        }
    }

    /// Puts the call back to where it stood, for [`Place`] to hold, or tells its caller why not. Whether the driver has to be started.
    /// One that was `rejected` on this side lets the others pass until its next try.
    pub(super) fn put_back(mut self, waiter: Box<Waiter<R>>, rejected: bool) -> bool {
        self.end = None;
        self.shared
            .put_back(self.ticket, self.began, waiter, rejected)
    }

    pub(super) fn place(&self) -> Place<R> {
        Place {
            shared: self.shared.clone(),
            key: self.ticket.key,
        }
    }
}

impl<R> Drop for Flight<R> {
    fn drop(&mut self) {
        if let Some(end) = self.end {
            self.shared.with(|state| state.queue.end(&self.ticket, end));
        }
    }
}

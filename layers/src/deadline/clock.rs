//! Waits for a deadline beside something else.

use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
    time::Duration,
};

use tokio::time::{Instant, Sleep, sleep_until};

use super::header;
use crate::{Deadline, clock};

/// When a call expires, and how much time it had.
#[derive(Clone, Copy, Debug)]
pub(super) struct Budget {
    pub(super) deadline: Deadline,
    pub(super) limit: Duration,
}

impl Budget {
    /// The earlier of a point in time and a limit from now; `None`, without a clock read, if there is neither.
    pub(super) fn earliest(until: Option<Deadline>, limit: Option<Duration>) -> Option<Self> {
        if until.is_none() && limit.is_none() {
            return None;
        }
        let now = clock::now();
        let limited = limit.map(|limit| Deadline::after_from(now, limit));
        let deadline = until.into_iter().chain(limited).min()?;
        Some(Self {
            deadline,
            limit: deadline.instant().saturating_duration_since(now),
        })
    }

    /// Whether a CANCELLED from elsewhere may come from another clock on the same deadline.
    pub(super) fn is_nearly_over(self) -> bool {
        self.deadline.left() <= header::SLACK
    }
}

/// A deadline, and a timer once something has to be waited for. Without a deadline it never ends and costs nothing.
#[derive(Debug)]
pub(super) struct Clock {
    budget: Option<Budget>,
    /// In a box, because futures and bodies that have one are moved.
    timer: Option<Pin<Box<Sleep>>>,
}

impl Clock {
    pub(super) fn new(budget: Option<Budget>) -> Self {
        Self {
            budget,
            timer: None,
        }
    }

    pub(super) fn budget(&self) -> Option<Budget> {
        self.budget
    }

    /// The budget, if it is used up.
    pub(super) fn over(&self) -> Option<Budget> {
        self.budget
            .filter(|budget| budget.deadline.left_at(clock::now()).is_zero())
    }

    /// Ends when less than `slack` is left, if it is polled then; otherwise when nothing is left.
    ///
    /// It reads the clock in addition to the timer: a task that is polled for another reason should not wait for the timer's tick, and
    /// tokio lets no timer end in a task that has used up its budget for a turn.
    pub(super) fn poll_over(&mut self, cx: &mut Context<'_>, slack: Duration) -> Poll<Budget> {
        let Some(budget) = self.budget else {
            return Poll::Pending;
        };
        loop {
            if budget.deadline.left_at(clock::now()) <= slack {
                return Poll::Ready(budget);
            }
            let until = budget.deadline.instant();
            let timer = self
                .timer
                .get_or_insert_with(|| Box::pin(sleep_until(until)));
            ready!(timer.as_mut().poll(cx));
            // Not the clock of the layers, which may stand still.
            if until <= Instant::now() {
                return Poll::Ready(budget);
            }
            // It ended early, for a deadline beyond the reach of timers.
            self.timer = None;
        }
    }
}

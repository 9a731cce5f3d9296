use std::task::{Context, Poll};

use tokio::time::Instant;

use super::{
    Attempt, Circuit,
    gate::{Ticket, Word},
};

/// A caller that may have to wait. Dropped, it leaves no waker behind.
pub(super) struct Waiter {
    circuit: Circuit,
    ticket: Ticket,
}

impl Waiter {
    pub(super) fn new(circuit: Circuit) -> Self {
        Self {
            circuit,
            ticket: None,
        }
    }

    pub(super) fn circuit(&self) -> &Circuit {
        &self.circuit
    }

    /// Whether a call may be made now. One load where the circuit is closed, by force or not.
    #[inline]
    pub(super) fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.circuit.core().word().lets_all_pass() {
            if self.ticket.is_some() {
                self.leave();
            }
            return Poll::Ready(());
        }
        self.poll(cx, false).map(drop)
    }

    /// Goes in, with the permit if it takes one.
    pub(super) fn poll_enter(&mut self, cx: &mut Context<'_>) -> Poll<Attempt> {
        self.poll(cx, true).map(|word| self.circuit.attempt(word))
    }

    fn poll(&mut self, cx: &mut Context<'_>, take: bool) -> Poll<Word> {
        loop {
            let waiter = Some((&mut self.ticket, cx.waker()));
            let core = self.circuit.core();
            if let Some(word) = core.enter(Instant::now(), take, waiter) {
                self.leave();
                return Poll::Ready(word);
            }
            if !self.circuit.arm() {
                return Poll::Pending;
            }
        }
    }

    fn leave(&mut self) {
        if let Some(ticket) = self.ticket.take()
            && self.circuit.core().leave(ticket)
        {
            self.circuit.disarm();
        }
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.leave();
    }
}

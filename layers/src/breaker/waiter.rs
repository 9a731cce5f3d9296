use std::{
    future::Future,
    pin::{Pin, pin},
    task::{Context, Poll, ready},
};

use tokio::{
    runtime::{Handle, Id},
    time::{Instant, timeout_at},
};

use super::{Attempt, Circuit, gate::Word};

/// A caller that may have to wait. Dropped, it leaves no waker behind.
pub(super) struct Waiter {
    circuit: Circuit,
    wait: Option<Wait>,
}

struct Wait {
    /// Its timer belongs to this runtime, and panics when it is polled after the runtime's end.
    runtime: Option<Id>,
    future: Pin<Box<dyn Future<Output = Word> + Send + Sync>>,
}

impl Waiter {
    pub(super) fn new(circuit: Circuit) -> Self {
        Self {
            circuit,
            wait: None,
        }
    }

    pub(super) fn circuit(&self) -> &Circuit {
        &self.circuit
    }

    /// Whether a call may be made now. One load where the circuit is closed, by force or not.
    #[inline]
    pub(super) fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.circuit.core().word().lets_all_pass() {
            if self.wait.is_some() {
                self.wait = None;
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
        let runtime = Handle::try_current().ok().map(|handle| handle.id());
        let wait = match &mut self.wait {
            Some(wait) if wait.runtime == runtime => wait,
            moved => {
                *moved = None;
                if let Ok(word) = self.circuit.core().enter(Instant::now(), take) {
                    return Poll::Ready(word);
                }
                let future = Box::pin(wait(self.circuit.clone(), take));
                moved.insert(Wait { runtime, future })
            }
        };
        let word = ready!(wait.future.as_mut().poll(cx));
        self.wait = None;
        Poll::Ready(word)
    }
}

async fn wait(circuit: Circuit, take: bool) -> Word {
    let core = circuit.core();
    let _waiting = core.waiting();
    loop {
        // Before the look, so that no change after it is missed.
        let mut changed = pin!(core.changed());
        changed.as_mut().enable();
        match core.enter(Instant::now(), take) {
            Ok(word) => return word,
            Err(Some(until)) => drop(timeout_at(until, changed).await),
            Err(None) => changed.await,
        }
    }
}

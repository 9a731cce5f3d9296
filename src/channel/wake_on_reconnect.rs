//! A new connection to the peer is a sign of life: it ends the wait of a breaker that lost connections or failed dials opened. A new address counts as
//! well. A peer that answers again after a silence also ends the wait, even if unanswered calls opened the breaker. While calls wait for the breaker, the
//! peer is dialled.

use std::{
    convert::Infallible,
    fmt,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use tokio::{sync::watch, time::sleep};
use tower::Service;
use tower_iroh_layers::breaker::Circuit;

use crate::pool::State;

/// Where signs of life are seen, and who wants to know of them.
#[derive(Clone)]
pub(super) struct Reconnects {
    pub(super) circuit: Circuit,
    pub(super) connection: Connection,
}

/// The connection of an arm.
#[derive(Clone)]
pub(super) struct Connection {
    pub(super) state: watch::Receiver<State>,
    /// Connects, where there is no connection, and says whether there is one.
    pub(super) connect: Arc<dyn Fn() -> Connecting + Send + Sync>,
}

pub(super) type Connecting = Pin<Box<dyn Future<Output = bool> + Send + Sync>>;

/// How long a wait has before it asks for the peer again. The pool paces the dials.
const ASKS_AGAIN: Duration = Duration::from_millis(500);

/// Passes readiness and calls on. While the breaker beneath is not ready, it watches the connection's state. The circuit wakes the tasks that
/// wait.
pub struct WakeOnReconnect<S> {
    inner: S,
    signs: Option<Arc<Reconnects>>,
    /// The wait for the next change. Only there while the inner service is not ready, and never in a clone.
    change: Option<Pin<Box<dyn Future<Output = ()> + Send + Sync>>>,
}

impl<S> WakeOnReconnect<S> {
    pub(super) fn new(inner: S, signs: Option<Arc<Reconnects>>) -> Self {
        Self {
            inner,
            signs,
            change: None,
        }
    }
}

impl Reconnects {
    /// Reports each connection that comes to be, each that is heard again, and that the peer is said to be elsewhere; ends when nothing can
    /// come any more.
    async fn report(self) {
        tokio::select! {
            () = watch(self.circuit, self.connection.state.clone()) => {}
            never = redial(self.connection) => match never {},
        }
    }
}

async fn watch(circuit: Circuit, mut state: watch::Receiver<State>) {
    let mut before = *state.borrow_and_update();
    if before == State::Ready {
        // It is there, and may still be silent.
        circuit.sign_of_life();
    }
    while state.changed().await.is_ok() {
        let now = *state.borrow_and_update();
        match (before, now) {
            (_, State::Ready) => circuit.heard_again(),
            // No connection was lost and no dial was given up: the program gave the peer's address.
            (State::Idle | State::TransientFailure, State::Idle) => {
                circuit.sign_of_life();
            }
            _ => {}
        }
        before = now;
    }
}

/// Asks for the connection as long as it is polled. Without it nobody dials while the breaker is open, and a peer that is back stays unnoticed until the next
/// probe.
async fn redial(mut connection: Connection) -> Infallible {
    loop {
        match (connection.connect)().await {
            true => {
                let gone = |state: &State| !matches!(state, State::Ready | State::Silent);
                let _ = connection.state.wait_for(gone).await;
            }
            false => sleep(ASKS_AGAIN).await,
        }
    }
}

impl<S, R> Service<R> for WakeOnReconnect<S>
where
    S: Service<R>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        let ready = self.inner.poll_ready(cx);
        if ready.is_ready() {
            self.change = None;
            return ready;
        }
        let Some(signs) = &self.signs else {
            return ready;
        };
        let change = self
            .change
            .get_or_insert_with(|| Box::pin(Reconnects::clone(signs).report()));
        if change.as_mut().poll(cx).is_ready() {
            // The links are gone, and the breaker's own time is what is left.
            self.signs = None;
            self.change = None;
        }
        // A sign that was seen just now has woken this task already.
        Poll::Pending
    }

    fn call(&mut self, request: R) -> S::Future {
        self.inner.call(request)
    }
}

impl<S: Clone> Clone for WakeOnReconnect<S> {
    fn clone(&self) -> Self {
        Self::new(self.inner.clone(), self.signs.clone())
    }
}

impl fmt::Debug for Connection {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Connection")
            .field(&*self.state.borrow())
            .finish()
    }
}

impl<S: fmt::Debug> fmt::Debug for WakeOnReconnect<S> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("WakeOnReconnect").field(&self.inner).finish()
    }
}

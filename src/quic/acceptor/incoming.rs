use std::{
    future::Future,
    io,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use futures_core::Stream;
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};

use super::super::QuicIo;
use crate::{lock::lock, wire::reset};

/// How many lanes wait for tonic, which takes them as fast as it can spawn tasks.
const WAITING: usize = 64;

/// The lanes that peers open: a stream of IO for `Server::serve_with_incoming` and `serve_with_incoming_shutdown`.
///
/// It never yields an error: a connection that fails concerns its peer alone. Dropping it begins the drain, and it ends by itself when `Router::shutdown` begins
/// one. Lanes that were not taken by then are refused, so that their clients call elsewhere at once.
#[derive(Debug)]
pub struct Incoming {
    lanes: HandoverReceiver<QuicIo>,
    draining: CancellationToken,
    stopped: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Incoming {
    /// An empty stream, and the way for lanes into it. `draining` is cancelled when it is dropped, and cancelling it ends the stream.
    pub(super) fn new(draining: CancellationToken) -> (HandoverSender<QuicIo>, Self) {
        let (sender, receiver) = handover();
        let incoming = Self {
            lanes: receiver,
            stopped: Box::pin(draining.clone().cancelled_owned()),
            draining,
        };
        (sender, incoming)
    }
}

impl Stream for Incoming {
    type Item = io::Result<QuicIo>;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if self.stopped.as_mut().poll(cx).is_ready() {
            return Poll::Ready(None);
        }
        self.lanes.items.poll_recv(cx).map(|lane| lane.map(Ok))
    }
}

impl Drop for Incoming {
    fn drop(&mut self) {
        self.draining.cancel();
        for lane in self.lanes.close() {
            lane.refuse(reset::DRAINING);
        }
    }
}

/// A channel that loses nothing when its receiver closes: each item was either taken, or comes back to one of the two sides.
///
/// tokio's channel alone does not promise that. A sender that has its permit when the receiver closes still sends, and nobody receives.
fn handover<T>() -> (HandoverSender<T>, HandoverReceiver<T>) {
    let (lanes, items) = mpsc::channel(WAITING);
    let open = Arc::new(Mutex::new(true));
    let sender = HandoverSender {
        items: lanes,
        open: open.clone(),
    };
    (sender, HandoverReceiver { items, open })
}

/// The sending side of a handover.
#[derive(Debug)]
pub(super) struct HandoverSender<T> {
    items: mpsc::Sender<T>,
    /// Held during each send, so that none happens after the close.
    open: Arc<Mutex<bool>>,
}

impl<T> HandoverSender<T> {
    /// Waits until there is space, and hands the item over. It comes back if the receiver has closed.
    pub(super) async fn send(&self, item: T) -> Result<(), T> {
        match self.items.reserve().await {
            Ok(permit) => self.send_with(permit, item),
            Err(_) => Err(item),
        }
    }

    fn send_with(&self, permit: mpsc::Permit<'_, T>, item: T) -> Result<(), T> {
        let open = lock(&self.open);
        if !*open {
            return Err(item);
        }
        permit.send(item);
        Ok(())
    }
}

/// The receiving side of a handover.
#[derive(Debug)]
struct HandoverReceiver<T> {
    items: mpsc::Receiver<T>,
    open: Arc<Mutex<bool>>,
}

impl<T> HandoverReceiver<T> {
    /// Takes nothing more; what was handed over and not taken.
    fn close(&mut self) -> Vec<T> {
        *lock(&self.open) = false;
        self.items.close();
        std::iter::from_fn(|| self.items.try_recv().ok()).collect()
    }
}

#[cfg(test)]
mod tests {
    use tokio_test::{assert_pending, assert_ready_eq, task};

    use super::*;

    #[tokio::test]
    async fn an_item_in_flight_at_the_close_comes_back() {
        let (sender, mut receiver) = handover();
        sender.send("waits").await.expect("open");
        let permit = sender.items.reserve().await.expect("open");
        assert_eq!(receiver.close(), ["waits"]);
        assert_eq!(sender.send_with(permit, "in flight"), Err("in flight"));
        assert_eq!(sender.send("late").await, Err("late"));
    }

    #[tokio::test]
    async fn an_item_that_waits_for_space_comes_back() {
        let (sender, mut receiver) = handover();
        for number in 0..WAITING {
            sender.send(number).await.expect("space");
        }
        let mut waits = task::spawn(sender.send(WAITING));
        assert_pending!(waits.poll());
        assert_eq!(receiver.close().len(), WAITING);
        assert!(waits.is_woken());
        assert_ready_eq!(waits.poll(), Err(WAITING));
    }
}

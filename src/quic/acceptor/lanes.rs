//! The lanes of one connection: how many are open, and what of them the peer has yet to receive.

use std::{
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use futures_util::{
    FutureExt,
    future::{BoxFuture, join_all},
};
use iroh::endpoint::{RecvStream, SendStream};
use tokio::sync::Notify;

use super::super::{
    QuicIo,
    io::{Activities, Release},
};
use crate::{lock::lock, peer::PeerInfo};

/// The lanes that are open. Clones share the count.
#[derive(Clone, Default)]
pub(super) struct Lanes(Arc<State>);

#[derive(Default)]
struct State {
    open: AtomicUsize,
    ended: Notify,
    /// One future for each lane that has ended; it resolves when the peer has received all of the lane.
    flushing: Mutex<Vec<BoxFuture<'static, ()>>>,
}

impl Lanes {
    /// Makes a lane of a stream, if fewer than `most` are open; else the stream comes back. The lane counts until it is dropped.
    pub(super) fn open(
        &self,
        most: usize,
        stream: (SendStream, RecvStream),
        info: PeerInfo,
        activities: &Activities,
    ) -> Result<QuicIo, (SendStream, RecvStream)> {
        let more = |open| (open < most).then_some(open + 1);
        let counted = self
            .0
            .open
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, more);
        if counted.is_err() {
            return Err(stream);
        }
        let lanes = self.clone();
        let release = Release(Box::new(move |send: Option<&SendStream>| lanes.ended(send)));
        Ok(QuicIo::new(stream, info, activities).on_release(release))
    }

    /// A lane has ended; `send` is its sending side, if that ended well.
    fn ended(&self, send: Option<&SendStream>) {
        let mut flushing = lock(&self.0.flushing);
        // A connection may have a lane a minute for years, so forget the ones that were received.
        flushing.retain_mut(|flush| flush.now_or_never().is_none());
        if let Some(stopped) = send.map(SendStream::stopped) {
            flushing.push(Box::pin(async move {
                let _ = stopped.await;
            }));
        }
        drop(flushing);
        self.0.open.fetch_sub(1, Ordering::AcqRel);
        self.0.ended.notify_waiters();
    }

    /// Waits until no lane is open and the peer has received everything. Cancel safe.
    pub(super) async fn finished(&self) {
        loop {
            let mut ended = pin!(self.0.ended.notified());
            ended.as_mut().enable();
            if self.0.open.load(Ordering::Acquire) == 0 {
                break;
            }
            ended.await;
        }
        let flushing = std::mem::take(&mut *lock(&self.0.flushing));
        join_all(flushing).await;
    }
}

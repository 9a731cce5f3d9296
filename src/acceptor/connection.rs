//! One accepted connection: reads preambles, answers pings, counts lanes, follows the path, drains.

use std::{
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use futures_util::future::{BoxFuture, join_all};
use iroh::endpoint::{Connection, RecvStream, SendStream};
use tokio::{
    sync::Notify,
    task::JoinSet,
    time::{sleep_until, timeout},
};
use tower_iroh_layers::Urgency;

use super::Shared;
use crate::lock::lock;
use crate::{
    QuicIo,
    io::{Activities, Release},
    tuning::Follow,
    wire::{self, Kind, Preamble, close, reset},
};

/// Serves one connection; everything that it starts ends with it.
pub(super) struct Serving {
    shared: Arc<Shared>,
    connection: Connection,
    bare: bool,
    activities: Activities,
    lanes: Arc<Lanes>,
}

/// The lanes that have been handed over and not been let go.
#[derive(Default)]
struct Lanes {
    open: AtomicUsize,
    ended: Notify,
    /// For each that was let go: resolves when the peer has received all of it.
    flushing: Mutex<Vec<BoxFuture<'static, ()>>>,
}

impl Serving {
    pub(super) fn new(shared: Arc<Shared>, connection: Connection, bare: bool) -> Self {
        Self {
            shared,
            connection,
            bare,
            activities: Activities::default(),
            lanes: Arc::default(),
        }
    }

    /// Runs until the connection is closed, by whomever.
    pub(super) async fn run(self) {
        let mut opening = JoinSet::new();
        let mut follow = Follow::new(self.shared.settings.tuning.receive_window());
        let mut tick = follow.tick(&self.connection, &self.activities);
        let mut closed = pin!(self.connection.closed());
        let mut drained = pin!(self.drained());
        loop {
            tokio::select! {
                _ = &mut closed => return,
                () = &mut drained => return,
                () = sleep_until(tick) => tick = follow.tick(&self.connection, &self.activities),
                Some(_) = opening.join_next() => {}
                stream = self.connection.accept_bi() => match stream {
                    Ok(stream) => self.open(stream, &mut opening),
                    // The connection is closed, which the first branch will say.
                    Err(_) => return,
                },
            }
        }
    }

    /// Reads a stream's preamble, in a task of its own so that a slow peer holds up nothing but its own lane.
    fn open(&self, stream: (SendStream, RecvStream), opening: &mut JoinSet<()>) {
        if self.shared.draining.is_cancelled() {
            return refuse(stream, reset::DRAINING);
        }
        let most = self.shared.settings.max_lanes_per_connection;
        // Streams whose preamble is still to come count: they may all become lanes. One more is for pings.
        if opening.len() > most {
            return refuse(stream, reset::TOO_MANY_LANES);
        }
        if self.bare {
            if !self.lanes.admit(most) {
                return refuse(stream, reset::TOO_MANY_LANES);
            }
            let lane = self.lane(stream, Urgency::default());
            let shared = self.shared.clone();
            opening.spawn(async move { hand_over(&shared, lane).await });
            return;
        }
        let shared = self.shared.clone();
        let lanes = self.lanes.clone();
        let connection = self.connection.clone();
        let activities = self.activities.clone();
        opening.spawn(async move {
            let (send, mut recv) = stream;
            let mut bytes = [0; wire::PREAMBLE_LEN];
            let read = timeout(
                shared.settings.preamble_timeout,
                recv.read_exact(&mut bytes),
            );
            let preamble = match read.await {
                Ok(Ok(())) => Preamble::decode(bytes),
                Ok(Err(_)) | Err(_) => return refuse((send, recv), reset::BAD_PREAMBLE),
            };
            match preamble {
                Ok(Preamble {
                    kind: Kind::Http2,
                    urgency,
                }) => {
                    if !lanes.admit(most) {
                        tracing::warn!(peer = %connection.remote_id().fmt_short(), most, "refusing a lane");
                        return refuse((send, recv), reset::TOO_MANY_LANES);
                    }
                    let lane = Lanes::lane(&lanes, &connection, (send, recv), urgency, &activities);
                    hand_over(&shared, lane).await;
                }
                Ok(Preamble {
                    kind: Kind::Ping,
                    urgency,
                }) => {
                    // Whoever does not finish a ping in time does not get an answer.
                    let pong = pong((send, recv), urgency);
                    let _ = timeout(shared.settings.preamble_timeout, pong).await;
                }
                Err(error) => {
                    tracing::debug!(peer = %connection.remote_id().fmt_short(), %error, "refusing a stream");
                    refuse((send, recv), reset::BAD_PREAMBLE);
                }
            }
        });
    }

    fn lane(&self, stream: (SendStream, RecvStream), urgency: Urgency) -> QuicIo {
        Lanes::lane(
            &self.lanes,
            &self.connection,
            stream,
            urgency,
            &self.activities,
        )
    }

    /// Once the shutdown has begun: waits for what is in flight, closes, and says how it went.
    async fn drained(&self) {
        self.shared.draining.cancelled().await;
        let finished = async {
            loop {
                let mut ended = pin!(self.lanes.ended.notified());
                ended.as_mut().enable();
                if self.lanes.open.load(Ordering::Acquire) == 0 {
                    break;
                }
                ended.await;
            }
            let flushing = std::mem::take(&mut *self.lanes.lock());
            join_all(flushing).await;
        };
        let (code, reason) = match timeout(self.shared.settings.drain_timeout, finished).await {
            Ok(()) => (close::DRAINED, "shut down"),
            Err(_) => (close::DRAIN_EXPIRED, "shut down before all was finished"),
        };
        self.connection.close(code, reason.as_bytes());
    }
}

impl Lanes {
    /// Takes a place among at most so many; the lane that is made next gives it back.
    fn admit(&self, most: usize) -> bool {
        let more = |open| (open < most).then_some(open + 1);
        self.open
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, more)
            .is_ok()
    }

    /// A lane that has been admitted.
    fn lane(
        this: &Arc<Self>,
        connection: &Connection,
        stream: (SendStream, RecvStream),
        urgency: Urgency,
        activities: &Activities,
    ) -> QuicIo {
        let lanes = this.clone();
        let release = Release(Box::new(move |send: Option<&SendStream>| {
            let mut flushing = lanes.lock();
            // Those that have been received are of no interest any more, and there may be a lane a minute for years.
            flushing.retain_mut(|flush| futures_util::FutureExt::now_or_never(flush).is_none());
            if let Some(stopped) = send.map(SendStream::stopped) {
                flushing.push(Box::pin(async move {
                    let _ = stopped.await;
                }));
            }
            drop(flushing);
            lanes.open.fetch_sub(1, Ordering::AcqRel);
            lanes.ended.notify_waiters();
        }));
        QuicIo::new(connection, stream, urgency, activities).on_release(release)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Vec<BoxFuture<'static, ()>>> {
        lock(&self.flushing)
    }
}

async fn hand_over(shared: &Shared, lane: QuicIo) {
    if let Err(tokio::sync::mpsc::error::SendError(lane)) = shared.lanes.send(lane).await {
        lane.refuse(reset::DRAINING);
    }
}

async fn pong((mut send, mut recv): (SendStream, RecvStream), urgency: Urgency) {
    let _ = send.set_priority(i32::from(Urgency::LOWEST.get() - urgency.get()));
    let mut bytes = [0; wire::PING_LEN];
    if recv.read_exact(&mut bytes).await.is_ok() && send.write_all(&bytes).await.is_ok() {
        let _ = send.finish();
    }
}

fn refuse((mut send, mut recv): (SendStream, RecvStream), code: iroh::endpoint::VarInt) {
    // Each fails where the peer was faster, and then there is nothing to refuse.
    let _ = send.reset(code);
    let _ = recv.stop(code);
}

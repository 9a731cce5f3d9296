//! One accepted connection: reads preambles, answers pings, counts lanes, follows the path, sends and takes copies, drains.

use std::{
    pin::pin,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use futures_util::future::{BoxFuture, join_all};
use iroh::{
    endpoint::{Connection, IncomingZeroRttConnection, RecvStream, SendStream},
    protocol::AcceptError,
};
use tokio::{
    sync::Notify,
    task::JoinSet,
    time::{sleep_until, timeout},
};
use tower_iroh_layers::Urgency;

use super::{
    super::{
        QuicIo,
        copies::Copies,
        io::{Activities, Release},
        tuning::{Follow, Side},
    },
    Shared,
    early::{EarlyData, Gates},
};
use crate::{
    lock::lock,
    peer::{PeerInfo, Proof},
    wire::{self, Kind, Preamble, close, reset},
};

/// Serves one connection; everything that it starts ends with it.
pub(super) struct Serving {
    shared: Arc<Shared>,
    bare: bool,
    proof: Proof,
    /// While the handshake is under way, and only where early data is on.
    gates: Option<Gates>,
    opening: JoinSet<()>,
    activities: Activities,
    copies: Copies,
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
    pub(super) fn new(shared: Arc<Shared>, bare: bool) -> Self {
        Self {
            shared,
            bare,
            proof: Proof::default(),
            gates: None,
            opening: JoinSet::new(),
            activities: Activities::default(),
            copies: Copies::new(),
            lanes: Arc::default(),
        }
    }

    /// A connection whose lanes may bring calls before its handshake is complete.
    pub(super) fn early(shared: Arc<Shared>, early_data: &EarlyData, bare: bool) -> Self {
        Self {
            gates: Some(Gates::new(early_data)),
            ..Self::new(shared, bare)
        }
    }

    /// Waits for the handshake, and opens the lanes that come meanwhile behind their gates.
    pub(super) async fn shake_hands(
        &mut self,
        connection: &IncomingZeroRttConnection,
    ) -> Result<Connection, AcceptError> {
        // iroh's hooks run in it, so it is polled from the start.
        let mut completed = pin!(connection.handshake_completed());
        loop {
            tokio::select! {
                biased;
                connection = &mut completed => return Ok(connection?),
                Some(_) = self.opening.join_next() => {}
                stream = connection.accept_bi() => match stream {
                    Ok(stream) => self.open(stream),
                    // The connection is closed, and the handshake's error says why.
                    Err(_) => return Ok(completed.await?),
                },
            }
        }
    }

    /// Runs until the connection, of which the peer has been let in, is closed, by whomever.
    pub(super) async fn run(mut self, connection: Connection) {
        // In this order: a gate opens only where something is proved.
        self.proof.complete(&connection);
        self.gates = None;
        let mut follow = Follow::new(
            &connection,
            &self.activities,
            &self.copies,
            self.shared.settings.tuning.receive_window(),
            Side::Server,
        );
        let mut tick = follow.tick();
        let mut closed = pin!(connection.closed());
        let mut drained = pin!(drained(
            self.shared.clone(),
            self.lanes.clone(),
            &connection
        ));
        // Not before the handshake: what a datagram brings could be a replay as well.
        let copies = self.copies.clone();
        let mut copies = pin!(copies.run(&connection));
        loop {
            tokio::select! {
                _ = &mut closed => return,
                () = &mut drained => return,
                never = &mut copies => match never {},
                () = sleep_until(tick) => tick = follow.tick(),
                Some(_) = self.opening.join_next() => {}
                stream = connection.accept_bi() => match stream {
                    Ok(stream) => self.open(stream),
                    // The connection is closed, which the first branch will say.
                    Err(_) => return,
                },
            }
        }
    }

    /// Reads a stream's preamble, in a task of its own so that a slow peer holds up nothing but its own lane.
    fn open(&mut self, stream: (SendStream, RecvStream)) {
        if self.shared.draining.is_cancelled() {
            return refuse(stream, reset::DRAINING);
        }
        let most = self.shared.settings.max_lanes_per_connection;
        // Streams whose preamble is still to come count: they may all become lanes. One more is for pings.
        if self.opening.len() > most {
            return refuse(stream, reset::TOO_MANY_LANES);
        }
        if self.bare {
            if !self.lanes.admit(most) {
                return refuse(stream, reset::TOO_MANY_LANES);
            }
            let info = PeerInfo::new(self.proof.clone(), Urgency::default());
            let lane = Lanes::lane(&self.lanes, stream, info, &self.activities);
            let lane = lane.behind(self.gates.as_ref().map(|gates| gates.gate(&self.proof)));
            let shared = self.shared.clone();
            self.opening
                .spawn(async move { hand_over(&shared, lane).await });
            return;
        }
        let shared = self.shared.clone();
        let lanes = self.lanes.clone();
        let proof = self.proof.clone();
        let gate = self.gates.as_ref().map(|gates| gates.gate(&proof));
        let activities = self.activities.clone();
        let copies = self.shared.settings.copies.then(|| self.copies.clone());
        self.opening.spawn(async move {
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
                        tracing::warn!(peer = %shown(&proof), most, "refusing a lane");
                        return refuse((send, recv), reset::TOO_MANY_LANES);
                    }
                    let info = PeerInfo::new(proof, urgency);
                    let mut lane = Lanes::lane(&lanes, (send, recv), info, &activities);
                    if let Some(copies) = copies {
                        let sends = urgency < Urgency::BULK;
                        lane = lane.copied(&copies, wire::PREAMBLE_LEN as u64, sends);
                    }
                    hand_over(&shared, lane.behind(gate)).await;
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
                    tracing::debug!(peer = %shown(&proof), %error, "refusing a stream");
                    refuse((send, recv), reset::BAD_PREAMBLE);
                }
            }
        });
    }
}

/// Once the shutdown has begun: waits for what is in flight, closes, and says how it went.
async fn drained(shared: Arc<Shared>, lanes: Arc<Lanes>, connection: &Connection) {
    shared.draining.cancelled().await;
    let finished = async {
        loop {
            let mut ended = pin!(lanes.ended.notified());
            ended.as_mut().enable();
            if lanes.open.load(Ordering::Acquire) == 0 {
                break;
            }
            ended.await;
        }
        let flushing = std::mem::take(&mut *lanes.lock());
        join_all(flushing).await;
    };
    let (code, reason) = match timeout(shared.settings.drain_timeout, finished).await {
        Ok(()) => (close::DRAINED, "shut down"),
        Err(_) => (close::DRAIN_EXPIRED, "shut down before all was finished"),
    };
    connection.close(code, reason.as_bytes());
}

/// Who a peer is, for a log.
fn shown(proof: &Proof) -> String {
    match proof.id() {
        Some(id) => id.fmt_short().to_string(),
        None => "not known yet".to_owned(),
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
        stream: (SendStream, RecvStream),
        info: PeerInfo,
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
        QuicIo::new(stream, info, activities).on_release(release)
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

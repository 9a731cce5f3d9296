//! The streams that a peer opens: reads their preambles, answers pings, hands lanes over.
//!
//! The three have bounds of their own, so a burst of pings cannot refuse a lane. While too many preambles are being read, further streams wait in QUIC.

use std::sync::Arc;

use iroh::endpoint::{Connection, ConnectionState, RecvStream, SendStream, VarInt};
use tokio::{
    task::JoinSet,
    time::{Instant, timeout},
};
use tower_iroh_layers::Urgency;

use super::{super::copies::Copies, super::io::Activities, Shared, early::Gates, lanes::Lanes};
use crate::{
    http2::Observer,
    peer::{PeerInfo, Proof},
    pool::OpenConnection,
    wire::{self, Kind, Preamble, reset},
};

/// How many preambles of one connection are read at a time.
const READING: usize = 32;
/// How many pings of one connection are answered at a time.
const PINGS: usize = 32;

type Stream = (SendStream, RecvStream);

/// What one connection's streams become. Dropping it ends what it has begun, except the lanes that tonic has taken.
pub(super) struct Streams {
    shared: Arc<Shared>,
    bare: bool,
    pub(super) proof: Proof,
    /// While the handshake is under way, if early data is on.
    pub(super) gates: Option<Gates>,
    pub(super) activities: Activities,
    pub(super) copies: Copies,
    pub(super) lanes: Lanes,
    pub(super) open: Arc<OpenConnection>,
    reading: JoinSet<Option<(Stream, Preamble)>>,
    pings: JoinSet<()>,
    /// Lanes on their way to tonic. The bound on lanes bounds them too.
    handing_over: JoinSet<()>,
}

impl Streams {
    pub(super) fn new(shared: Arc<Shared>, bare: bool, gates: Option<Gates>) -> Self {
        Self {
            shared,
            bare,
            proof: Proof::default(),
            gates,
            activities: Activities::default(),
            copies: Copies::of_stranger(),
            lanes: Lanes::default(),
            open: OpenConnection::new(Instant::now()),
            reading: JoinSet::new(),
            pings: JoinSet::new(),
            handing_over: JoinSet::new(),
        }
    }

    /// Takes streams until the connection has ended. Cancel safe.
    pub(super) async fn run<S: ConnectionState>(&mut self, connection: &Connection<S>) {
        // The handshake has granted some, because other protocols of the endpoint may need them. No more come after those.
        connection.set_max_concurrent_uni_streams(VarInt::from_u32(0));
        loop {
            tokio::select! {
                // What is done makes space before more comes in.
                biased;
                Some(read) = self.reading.join_next() => {
                    if let Ok(Some((stream, preamble))) = read {
                        self.begin(stream, preamble);
                    }
                }
                Some(_) = self.pings.join_next() => {}
                Some(_) = self.handing_over.join_next() => {}
                stream = connection.accept_bi(), if self.reading.len() < READING => match stream {
                    Ok(stream) => self.take(stream),
                    Err(_) => return,
                },
                stream = connection.accept_uni() => match stream {
                    Ok(stream) => self.refuse_unidirectional(stream),
                    Err(_) => return,
                },
            }
        }
    }

    fn take(&mut self, stream: Stream) {
        if self.shared.draining.is_cancelled() {
            return refuse(stream, reset::DRAINING);
        }
        if self.bare {
            return self.lane(stream, Urgency::default());
        }
        // In a task, so that a slow stream delays no other.
        let (shared, proof) = (self.shared.clone(), self.proof.clone());
        self.reading.spawn(read(shared, proof, stream));
    }

    /// Throws away what came and what will come on the stream, so that it takes nothing of the connection's window.
    fn refuse_unidirectional(&self, mut stream: RecvStream) {
        self.shared.refusals.add("unidirectional", |suppressed| {
            tracing::warn!(
                peer = shown(&self.proof),
                suppressed,
                "refused a unidirectional stream: the protocol has none"
            );
        });
        // It fails if the peer was faster.
        let _ = stream.stop(reset::UNIDIRECTIONAL);
    }

    /// Does what a preamble asks for.
    fn begin(&mut self, stream: Stream, preamble: Preamble) {
        match preamble.kind {
            Kind::Http2 => self.lane(stream, preamble.urgency),
            Kind::Ping if self.pings.len() < PINGS => {
                let most = self.shared.settings.preamble_timeout;
                let pong = pong(stream, preamble.urgency);
                // A ping that does not arrive in time gets no answer.
                self.pings.spawn(async move {
                    let _ = timeout(most, pong).await;
                });
            }
            // The reset is an answer as well: our clients count it as one.
            Kind::Ping => refuse(stream, reset::DROPPED),
        }
    }

    fn lane(&mut self, stream: Stream, urgency: Urgency) {
        let settings = &self.shared.settings;
        let most = settings.max_lanes_per_connection;
        let info = PeerInfo::new(self.proof.clone(), urgency);
        let mut lane = match self.lanes.open(most, stream, info, &self.activities) {
            Ok(lane) => lane,
            Err(stream) => {
                self.shared.refusals.add("lanes", |suppressed| {
                    let peer = shown(&self.proof);
                    tracing::warn!(
                        peer,
                        most,
                        suppressed,
                        "refused a lane: the connection has as many as it may"
                    );
                });
                return refuse(stream, reset::TOO_MANY_LANES);
            }
        };
        self.open.opened();
        let refusals = self.shared.refusals.clone();
        lane = lane.observed(Observer::new(self.open.clone(), refusals));
        if settings.copies && !self.bare {
            let sends = urgency < Urgency::BULK;
            lane = lane.copied(&self.copies, wire::PREAMBLE_LEN as u64, sends);
        }
        let gate = self.gates.as_ref().map(|gates| gates.gate(&self.proof));
        let (shared, lane) = (self.shared.clone(), lane.behind(gate));
        self.handing_over.spawn(async move {
            if let Err(lane) = shared.lanes.send(lane).await {
                lane.refuse(reset::DRAINING);
            }
        });
    }
}

/// Reads a stream's preamble, or refuses the stream.
async fn read(
    shared: Arc<Shared>,
    proof: Proof,
    (send, mut recv): Stream,
) -> Option<(Stream, Preamble)> {
    let mut bytes = [0; wire::PREAMBLE_LEN];
    let came = timeout(
        shared.settings.preamble_timeout,
        recv.read_exact(&mut bytes),
    )
    .await;
    let error = match came.map(|came| came.map(|()| Preamble::decode(bytes))) {
        Ok(Ok(Ok(preamble))) => return Some(((send, recv), preamble)),
        Ok(Ok(Err(unknown))) => unknown.to_string(),
        Ok(Err(ended)) => ended.to_string(),
        Err(late) => late.to_string(),
    };
    shared.refusals.add("preamble", |suppressed| {
        tracing::debug!(
            peer = shown(&proof),
            error,
            suppressed,
            "refused a stream: it has no preamble"
        );
    });
    refuse((send, recv), reset::BAD_PREAMBLE);
    None
}

/// The peer, for a log.
fn shown(proof: &Proof) -> String {
    match proof.id() {
        Some(id) => id.fmt_short().to_string(),
        None => "not known yet".to_owned(),
    }
}

async fn pong((mut send, mut recv): Stream, urgency: Urgency) {
    let _ = send.set_priority(i32::from(Urgency::LOWEST.get() - urgency.get()));
    let mut bytes = [0; wire::PING_LEN];
    if recv.read_exact(&mut bytes).await.is_ok() && send.write_all(&bytes).await.is_ok() {
        let _ = send.finish();
    }
}

fn refuse((mut send, mut recv): Stream, code: VarInt) {
    // Each fails if the peer was faster, and then there is nothing to refuse.
    let _ = send.reset(code);
    let _ = recv.stop(code);
}

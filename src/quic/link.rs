//! One QUIC connection to one peer, and its lanes.

use std::{
    sync::{
        Arc, OnceLock, Weak,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use futures_util::future::BoxFuture;
use iroh::{
    EndpointId,
    endpoint::{
        Connection, ConnectionError, OutgoingZeroRttConnection, RecvStream, SendStream, VarInt,
        ZeroRttStatus,
    },
};
use tokio::{
    sync::Notify,
    time::{Instant, error::Elapsed, timeout},
};
use tokio_util::task::AbortOnDropHandle;
use tower_iroh_layers::Incident;

use super::{
    Tuning,
    carrier::{Carrier, Complete},
    copies::Copies,
    driver::Driver,
    io::{Activities, Activity, QuicIo},
};
use crate::{
    error::{Error, ErrorKind},
    http2::{Carries, Explain, Http2, LaneSet, Lanes, NewStream, Opener},
    peer::{Path, PeerInfo, Proof, TransportKind},
    pool::{EarlyData, End, PeerStats, PoolHandle, Pooled, Runtime, Used, Uses, admission},
    wire::{self, Kind, Preamble, close, reset},
};

/// One QUIC connection to one peer.
///
/// Its driver is the only task that it owns; dropping the link ends it, the lanes, and the connection.
#[derive(Debug)]
pub struct Link {
    peer: EndpointId,
    carrier: Arc<Carrier>,
    proof: Proof,
    uses: Uses,
    lanes: LaneSet,
    activities: Activities,
    copies: Copies,
    /// With which code it was closed on this side.
    closed_for: OnceLock<VarInt>,
    ping_micros: AtomicU64,
    runtime: Runtime,
    tuning: Tuning,
    health_interval: Duration,
    idle_timeout: Duration,
    driver: OnceLock<AbortOnDropHandle<()>>,
    /// When another connection reached the peer, which did not answer on this one.
    superseded: OnceLock<Instant>,
    /// Asks the driver for a ping.
    knock: Arc<Notify>,
    /// Its loss, which is one failure however many calls it takes along.
    loss: Incident,
}

/// What a link is made with.
#[derive(Clone, Debug)]
pub(super) struct LinkSettings {
    pub(super) runtime: Runtime,
    pub(super) lanes: Lanes,
    pub(super) tuning: Tuning,
    pub(super) health_interval: Duration,
    pub(super) idle_timeout: Duration,
    /// Whether calls that may be done twice leave before the handshake is complete.
    pub(super) early_data: bool,
}

impl Link {
    pub(super) fn new(connection: Connection, uses: Uses, settings: LinkSettings) -> Arc<Self> {
        let (peer, proof) = (connection.remote_id(), Proof::of(&connection));
        Self::on(peer, Carrier::complete(connection), proof, uses, settings)
    }

    /// A link for calls that may be done twice, until [`completed`](Self::completed) makes it one for all. `peer` is who is being dialled: only it
    /// can read what is sent, and nothing that comes back is believed before the handshake is complete.
    pub(super) fn early(
        peer: EndpointId,
        connection: OutgoingZeroRttConnection,
        uses: Uses,
        settings: LinkSettings,
    ) -> Arc<Self> {
        let carrier = Carrier::early(connection);
        Self::on(peer, carrier, Proof::default(), uses, settings)
    }

    fn on(
        peer: EndpointId,
        carrier: Carrier,
        proof: Proof,
        uses: Uses,
        settings: LinkSettings,
    ) -> Arc<Self> {
        Arc::new(Self {
            peer,
            carrier: Arc::new(carrier),
            proof,
            uses,
            lanes: LaneSet::new(settings.lanes, settings.runtime.clone()),
            activities: Activities::default(),
            copies: Copies::new(),
            closed_for: OnceLock::new(),
            ping_micros: AtomicU64::new(0),
            runtime: settings.runtime,
            tuning: settings.tuning,
            health_interval: settings.health_interval,
            idle_timeout: settings.idle_timeout,
            driver: OnceLock::new(),
            superseded: OnceLock::new(),
            knock: Arc::default(),
            loss: Incident::new(),
        })
    }

    /// The handshake of an early one is complete.
    pub(super) fn completed(&self, status: ZeroRttStatus) {
        self.carrier.completed(status);
        let Some(complete) = self.carrier.get() else {
            return;
        };
        self.proof.complete(&complete.connection);
        if complete.early_data == Some(EarlyData::Rejected) {
            // The streams are gone. Nobody but the early calls has been let in yet, so no other call can meet their remains.
            self.lanes.renew();
        }
    }

    pub(crate) fn peer(&self) -> EndpointId {
        self.peer
    }

    /// Opens a stream of its own and says what it is for.
    pub(crate) async fn open_stream(&self, preamble: Preamble) -> Result<QuicIo, Error> {
        let opened = timeout(OPENING, self.carrier.open_bi()).await;
        let mut stream = self.opened(opened, preamble)?;
        tokio::io::AsyncWriteExt::write_all(&mut stream, &preamble.encode())
            .await
            .map_err(|_| self.why_lost())?;
        Ok(stream)
    }

    fn opened(
        &self,
        opened: Result<Result<(SendStream, RecvStream), ConnectionError>, Elapsed>,
        preamble: Preamble,
    ) -> Result<QuicIo, Error> {
        let Ok(opened) = opened else {
            let full = Error::new(ErrorKind::Exhausted, "the peer allows no further stream");
            return Err(full.at(self.peer()));
        };
        let stream = opened.map_err(|_| self.why_lost())?;
        let info = PeerInfo::new(self.proof.clone(), preamble.urgency);
        let mut stream = QuicIo::new(stream, info, &self.activities);
        if preamble.kind == Kind::Http2 && self.lanes.copies(preamble.urgency) {
            stream = stream.copied(&self.copies, 0, true);
        }
        Ok(stream)
    }

    /// Why the connection is gone, as a caller is told.
    fn why_lost(&self) -> Error {
        let lost = || Error::new(ErrorKind::Lost, "the lane was lost");
        self.own(self.closed().unwrap_or_else(lost))
    }

    /// What the end of the connection means, if it has ended.
    fn closed(&self) -> Option<Error> {
        let reason = self.carrier.close_reason()?;
        Some(Error::from_connection(&reason, self.activities.alive()))
    }

    /// Says of which connection an error tells.
    fn own(&self, error: Error) -> Error {
        let error = match (error.kind(), self.closed_for.get()) {
            // We closed it, because the peer had gone.
            (ErrorKind::Closed, Some(&close::UNHEALTHY)) => {
                Error::new(ErrorKind::Lost, "the peer answered no ping").caused_by(error)
            }
            (ErrorKind::Closed, Some(&close::FORBIDDEN)) => {
                admission::not_allowed().caused_by(error)
            }
            _ => error,
        };
        error.of(self.loss).at(self.peer())
    }

    /// What the end of a lane means for its calls, where the peer ended it with `code`.
    pub(crate) fn meaning(&self, code: Option<VarInt>) -> Error {
        match (self.carrier.close_reason(), refused(code)) {
            (None, Some(refused)) => self.own(refused),
            _ => self.why_lost(),
        }
    }

    /// When another connection reached the peer, which did not answer on this one.
    pub(super) fn superseded(&self) -> Option<Instant> {
        self.superseded.get().copied()
    }

    /// Pings the peer soon, so that QUIC learns of a path that has changed.
    pub(super) fn knock(&self) {
        self.knock.notify_one();
    }

    pub(super) fn end(&self, code: VarInt, reason: &str) {
        self.retire();
        // The first one is what the peer is told.
        let _ = self.closed_for.set(code);
        self.carrier.close(code, reason.as_bytes());
    }

    /// A ping was answered.
    pub(super) fn answered_after(&self, took: Duration) {
        let micros = u64::try_from(took.as_micros()).unwrap_or(u64::MAX);
        self.ping_micros.store(micros.max(1), Ordering::Relaxed);
    }

    /// The path in use and its smoothed round trip, as far as they are known.
    fn path(&self) -> Option<(Path, Duration)> {
        Path::of(&self.carrier.get()?.connection)
    }

    /// Nothing while the handshake is under way.
    fn stats_now(&self) -> Option<PeerStats> {
        let Complete {
            connection,
            at,
            early_data,
        } = self.carrier.get()?;
        let stats = connection.stats();
        let path = Path::of(connection);
        let ping = self.ping_micros.load(Ordering::Relaxed);
        let (copies_sent, copies_used) = self.copies.counts();
        Some(PeerStats {
            transport: TransportKind::Iroh,
            established_at: *at,
            last_used: SystemTime::now() - self.uses.last().elapsed(),
            bytes_sent: stats.udp_tx.bytes,
            bytes_received: stats.udp_rx.bytes,
            lost_packets: stats.lost_packets,
            sent_packets: stats.sent_packets,
            copies_sent,
            copies_used,
            rtt: path.as_ref().map(|(_, rtt)| *rtt),
            path: path.map(|(path, _)| path),
            ping: (ping > 0).then(|| Duration::from_micros(ping)),
            early_data: *early_data,
            open_calls: self.uses.open(),
            waiting_calls: self.lanes.waiting(),
            calls: self.uses.total(),
        })
    }
}

/// How long a stream's opening may take. It sends nothing that has to be answered; what can take time is the peer's limit on
/// streams.
const OPENING: Duration = Duration::from_secs(10);

/// What a lane was refused for.
fn refused(code: Option<VarInt>) -> Option<Error> {
    match code? {
        wire::reset::TOO_MANY_LANES => Some(Error::new(
            ErrorKind::Exhausted,
            "the peer takes no further lane",
        )),
        wire::reset::DRAINING => Some(Error::new(ErrorKind::Draining, "the peer is shutting down")),
        _ => None,
    }
}

impl Opener for Link {
    fn open(self: &Arc<Self>, new: NewStream) -> BoxFuture<'static, Result<Http2, Error>> {
        let (carrier, runtime) = (self.carrier.clone(), self.runtime.clone());
        let link = Arc::downgrade(self);
        let preamble = Preamble {
            kind: Kind::Http2,
            urgency: new.urgency,
        };
        Box::pin(async move {
            let opened = timeout(OPENING, carrier.open_bi()).await;
            // Held for a moment only: the link owns this task.
            let stream = match link.upgrade() {
                Some(link) => link.opened(opened, preamble)?,
                None => return Err(Error::new(ErrorKind::Closed, "the connection was closed")),
            };
            begin(stream, link, preamble, &runtime, new).await
        })
    }
}

/// Says what a stream is for, and begins HTTP/2 on it.
async fn begin(
    mut stream: QuicIo,
    link: Weak<Link>,
    preamble: Preamble,
    runtime: &Runtime,
    new: NewStream,
) -> Result<Http2, Error> {
    let lost = |link: Option<Arc<Link>>| match link {
        Some(link) => link.why_lost(),
        None => Error::new(ErrorKind::Lost, "the lane was lost"),
    };
    let lane = Arc::new(Lane {
        link: link.clone(),
        activity: stream.activity(),
    });
    let begun = timeout(OPENING, async {
        let said = tokio::io::AsyncWriteExt::write_all(&mut stream, &preamble.encode()).await;
        said.map_err(|_| lost(link.upgrade()))?;
        let confirm = new.confirm;
        let (http2, pings) = Http2::handshake(stream, lane, runtime, new).await?;
        if let (true, Some(mut pings)) = (confirm, pings) {
            http2.confirmed(&mut pings).await?;
        }
        Ok(http2)
    });
    begun.await.unwrap_or_else(|_| Err(lost(link.upgrade())))
}

/// One lane's stream: what its end means.
#[derive(Debug)]
struct Lane {
    /// A call on the lane keeps the link alive.
    link: Weak<Link>,
    activity: Arc<Activity>,
}

impl Explain for Lane {
    fn explain(&self, error: h2::Error) -> Error {
        let Some(link) = self.link.upgrade() else {
            return Error::from_h2(error, None);
        };
        let closed = link.closed();
        let refused = refused(self.activity.code());
        let error = link.own(match refused {
            Some(refused) if closed.is_none() && !error.is_reset() => refused.caused_by(error),
            _ => Error::from_h2(error, closed),
        });
        if error.kind() == ErrorKind::Draining {
            link.retire();
        }
        error
    }

    fn is_refused(&self, error: &h2::Error) -> bool {
        let closed = || self.link.upgrade()?.carrier.close_reason();
        // A reset is about one call.
        self.activity.code().is_some_and(reset::is_refusal)
            || !error.is_reset()
                && matches!(
                    closed(),
                    Some(ConnectionError::ApplicationClosed(frame)) if close::is_unused(frame.error_code)
                )
    }
}

impl Carries for Link {
    fn lanes(&self) -> &LaneSet {
        &self.lanes
    }

    fn took_early_data(&self) -> bool {
        let complete = self.carrier.get();
        complete.and_then(|it| it.early_data) == Some(EarlyData::Accepted)
    }
}

impl Used for Link {
    fn uses(&self) -> &Uses {
        &self.uses
    }
}

impl Pooled for Link {
    fn fate(&self) -> End {
        match self.closed() {
            // A connection on which nothing ever came back was refused, although its handshake succeeded.
            Some(closed) if !self.activities.alive() => End::Failed(self.own(closed)),
            _ => End::Closed,
        }
    }

    fn usable(&self) -> bool {
        !self.lanes.gate().is_closed() && self.carrier.close_reason().is_none()
    }

    fn retire(&self) {
        self.lanes.gate().close();
    }

    fn supersede(&self) {
        self.retire();
        let _ = self.superseded.set(Instant::now());
    }

    fn stats(&self) -> Option<PeerStats> {
        self.stats_now()
    }

    fn rtt(&self) -> Option<Duration> {
        self.path().map(|(_, rtt)| rtt)
    }

    fn evict(&self) {
        self.end(close::IDLE, "its place is needed");
    }

    fn close(&self) {
        self.end(close::CLIENT_CLOSED, "closed by the client");
    }

    fn installed(self: &Arc<Self>, gone: PoolHandle<Self>) {
        // What is in the pool has its handshake behind it.
        let Some(Complete { connection, .. }) = self.carrier.get() else {
            return;
        };
        let driver = Driver {
            link: Arc::downgrade(self),
            uses: self.uses.clone(),
            _gate: self.lanes.gate().clone().close_on_drop(),
            connection: connection.clone(),
            activities: self.activities.clone(),
            copies: self.copies.clone(),
            gone,
            knock: self.knock.clone(),
            window: self.tuning.receive_window(),
            health_interval: self.health_interval,
            idle_timeout: self.idle_timeout,
        };
        // Without a runtime nothing that it would watch moves either.
        if let Ok(task) = self.runtime.spawn(driver.run()) {
            // Called once per link; a second driver would have nothing to do.
            let _ = self.driver.set(task);
        }
    }
}

impl Drop for Link {
    fn drop(&mut self) {
        let (code, reason) = if self.lanes.gate().is_closed() {
            (close::RETIRED, "replaced")
        } else {
            (close::CLIENT_CLOSED, "closed by the client")
        };
        self.carrier.close(code, reason.as_bytes());
    }
}

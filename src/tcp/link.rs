//! The connections to one peer over TCP, one for each lane's stream.

use std::{
    convert::Infallible,
    pin::pin,
    sync::{Arc, Mutex, OnceLock, Weak},
    time::{Duration, SystemTime},
};

use futures_util::future::BoxFuture;
use h2::{Ping, PingPong};
use iroh::EndpointId;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::task::AbortOnDropHandle;
use tower_iroh_layers::Incident;

use super::{
    dial::{DialConfig, Dialled},
    health::{ConnectionHealth, LinkHealth},
    io::TcpIo,
};
use crate::{
    error::{Error, ErrorKind},
    http2::{Carries, Explain, GateGuard, Http2, LaneSet, Lanes, NewStream, Opener},
    lock::lock,
    peer::{Path, TcpAddr, TransportKind},
    pool::{
        End, Look, Patience, PeerStats, PoolHandle, Pooled, Runtime, Sign, Silence, Used, Uses,
        admission,
    },
};

/// How often idleness is looked at, at most.
const LOOK: Duration = Duration::from_secs(60);
/// How long the dial's connection waits for a lane before HTTP/2 begins on it: a server lets go of one on which nothing begins, and only
/// whoever reads sees that.
const UNCLAIMED: Duration = Duration::from_secs(1);
/// When a ping is to tell whether the peer is there. It is cheap, and the kernel does not say what it repeats.
const SILENCE: Patience = Patience {
    least: Duration::from_millis(250),
    looks: 1,
};
/// For how long a ping's answer is waited for, at most: over iroh two pings may fail, of 10 s each.
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// The connections to one peer over TCP: one for each stream of each lane, made when it is needed. The first comes with the dial.
///
/// A connection that ends, or that the peer refuses, fails the calls on it and no others. The link takes no further call when its last connection has
/// ended, or when the peer says that it shuts down. All that it loses is one incident.
#[derive(Debug)]
pub struct TcpLink {
    peer: EndpointId,
    remote: std::net::SocketAddr,
    uses: Uses,
    lanes: LaneSet,
    connections: Arc<Connections>,
    established_at: SystemTime,
    driver: OnceLock<AbortOnDropHandle<()>>,
    loss: Incident,
}

/// Makes a link's connections.
#[derive(Debug)]
struct Connections {
    peer: EndpointId,
    addr: TcpAddr,
    /// The dial's own connection, until a lane or a connector takes it.
    first: Mutex<Option<TcpIo>>,
    health: Arc<LinkHealth>,
    settings: LinkSettings,
}

/// What a link is made with.
#[derive(Clone, Debug)]
pub(super) struct LinkSettings {
    pub(super) dial: DialConfig,
    pub(super) dial_timeout: Duration,
    pub(super) runtime: Runtime,
    pub(super) lanes: Lanes,
    pub(super) health_interval: Duration,
    pub(super) idle_timeout: Duration,
}

impl Connections {
    /// The connection that the dial made, or another.
    async fn connect(&self) -> Result<TcpIo, Error> {
        if let Some(first) = lock(&self.first).take() {
            return Ok(first);
        }
        let dial = self.settings.dial.dial(self.peer, &self.addr);
        let dialled = match timeout(self.settings.dial_timeout, dial).await {
            Ok(dialled) => dialled,
            Err(_) => Err(late(self.settings.dial_timeout)),
        };
        let dialled = dialled.map_err(|error| error.at(self.peer))?;
        Ok(watched(dialled, &self.health))
    }
}

impl Connections {
    /// Begins HTTP/2 on a connection.
    async fn begin(&self, io: TcpIo, link: Weak<TcpLink>, new: NewStream) -> Result<Http2, Error> {
        let Some(health) = io.health().cloned() else {
            return Err(Error::new(ErrorKind::Internal, "nobody watches it"));
        };
        let lane = Arc::new(Lane {
            link,
            health: health.clone(),
            pings: OnceLock::new(),
        });
        let runtime = &self.settings.runtime;
        let confirm = new.confirm;
        let (http2, pings) = Http2::handshake(io, lane.clone(), runtime, new).await?;
        if let Some(mut pings) = pings {
            if confirm {
                http2.confirmed(&mut pings).await?;
            }
            let task = ping(pings, health, self.settings.health_interval);
            // The first and only one.
            let _ = lane.pings.set(runtime.spawn(task)?);
        }
        Ok(http2)
    }
}

/// A connection, and what is known of it.
fn watched(dialled: Dialled, health: &Arc<LinkHealth>) -> TcpIo {
    TcpIo::new(dialled.stream, dialled.id, dialled.remote).seen_by(health.connection())
}

impl TcpLink {
    pub(super) fn new(
        peer: EndpointId,
        addr: TcpAddr,
        first: Dialled,
        uses: Uses,
        settings: LinkSettings,
    ) -> Arc<Self> {
        let lanes = LaneSet::new(settings.lanes.clone(), settings.runtime.clone());
        let health = LinkHealth::new(first.rtt, lanes.gate().clone());
        Arc::new(Self {
            peer,
            remote: first.remote,
            uses,
            lanes,
            connections: Arc::new(Connections {
                peer,
                addr,
                first: Mutex::new(Some(watched(first, &health))),
                health,
                settings,
            }),
            established_at: SystemTime::now(),
            driver: OnceLock::new(),
            loss: Incident::new(),
        })
    }

    /// A connection for a client that speaks HTTP/2 itself: the one that the dial made, or another. After a failure the next one is paced.
    pub(super) async fn connect(&self) -> Result<(TcpIo, Arc<ConnectionHealth>), Error> {
        let health = self.health();
        health.due()?;
        let connected = self.connections.connect().await;
        let io = connected.inspect_err(|error| health.failed(error))?;
        let known = io.health().cloned();
        let known = known.ok_or_else(|| Error::new(ErrorKind::Internal, "nobody watches it"))?;
        Ok((io, known))
    }

    fn health(&self) -> &Arc<LinkHealth> {
        &self.connections.health
    }

    fn stats_now(&self) -> PeerStats {
        let (bytes_sent, bytes_received) = self.health().bytes();
        PeerStats {
            transport: TransportKind::Tcp,
            established_at: self.established_at,
            last_used: SystemTime::now() - self.uses.last().elapsed(),
            bytes_sent,
            bytes_received,
            lost_packets: 0,
            sent_packets: 0,
            copies_sent: 0,
            copies_used: 0,
            path: Some(Path::Direct(self.remote)),
            rtt: Some(self.health().rtt()),
            ping: self.health().ping(),
            early_data: None,
            open_calls: self.uses.open(),
            waiting_calls: self.lanes.waiting(),
            calls: self.uses.total(),
        }
    }

    /// What the end of a connection means for those who used it.
    pub(super) fn why_lost(&self, connection: &ConnectionHealth) -> Error {
        let why = connection.why().cloned();
        let why = why.unwrap_or_else(|| Error::new(ErrorKind::Lost, "the connection was lost"));
        match connection.alive() {
            true => self.own(why),
            // Nothing was lost that had been there, so it is an event of its own.
            false => why.at(self.peer),
        }
    }

    /// Says of which link an error tells.
    fn own(&self, error: Error) -> Error {
        error.of(self.loss).at(self.peer)
    }

    fn end(&self, why: Error) {
        self.health().close(why);
    }
}

/// Pings the peer on one connection, at each interval and when it is asked to, and closes that connection when no answer comes.
async fn ping(mut pings: PingPong, health: Arc<ConnectionHealth>, interval: Duration) {
    loop {
        let _ = timeout(interval, health.suspected()).await;
        let asked = Instant::now();
        match timeout(PING_TIMEOUT.min(interval * 2), pings.ping(Ping::opaque())).await {
            Ok(Ok(_)) => health.answered(asked.elapsed()),
            // The connection is gone, and has said why.
            Ok(Err(_)) => return,
            Err(_) => {
                tracing::info!("closing a connection that answers no ping");
                let silent = Error::new(ErrorKind::Lost, "the peer answers no ping");
                return health.close(silent);
            }
        }
    }
}

pub(super) fn late(most: Duration) -> Error {
    let message = format!("the peer did not answer within {most:?}");
    Error::new(ErrorKind::DialTimeout, message)
}

impl Opener for TcpLink {
    /// TCP knows no priorities: the calls themselves say how urgent they are.
    fn open(self: &Arc<Self>, new: NewStream) -> BoxFuture<'static, Result<Http2, Error>> {
        let (connections, link) = (self.connections.clone(), Arc::downgrade(self));
        Box::pin(async move {
            let io = connections.connect().await?;
            let most = connections.settings.dial_timeout;
            let begun = timeout(most, connections.begin(io, link, new)).await;
            begun.unwrap_or_else(|_| Err(late(most).at(connections.peer)))
        })
    }
}

impl Carries for TcpLink {
    fn lanes(&self) -> &LaneSet {
        &self.lanes
    }
}

/// One lane's connection: what its end means.
#[derive(Debug)]
struct Lane {
    /// A call on the lane keeps the link.
    link: Weak<TcpLink>,
    health: Arc<ConnectionHealth>,
    pings: OnceLock<AbortOnDropHandle<()>>,
}

impl Explain for Lane {
    fn explain(&self, error: h2::Error) -> Error {
        let Some(link) = self.link.upgrade() else {
            return Error::from_h2(error, None);
        };
        let error = if error.is_io() || self.is_refused(&error) {
            link.why_lost(&self.health)
        } else {
            link.own(Error::from_h2(error, None))
        };
        if error.kind() == ErrorKind::Draining {
            link.retire();
        }
        error
    }

    fn is_refused(&self, error: &h2::Error) -> bool {
        error.is_go_away() && error.is_remote() && self.health.refused()
    }
}

impl Used for TcpLink {
    fn uses(&self) -> &Uses {
        &self.uses
    }
}

impl Pooled for TcpLink {
    fn usable(&self) -> bool {
        !self.lanes.gate().is_closed()
    }

    fn fate(&self) -> End {
        match self.health().why() {
            // A link on which nothing ever came back was refused, whatever the handshake said.
            Some(why) if !self.health().alive() => End::Failed(why.clone().at(self.peer)),
            _ => End::Closed,
        }
    }

    fn retire(&self) {
        self.lanes.gate().close();
    }

    fn stats(&self) -> Option<PeerStats> {
        Some(self.stats_now())
    }

    fn rtt(&self) -> Option<Duration> {
        Some(self.health().rtt())
    }

    fn evict(&self) {
        self.end(Error::new(
            ErrorKind::Closed,
            "the connection was closed on this side: its place was needed",
        ));
    }

    fn close(&self) {
        self.end(Error::new(
            ErrorKind::Closed,
            "the connection was closed on this side",
        ));
    }

    fn installed(self: &Arc<Self>, gone: PoolHandle<Self>) {
        let driver = drive(
            Arc::downgrade(self),
            self.connections.clone(),
            self.uses.clone(),
            gone,
            self.lanes.gate().clone().close_on_drop(),
        );
        // Without a runtime nothing that it would watch moves either.
        if let Ok(task) = self.connections.settings.runtime.spawn(driver) {
            // Called once per link; a second driver would have nothing to do.
            let _ = self.driver.set(task);
        }
    }
}

/// Reports that the peer does not answer while calls wait, and that it answers again. A silent peer is dialled beside the link: TCP repeats what was lost at
/// ever longer intervals, and after a cut of seconds a new connection is up before the next of them.
async fn watch_silence(
    link: &Weak<TcpLink>,
    health: &LinkHealth,
    uses: &Uses,
    gone: &PoolHandle<TcpLink>,
) -> Infallible {
    let mut silence = Silence::new(SILENCE);
    loop {
        let Some(next) = silence.next_look(uses.open() > 0) else {
            uses.used().await;
            continue;
        };
        sleep(next).await;
        let (sent, received) = health.bytes();
        let sign = silence.look(Look {
            now: std::time::Instant::now(),
            path: (),
            sent,
            received,
            rtt: health.rtt(),
            waiting: uses.open() > 0,
        });
        let report = |tell: fn(&PoolHandle<TcpLink>, &Arc<TcpLink>)| {
            if let Some(link) = link.upgrade() {
                tell(gone, &link);
            }
        };
        match sign {
            Sign::Nothing => {}
            // The first ping tells whether the peer is there and only takes its time.
            Sign::Ping if silence.pings() == 1 => health.suspect(),
            Sign::Ping => report(PoolHandle::silent),
            Sign::Heard => report(PoolHandle::heard),
        }
    }
}

/// Says when a link is over, and ends it when it is idle. Holds the link weakly: the link owns this task. A link that nobody watches over takes no
/// further call.
async fn drive(
    link: Weak<TcpLink>,
    connections: Arc<Connections>,
    uses: Uses,
    gone: PoolHandle<TcpLink>,
    _gate: GateGuard,
) {
    let (health, idle_timeout) = (&connections.health, connections.settings.idle_timeout);
    if timeout(UNCLAIMED, health.over()).await.is_err() {
        let Some(link) = link.upgrade() else { return };
        if lock(&connections.first).is_some() {
            link.lanes.warm(&link);
        }
    }
    let every = LOOK.min(idle_timeout / 4).max(Duration::from_millis(1));
    let mut silence = pin!(watch_silence(&link, health, &uses, &gone));
    let mut revoked = pin!(gone.revoked());
    loop {
        let over = tokio::select! {
            () = health.over() => true,
            () = sleep(every) => false,
            never = &mut silence => match never {},
            () = &mut revoked => {
                if let Some(link) = link.upgrade() {
                    gone.report(&link, End::Closed);
                    link.end(admission::not_allowed());
                }
                return;
            }
        };
        let Some(link) = link.upgrade() else { return };
        if over {
            gone.report(&link, link.fate());
            return;
        }
        let idle = link.uses.open() == 0 && link.uses.last().elapsed() >= idle_timeout;
        if idle && gone.report(&link, End::Idle) {
            link.evict();
            return;
        }
    }
}

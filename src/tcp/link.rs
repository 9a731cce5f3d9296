//! The connections to one peer over TCP, one for each lane's stream.

use std::{
    sync::{
        Arc, Mutex, OnceLock, Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, SystemTime},
};

use h2::{Ping, PingPong};
use iroh::EndpointId;
use tokio::{
    task::JoinSet,
    time::{Instant, sleep, timeout},
};
use tokio_util::task::AbortOnDropHandle;
use tower_iroh_layers::{Incident, Urgency};

use super::{
    dial::{DialConfig, Dialled},
    health::LinkHealth,
    io::TcpIo,
};
use crate::{
    error::{Error, ErrorKind},
    http2::{Carries, Explain, Http2, LaneSet, Lanes, Opener},
    lock::lock,
    peer::{Path, TcpAddr, TransportKind},
    pool::{End, PeerStats, PoolHandle, Pooled, Runtime, Used, Uses},
};

/// How often idleness is looked at, at most.
const LOOK: Duration = Duration::from_secs(60);
/// How long the dial's connection waits for a lane before HTTP/2 begins on it: a server lets go of one on which nothing begins, and only
/// whoever reads sees that.
const UNCLAIMED: Duration = Duration::from_secs(1);
/// For how long a ping's answer is waited for, at most: over iroh two pings may fail, of 10 s each.
const PING_TIMEOUT: Duration = Duration::from_secs(20);

/// What leads to one peer over TCP: a connection for each stream of each lane, made when it is needed. The first comes with the dial and
/// waits for the first lane.
///
/// The first that breaks, or that the peer closes, makes all of it take no further call; calls on the others go on. All that it loses is one
/// incident.
///
/// It owns a task that watches over it and one per lane that pings; dropping the link ends them, and the connections.
#[derive(Debug)]
pub struct TcpLink {
    peer: EndpointId,
    addr: TcpAddr,
    first: Mutex<Option<Dialled>>,
    /// The first one, where it has waited for long.
    begun: Mutex<Option<Http2>>,
    remote: std::net::SocketAddr,
    settings: LinkSettings,
    uses: Uses,
    lanes: LaneSet,
    health: Arc<LinkHealth>,
    /// Takes no further call: the peer has said GOAWAY, or our pool has let it go.
    retired: AtomicBool,
    established_at: SystemTime,
    pings: Mutex<JoinSet<()>>,
    driver: OnceLock<AbortOnDropHandle<()>>,
    loss: Incident,
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

impl TcpLink {
    pub(super) fn new(
        peer: EndpointId,
        addr: TcpAddr,
        first: Dialled,
        uses: Uses,
        settings: LinkSettings,
    ) -> Arc<Self> {
        Arc::new(Self {
            peer,
            addr,
            remote: first.remote,
            uses,
            lanes: LaneSet::new(settings.lanes.clone(), settings.runtime.clone()),
            health: Arc::new(LinkHealth::new(first.rtt)),
            first: Mutex::new(Some(first)),
            begun: Mutex::default(),
            settings,
            retired: AtomicBool::new(false),
            established_at: SystemTime::now(),
            pings: Mutex::default(),
            driver: OnceLock::new(),
            loss: Incident::new(),
        })
    }

    /// A connection for whoever needs one: the one that the dial made, or another.
    pub(super) async fn stream(&self) -> Result<TcpIo, Error> {
        let first = lock(&self.first).take();
        let dialled = match first {
            Some(first) => first,
            None => self.dial().await.inspect_err(|error| {
                // Whoever is next dials as the pool sees fit.
                self.health.end(error.clone());
            })?,
        };
        Ok(self.watched(dialled))
    }

    fn watched(&self, dialled: Dialled) -> TcpIo {
        let closing = self.health.closing();
        let end = async move {
            closing.cancelled().await;
            std::io::Error::new(std::io::ErrorKind::ConnectionAborted, "closed on this side")
        };
        TcpIo::new(dialled.stream, dialled.id, dialled.remote)
            .seen_by(self.health.clone())
            .until(Box::pin(end))
    }

    /// Begins HTTP/2 on the dial's connection, if nobody has come for it.
    async fn begin(self: &Arc<Self>) {
        let unclaimed = lock(&self.first).take();
        if let Some(first) = unclaimed {
            // What goes wrong the connection itself has noted.
            if let Ok(http2) = self.http2(self.watched(first)).await {
                *lock(&self.begun) = Some(http2);
            }
        }
    }

    async fn http2(self: &Arc<Self>, io: TcpIo) -> Result<Http2, Error> {
        let lane = Arc::new(Lane {
            link: Arc::downgrade(self),
        });
        let (http2, pings) = Http2::handshake_with_pings(io, lane)
            .await
            .map_err(|error| self.own(Error::from_h2(error, None)))?;
        if let Some(pings) = pings {
            self.watch(pings);
        }
        Ok(http2)
    }

    async fn dial(&self) -> Result<Dialled, Error> {
        let dial = self.settings.dial.dial(self.peer, &self.addr);
        let dialled = match timeout(self.settings.dial_timeout, dial).await {
            Ok(dialled) => dialled,
            Err(_) => Err(late(self.settings.dial_timeout)),
        };
        dialled.map_err(|error| error.at(self.peer))
    }

    fn stats_now(&self) -> PeerStats {
        let (bytes_sent, bytes_received) = self.health.bytes();
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
            rtt: Some(self.health.rtt()),
            ping: self.health.ping(),
            early_data: None,
            open_calls: self.uses.open(),
            calls: self.uses.total(),
        }
    }

    /// Whether the peer has said that it takes no connection.
    pub(super) fn is_refused(&self) -> bool {
        self.health.refused()
    }

    /// What the end of a connection means for who used it.
    pub(super) fn why_lost(&self) -> Error {
        let why = self.health.why().cloned();
        self.own(why.unwrap_or_else(|| Error::new(ErrorKind::Lost, "the connection was lost")))
    }

    /// Says of which connection an error tells.
    fn own(&self, error: Error) -> Error {
        error.of(self.loss).at(self.peer)
    }

    fn end(&self, why: Error) {
        self.retire();
        self.health.close(why);
    }

    /// Watches over a lane: whether its peer answers, and how fast.
    fn watch(&self, mut pings: PingPong) {
        let (health, interval) = (self.health.clone(), self.settings.health_interval);
        let mut tasks = lock(&self.pings);
        while tasks.try_join_next().is_some() {}
        tasks.spawn(async move {
            loop {
                sleep(interval).await;
                let asked = Instant::now();
                match timeout(PING_TIMEOUT.min(interval * 2), pings.ping(Ping::opaque())).await {
                    Ok(Ok(_)) => health.answered(asked.elapsed()),
                    // The lane is gone, and its stream has said why.
                    Ok(Err(_)) => return,
                    Err(_) => {
                        tracing::info!("closing a connection that answers no ping");
                        let silent = Error::new(ErrorKind::Lost, "the peer answers no ping");
                        return health.close(silent);
                    }
                }
            }
        });
    }
}

pub(super) fn late(most: Duration) -> Error {
    let message = format!("the peer did not answer within {most:?}");
    Error::new(ErrorKind::DialTimeout, message)
}

impl Opener for TcpLink {
    /// TCP knows no priorities: the calls themselves say how urgent they are.
    async fn open(self: &Arc<Self>, _: Urgency) -> Result<Http2, Error> {
        let begun = lock(&self.begun).take();
        match begun {
            Some(begun) => Ok(begun),
            None => self.http2(self.stream().await?).await,
        }
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
    /// Whoever has a call on the lane keeps the link.
    link: Weak<TcpLink>,
}

impl Explain for Lane {
    fn explain(&self, error: h2::Error) -> Error {
        let Some(link) = self.link.upgrade() else {
            return Error::from_h2(error, None);
        };
        let error = if error.is_io() || self.is_refused(&error) {
            link.why_lost()
        } else {
            link.own(Error::from_h2(error, None))
        };
        if error.kind() == ErrorKind::Draining {
            link.retire();
        }
        error
    }

    fn is_refused(&self, error: &h2::Error) -> bool {
        let link = self.link.upgrade();
        error.is_go_away() && error.is_remote() && link.is_some_and(|link| link.health.refused())
    }
}

impl Used for TcpLink {
    fn uses(&self) -> &Uses {
        &self.uses
    }
}

impl Pooled for TcpLink {
    fn usable(&self) -> bool {
        !self.retired.load(Ordering::Acquire) && !self.health.is_over()
    }

    fn fate(&self) -> End {
        match self.health.why() {
            // A connection on which nothing ever came back was refused, whatever the handshake said.
            Some(_) if !self.health.alive() => End::Failed(self.why_lost()),
            _ => End::Closed,
        }
    }

    fn retire(&self) {
        self.retired.store(true, Ordering::Release);
    }

    fn stats(&self) -> Option<PeerStats> {
        Some(self.stats_now())
    }

    fn rtt(&self) -> Option<Duration> {
        Some(self.health.rtt())
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
            self.health.clone(),
            gone,
            self.settings.idle_timeout,
        );
        // Without a runtime nothing that it would watch moves either.
        if let Ok(task) = self.settings.runtime.spawn(driver) {
            // Called once per link; a second driver would have nothing to do.
            let _ = self.driver.set(task);
        }
    }
}

/// Says when a link is over, and ends it when it is idle. Holds the link weakly: the link owns this task.
async fn drive(
    link: Weak<TcpLink>,
    health: Arc<LinkHealth>,
    gone: PoolHandle<TcpLink>,
    idle_timeout: Duration,
) {
    if timeout(UNCLAIMED, health.over()).await.is_err() {
        let Some(link) = link.upgrade() else { return };
        link.begin().await;
    }
    let every = LOOK.min(idle_timeout / 4).max(Duration::from_millis(1));
    loop {
        let over = timeout(every, health.over()).await.is_ok();
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
